//! The preference losses: one list. A row holds the name, what it is, the formula for the GPU and the same formula with
//! its derivatives in f64; `--help`, the kernel's text, the tests and the documents read this list. Names and
//! conventions are TRL's.
//!
//! c and r are the log-ratios log π − log π_ref of the chosen and the rejected answer (summed over tokens), nc and nr
//! their lengths in tokens.

/// What a loss sees of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Log-ratio of the chosen answer.
    pub c: f64,
    /// Log-ratio of the rejected answer.
    pub r: f64,
    /// Tokens of the chosen answer.
    pub nc: f64,
    /// Tokens of the rejected answer.
    pub nr: f64,
    /// β
    pub beta: f64,
    /// Label smoothing ε.
    pub eps: f64,
}

/// One loss.
pub struct Loss {
    /// TRL's name.
    pub name: &'static str,
    /// What it is and where it comes from.
    pub about: &'static str,
    /// WGSL statements that set `loss`, `dc` and `dr` from `c`, `r`, `nc`, `nr`, `beta`, `eps`.
    pub wgsl: &'static str,
    /// (loss, dloss/dc, dloss/dr)
    pub twin: fn(Seen) -> (f64, f64, f64),
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// A loss that depends on c − r alone: (f, df/dx) at x = β (c − r).
fn of_margin(s: Seen, f: impl Fn(f64) -> (f64, f64)) -> (f64, f64, f64) {
    let (loss, d) = f(s.beta * (s.c - s.r));
    (loss, d * s.beta, -d * s.beta)
}

/// Every loss.
pub const LOSSES: &[Loss] = &[
    Loss {
        name: "sigmoid",
        about: "DPO (arXiv 2305.18290), with label smoothing cDPO",
        wgsl: "let x = beta * (c - r);
            loss = -(1.0 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x);
            dc = beta * (eps * sigmoid(x) - (1.0 - eps) * sigmoid(-x));
            dr = -dc;",
        twin: |s| {
            of_margin(s, |x| {
                let loss = -(1.0 - s.eps) * log_sigmoid(x) - s.eps * log_sigmoid(-x);
                (loss, s.eps * sigmoid(x) - (1.0 - s.eps) * sigmoid(-x))
            })
        },
    },
    Loss {
        name: "hinge",
        about: "SLiC (arXiv 2305.10425)",
        wgsl: "let x = beta * (c - r);
            loss = max(1.0 - x, 0.0);
            dc = select(0.0, -beta, x < 1.0);
            dr = -dc;",
        twin: |s| of_margin(s, |x| ((1.0 - x).max(0.0), if x < 1.0 { -1.0 } else { 0.0 })),
    },
    Loss {
        name: "ipo",
        about: "IPO (arXiv 2310.12036), per token",
        wgsl: "let x = c / nc - r / nr - 0.5 / beta;
            loss = x * x;
            dc = 2.0 * x / nc;
            dr = -2.0 * x / nr;",
        twin: |s| {
            let x = s.c / s.nc - s.r / s.nr - 0.5 / s.beta;
            (x * x, 2.0 * x / s.nc, -2.0 * x / s.nr)
        },
    },
    Loss {
        name: "robust",
        about: "robust DPO (arXiv 2403.00409): unbiased under flipped labels",
        wgsl: "let x = beta * (c - r);
            loss = (-(1.0 - eps) * log_sigmoid(x) + eps * log_sigmoid(-x)) / (1.0 - 2.0 * eps);
            dc = -beta * ((1.0 - eps) * sigmoid(-x) + eps * sigmoid(x)) / (1.0 - 2.0 * eps);
            dr = -dc;",
        twin: |s| {
            of_margin(s, |x| {
                let z = 1.0 - 2.0 * s.eps;
                let loss = (-(1.0 - s.eps) * log_sigmoid(x) + s.eps * log_sigmoid(-x)) / z;
                (loss, -((1.0 - s.eps) * sigmoid(-x) + s.eps * sigmoid(x)) / z)
            })
        },
    },
    Loss {
        name: "sigmoid_norm",
        about: "DPO on log-ratios per token",
        wgsl: "let x = beta * (c / nc - r / nr);
            loss = -(1.0 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x);
            let d = beta * (eps * sigmoid(x) - (1.0 - eps) * sigmoid(-x));
            dc = d / nc;
            dr = -d / nr;",
        twin: |s| {
            let x = s.beta * (s.c / s.nc - s.r / s.nr);
            let d = s.beta * (s.eps * sigmoid(x) - (1.0 - s.eps) * sigmoid(-x));
            (-(1.0 - s.eps) * log_sigmoid(x) - s.eps * log_sigmoid(-x), d / s.nc, -d / s.nr)
        },
    },
    Loss {
        name: "apo_zero",
        about: "APO-zero (arXiv 2408.06266): chosen up, rejected down",
        wgsl: "let a = sigmoid(beta * c);
            let b = sigmoid(beta * r);
            loss = 1.0 - a + b;
            dc = -beta * a * (1.0 - a);
            dr = beta * b * (1.0 - b);",
        twin: |s| {
            let (a, b) = (sigmoid(s.beta * s.c), sigmoid(s.beta * s.r));
            (1.0 - a + b, -s.beta * a * (1.0 - a), s.beta * b * (1.0 - b))
        },
    },
    Loss {
        name: "apo_down",
        about: "APO-down (arXiv 2408.06266): both down, rejected more",
        wgsl: "let a = sigmoid(beta * c);
            let b = sigmoid(beta * (c - r));
            loss = a + 1.0 - b;
            dr = beta * b * (1.0 - b);
            dc = beta * a * (1.0 - a) - dr;",
        twin: |s| {
            let (a, b) = (sigmoid(s.beta * s.c), sigmoid(s.beta * (s.c - s.r)));
            let (da, db) = (s.beta * a * (1.0 - a), s.beta * b * (1.0 - b));
            (a + 1.0 - b, da - db, db)
        },
    },
    Loss {
        name: "nca_pair",
        about: "NCA (arXiv 2402.05369) on pairs",
        wgsl: "let x = beta * c;
            let y = beta * r;
            loss = -log_sigmoid(x) - 0.5 * log_sigmoid(-x) - 0.5 * log_sigmoid(-y);
            dc = beta * (0.5 * sigmoid(x) - sigmoid(-x));
            dr = 0.5 * beta * sigmoid(y);",
        twin: |s| {
            let (x, y) = (s.beta * s.c, s.beta * s.r);
            let loss = -log_sigmoid(x) - 0.5 * log_sigmoid(-x) - 0.5 * log_sigmoid(-y);
            (loss, s.beta * (0.5 * sigmoid(x) - sigmoid(-x)), 0.5 * s.beta * sigmoid(y))
        },
    },
    Loss {
        name: "sppo_hard",
        about: "SPPO (arXiv 2405.00675) with hard labels",
        wgsl: "let x = c - 0.5 / beta;
            let y = r + 0.5 / beta;
            loss = x * x + y * y;
            dc = 2.0 * x;
            dr = 2.0 * y;",
        twin: |s| {
            let (x, y) = (s.c - 0.5 / s.beta, s.r + 0.5 / s.beta);
            (x * x + y * y, 2.0 * x, 2.0 * y)
        },
    },
    Loss {
        name: "exo_pair",
        about: "EXO (arXiv 2402.00856) on pairs; label smoothing must be above 0 (0 is taken as 1e-3)",
        wgsl: "let e = select(eps, 1.0e-3, eps == 0.0);
            let x = beta * (c - r);
            let a = sigmoid(x);
            let b = sigmoid(-x);
            let u = log_sigmoid(x) - log(1.0 - e);
            let v = log_sigmoid(-x) - log(e);
            loss = a * u + b * v;
            dc = beta * a * b * (u - v);
            dr = -dc;",
        twin: |s| {
            of_margin(s, |x| {
                let e = if s.eps == 0.0 { 1e-3 } else { s.eps };
                let (a, b) = (sigmoid(x), sigmoid(-x));
                let (u, v) = (log_sigmoid(x) - (-e).ln_1p(), log_sigmoid(-x) - e.ln());
                (a * u + b * v, a * b * (u - v))
            })
        },
    },
    Loss {
        name: "bco_pair",
        about: "BCO (arXiv 2404.04656) on pairs, without a running reward shift",
        wgsl: "loss = -log_sigmoid(beta * c) - log_sigmoid(-beta * r);
            dc = -beta * sigmoid(-beta * c);
            dr = beta * sigmoid(beta * r);",
        twin: |s| {
            let loss = -log_sigmoid(s.beta * s.c) - log_sigmoid(-s.beta * s.r);
            (loss, -s.beta * sigmoid(-s.beta * s.c), s.beta * sigmoid(s.beta * s.r))
        },
    },
    Loss {
        name: "discopop",
        about: "DiscoPOP (arXiv 2406.08414): log-ratio modulated, temperature 0.05",
        wgsl: "let x = beta * (c - r);
            let m = sigmoid(x / 0.05);
            let ex = exp(-min(max(x, -80.0), 80.0));
            let dm = m * (1.0 - m) / 0.05;
            loss = -log_sigmoid(x) * (1.0 - m) + ex * m;
            dc = beta * (-sigmoid(-x) * (1.0 - m) + log_sigmoid(x) * dm - ex * m + ex * dm);
            dr = -dc;",
        twin: |s| {
            of_margin(s, |x| {
                let (m, ex) = (sigmoid(x / 0.05), (-x.clamp(-80.0, 80.0)).exp());
                let dm = m * (1.0 - m) / 0.05;
                let loss = -log_sigmoid(x) * (1.0 - m) + ex * m;
                (loss, -sigmoid(-x) * (1.0 - m) + log_sigmoid(x) * dm - ex * m + ex * dm)
            })
        },
    },
];

/// The row of the loss called `name`.
///
/// # Errors
/// [`crate::Error::Input`] that lists the names.
pub fn index(name: &str) -> crate::Result<usize> {
    LOSSES.iter().position(|l| l.name == name).ok_or_else(|| {
        let names: Vec<&str> = LOSSES.iter().map(|l| l.name).collect();
        crate::Error::Input(format!("no loss is called '{name}'; there are: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_slopes() {
        for loss in LOSSES {
            for (c, r, eps) in [(0.3, -0.8, 0.0), (-2.0, 1.0, 0.1), (0.0, 0.0, 0.2), (4.0, -7.0, 0.05)] {
                let s = Seen { c, r, nc: 5.0, nr: 9.0, beta: 0.3, eps };
                let f = |c: f64, r: f64| (loss.twin)(Seen { c, r, ..s }).0;
                let (_, dc, dr) = (loss.twin)(s);
                let h = 1e-6;
                let (nc, nr) = ((f(c + h, r) - f(c - h, r)) / (2.0 * h), (f(c, r + h) - f(c, r - h)) / (2.0 * h));
                assert!((nc - dc).abs() < 1e-6 * (1.0 + dc.abs()), "{} dc {dc} slope {nc}", loss.name);
                assert!((nr - dr).abs() < 1e-6 * (1.0 + dr.abs()), "{} dr {dr} slope {nr}", loss.name);
            }
        }
    }
}
