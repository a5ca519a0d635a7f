//! The preference losses in one list. A row holds a loss's name, what it is, what it needs, and the loss with its
//! derivatives by the summed log-probs, in f64 on the host: between forward and backward a step moves only a few
//! numbers for each sequence. `--help`, the run's configuration, the tests and the documents read this list. Names and
//! conventions are TRL's.

// Circle: a row's formula reads the options of its objective, and the objective is made of rows.
use super::objective::{Objective, Seen, Slope};

/// The kind of a loss, which decides with what it can be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Needs pairs and a reference, and uses only the margin between them, so every f-divergence applies.
    Margin,
    /// Needs pairs and a reference, and knows the reverse KL only.
    Reference,
    /// Needs pairs, but no reference.
    Free,
    /// Needs the chosen answers alone; it goes with any loss on pairs.
    Chosen,
    /// Needs single answers with labels, and a reference.
    Unpaired,
}

/// How a loss is computed.
pub enum Of {
    /// Computes the loss of each pair by itself.
    Pair(fn(&Seen, &Objective) -> Slope),
    /// Computes the losses of all pairs of a step together; so a step of several micro-batches runs forward twice.
    Step(fn(&[Seen], &Objective) -> Vec<Slope>),
}

/// One row of the list of losses.
pub struct Loss {
    /// The loss's name in TRL.
    pub name: &'static str,
    /// What the loss is and where it comes from.
    pub about: &'static str,
    /// The kind of the loss.
    pub family: Family,
    /// What the loss needs beyond what its family says.
    pub needs: Needs,
    /// Computes the loss and its derivatives.
    pub of: Of,
}

/// What a loss needs or allows beyond what its family says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
    /// Whether it reads the prompt's log-probs.
    pub prompt: bool,
    /// Whether it reads the log-probs of mismatched answers, which stand in the place of the rejected ones.
    pub mismatched: bool,
    /// Whether it sorts the pairs of a step by their values, so that no pair has a weight that moves with the model.
    pub sorts: bool,
    /// The number below which label smoothing must stay; None where 1 is fine.
    pub smoothing_below: Option<f32>,
}

impl Needs {
    const NOTHING: Needs = Needs { prompt: false, mismatched: false, sorts: false, smoothing_below: None };
}

impl Family {
    /// Whether losses of this family are on single answers with labels.
    pub(super) fn unpaired(self) -> bool {
        self == Family::Unpaired
    }

    /// Whether losses of this family read the reference's log-probs.
    pub(super) fn reads_reference(self) -> bool {
        !matches!(self, Family::Free | Family::Chosen)
    }

    /// Whether LD-DPO's weights are defined for losses of this family.
    pub(super) fn takes_ld(self) -> bool {
        !matches!(self, Family::Free | Family::Unpaired)
    }

    /// Whether an f-divergence is defined for losses of this family, or takes nothing from them.
    pub(super) fn takes_divergence(self) -> bool {
        matches!(self, Family::Margin | Family::Chosen)
    }
}

impl Loss {
    const fn with(self, needs: Needs) -> Loss {
        Loss { needs, ..self }
    }

    /// Whether the loss takes each pair by itself, so that a pair may have its own weight and soft label.
    pub(super) fn takes_pairs_apart(&self) -> bool {
        !self.couples() && !self.family.unpaired()
    }

    /// Whether WPO's weights are defined: for that each pair is compared with a reference by itself.
    pub(super) fn takes_wpo(&self) -> bool {
        matches!(self.family, Family::Margin | Family::Reference) && !self.needs.sorts
    }

    /// Whether the pairs of a step depend on one another.
    pub(super) fn couples(&self) -> bool {
        matches!(self.of, Of::Step(_))
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// (loss, slope) of −log σ(x) if a fraction `eps` of the labels is wrong.
fn smoothed(x: f64, eps: f64) -> (f64, f64) {
    (-(1.0 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x), eps * sigmoid(x) - (1.0 - eps) * sigmoid(-x))
}

fn hinge(x: f64) -> (f64, f64) {
    ((1.0 - x).max(0.0), if x < 1.0 { -1.0 } else { 0.0 })
}

/// A loss of x = β (c − r); `f` gives (loss, slope) at x.
fn margin(s: &Seen, o: &Objective, f: impl Fn(f64) -> (f64, f64)) -> Slope {
    let beta = f64::from(o.beta);
    let (loss, d) = f(beta * (s.c - s.r));
    Slope::pair(loss, d * beta, -d * beta)
}

/// A loss of the difference between both answers' mean log-ratios of a token, c / nc − r / nr.
fn per_token(s: &Seen, f: impl Fn(f64) -> (f64, f64)) -> Slope {
    let (loss, d) = f(s.c / s.nc - s.r / s.nr);
    Slope::pair(loss, d / s.nc, -d / s.nr)
}

/// The squared distance between the margin per token and 1 / 2β.
fn ipo(s: &Seen, o: &Objective) -> Slope {
    per_token(s, |x| {
        let x = x - 0.5 / f64::from(o.beta);
        (x * x, 2.0 * x)
    })
}

/// The smoothed −log σ of β times the margin per token, less γ.
fn sigmoid_per_token(s: &Seen, o: &Objective, gamma: f64) -> Slope {
    let beta = f64::from(o.beta);
    per_token(s, |x| {
        let (loss, d) = smoothed(beta * x - gamma, o.label_smoothing.into());
        (loss, beta * d)
    })
}

/// log(1 − eᵃ) and its slope for a < 0, without loss of digits at either end (Mächler 2012).
fn log1mexp(a: f64) -> (f64, f64) {
    let a = a.min(-1e-12);
    let value = if a > -std::f64::consts::LN_2 { (-a.exp_m1()).ln() } else { (-a.exp()).ln_1p() };
    (value, a.exp() / a.exp_m1())
}

/// The indices of the records, sorted by ascending value.
fn ranks(seen: &[Seen], value: impl Fn(&Seen) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..seen.len()).collect();
    order.sort_by(|a, b| value(&seen[*a]).total_cmp(&value(&seen[*b])));
    order
}

/// The policy's log-ratios and the reference's, each sorted by itself, compared rank by rank.
fn aot(seen: &[Seen], o: &Objective) -> Vec<Slope> {
    let (beta, eps) = (f64::from(o.beta), f64::from(o.label_smoothing));
    let reference = |s: &Seen| s.reference[0] - s.reference[1];
    let (policy, reference_order) = (ranks(seen, |s| s.policy[0] - s.policy[1]), ranks(seen, reference));
    let mut all = vec![Slope::default(); seen.len()];
    for (i, j) in policy.into_iter().zip(reference_order) {
        let x = seen[i].policy[0] - seen[i].policy[1] - reference(&seen[j]);
        let (loss, d) = smoothed(beta * x, eps);
        all[i] = Slope::pair(loss, beta * d, -beta * d);
    }
    all
}

/// The log-ratios of the chosen and those of the rejected, each sorted by itself, compared rank by rank.
fn aot_unpaired(seen: &[Seen], o: &Objective) -> Vec<Slope> {
    let (beta, eps) = (f64::from(o.beta), f64::from(o.label_smoothing));
    let mut all = vec![Slope::default(); seen.len()];
    for (i, j) in ranks(seen, |s| s.c).into_iter().zip(ranks(seen, |s| s.r)) {
        let (loss, d) = smoothed(beta * (seen[i].c - seen[j].r), eps);
        all[i].loss = loss;
        all[i].dc = beta * d;
        all[j].dr = -beta * d;
    }
    all
}

/// 1 − σ(±β (c − z)), times the weight of the label.
fn labelled(s: &Seen, o: &Objective, z: f64) -> Slope {
    let beta = f64::from(o.beta);
    let (sign, weight) = if s.desirable { (1.0, o.desirable_weight) } else { (-1.0, o.undesirable_weight) };
    let (p, weight) = (sigmoid(sign * beta * (s.c - z)), f64::from(weight));
    Slope::pair(weight * sigmoid(-sign * beta * (s.c - z)), -weight * sign * beta * p * (1.0 - p), 0.0)
}

/// KTO. The KL estimate is the mean log-ratio of the mismatched answers, which stand in the place of the rejected ones;
/// no gradient flows into it.
fn kto(seen: &[Seen], o: &Objective) -> Vec<Slope> {
    let kl = seen.iter().map(|s| s.r).sum::<f64>() / seen.len().max(1) as f64;
    seen.iter().map(|s| labelled(s, o, kl.max(0.0))).collect()
}

const fn row(name: &'static str, about: &'static str, family: Family, of: fn(&Seen, &Objective) -> Slope) -> Loss {
    Loss { name, about, family, needs: Needs::NOTHING, of: Of::Pair(of) }
}

const fn joint(
    name: &'static str,
    about: &'static str,
    family: Family,
    of: fn(&[Seen], &Objective) -> Vec<Slope>,
) -> Loss {
    Loss { name, about, family, needs: Needs::NOTHING, of: Of::Step(of) }
}

/// Every loss.
pub const LOSSES: &[Loss] = &[
    row(
        "sigmoid",
        "DPO (arXiv 2305.18290); with label smoothing cDPO, where TRL takes none",
        Family::Margin,
        |s, o| margin(s, o, |x| smoothed(x, o.label_smoothing.into())),
    ),
    row("hinge", "SLiC (arXiv 2305.10425)", Family::Margin, |s, o| margin(s, o, hinge)),
    row("ipo", "IPO (arXiv 2310.12036), per token", Family::Margin, ipo),
    row("exo_pair", "EXO (arXiv 2402.00856) on pairs; label smoothing 0 is taken as 1e-3", Family::Margin, |s, o| {
        margin(s, o, |x| {
            let e = if o.label_smoothing == 0.0 { 1e-3 } else { f64::from(o.label_smoothing) };
            let (a, b) = (sigmoid(x), sigmoid(-x));
            let (u, v) = (log_sigmoid(x) - (-e).ln_1p(), log_sigmoid(-x) - e.ln());
            (a * u + b * v, a * b * (u - v))
        })
    })
    .with(Needs { smoothing_below: Some(1.0), ..Needs::NOTHING }),
    row("nca_pair", "NCA (arXiv 2402.05369) on pairs", Family::Reference, |s, o| {
        let beta = f64::from(o.beta);
        let (x, y) = (beta * s.c, beta * s.r);
        let loss = -log_sigmoid(x) - 0.5 * log_sigmoid(-x) - 0.5 * log_sigmoid(-y);
        Slope::pair(loss, beta * (0.5 * sigmoid(x) - sigmoid(-x)), 0.5 * beta * sigmoid(y))
    }),
    row(
        "robust",
        "robust DPO (arXiv 2403.00409): unbiased under flipped labels; label smoothing below 0.5",
        Family::Margin,
        |s, o| {
            margin(s, o, |x| {
                let eps = f64::from(o.label_smoothing);
                let z = 1.0 - 2.0 * eps;
                let loss = (-(1.0 - eps) * log_sigmoid(x) + eps * log_sigmoid(-x)) / z;
                (loss, -((1.0 - eps) * sigmoid(-x) + eps * sigmoid(x)) / z)
            })
        },
    )
    .with(Needs { smoothing_below: Some(0.5), ..Needs::NOTHING }),
    row("bco_pair", "BCO (arXiv 2404.04656) on pairs, without a running reward shift", Family::Reference, |s, o| {
        let beta = f64::from(o.beta);
        let loss = -log_sigmoid(beta * s.c) - log_sigmoid(-beta * s.r);
        Slope::pair(loss, -beta * sigmoid(-beta * s.c), beta * sigmoid(beta * s.r))
    }),
    row("sppo_hard", "SPPO (arXiv 2405.00675) with hard labels", Family::Reference, |s, o| {
        let half = 0.5 / f64::from(o.beta);
        let (x, y) = (s.c - half, s.r + half);
        Slope::pair(x * x + y * y, 2.0 * x, 2.0 * y)
    }),
    joint("aot", "AOT (arXiv 2406.05882): sorted margins of policy and reference", Family::Reference, aot)
        .with(Needs { sorts: true, ..Needs::NOTHING }),
    joint(
        "aot_unpaired",
        "AOT (arXiv 2406.05882): sorted log-ratios of chosen and rejected",
        Family::Reference,
        aot_unpaired,
    )
    .with(Needs { sorts: true, ..Needs::NOTHING }),
    row("apo_zero", "APO-zero (arXiv 2408.06266): chosen up, rejected down", Family::Reference, |s, o| {
        let beta = f64::from(o.beta);
        let (a, b) = (sigmoid(beta * s.c), sigmoid(beta * s.r));
        Slope::pair(1.0 - a + b, -beta * a * (1.0 - a), beta * b * (1.0 - b))
    }),
    row("apo_down", "APO-down (arXiv 2408.06266): both down, rejected more", Family::Reference, |s, o| {
        let beta = f64::from(o.beta);
        let (a, b) = (sigmoid(beta * s.c), sigmoid(beta * (s.c - s.r)));
        let (da, db) = (beta * a * (1.0 - a), beta * b * (1.0 - b));
        Slope::pair(a + 1.0 - b, da - db, db)
    }),
    row("discopop", "DiscoPOP (arXiv 2406.08414): log-ratio modulated, temperature 0.05", Family::Margin, |s, o| {
        margin(s, o, |x| {
            let (m, ex) = (sigmoid(x / 0.05), (-x).exp());
            let dm = m * sigmoid(-x / 0.05) / 0.05;
            // Far on the negative side m is 0 where ex overflows; their product is 0 there.
            let (em, edm) = if m == 0.0 { (0.0, 0.0) } else { (ex * m, ex * dm) };
            let loss = -log_sigmoid(x) * (1.0 - m) + em;
            (loss, -sigmoid(-x) * (1.0 - m) + log_sigmoid(x) * dm - em + edm)
        })
    }),
    row("sft", "cross-entropy, the mean over all chosen tokens of a step", Family::Chosen, |s, _| Slope {
        loss: -s.chosen_share * s.chosen_sum,
        dsum: -s.chosen_share,
        ..Slope::default()
    }),
    row("sigmoid_norm", "DPO on log-ratios per token", Family::Margin, |s, o| sigmoid_per_token(s, o, 0.0)),
    row("cpo", "CPO (arXiv 2401.08417), no reference; with its NLL term: cpo,sft:ALPHA", Family::Free, |s, o| {
        margin(s, o, |x| smoothed(x, o.label_smoothing.into()))
    }),
    row("cpo_hinge", "CPO with SLiC's loss, no reference", Family::Free, |s, o| margin(s, o, hinge)),
    row("cpo_ipo", "CPO with IPO's loss on log-probs per token, no reference", Family::Free, ipo),
    row("simpo", "SimPO (arXiv 2405.14734): log-probs per token and a margin, no reference", Family::Free, |s, o| {
        sigmoid_per_token(s, o, o.simpo_gamma.into())
    }),
    row(
        "orpo",
        "ORPO (arXiv 2403.07691): beta times the odds ratio, and the mean cross-entropy of prompt and chosen; \
         no reference",
        Family::Free,
        |s, o| {
            let beta = f64::from(o.beta);
            let (a, b) = (s.c / s.nc, s.r / s.nr);
            let ((la, da), (lb, db)) = (log1mexp(a), log1mexp(b));
            let x = (a - b) - (la - lb);
            let d = -beta * sigmoid(-x);
            let nll = -s.whole_share;
            Slope {
                loss: -beta * log_sigmoid(x) + nll * (s.chosen_sum + s.prompt_sum),
                dc: d * (1.0 - da) / s.nc,
                dr: -d * (1.0 - db) / s.nr,
                dsum: nll,
                dprompt: nll,
            }
        },
    )
    .with(Needs { prompt: true, ..Needs::NOTHING }),
    joint(
        "kto",
        "KTO (arXiv 2402.01306) on single answers with labels; the KL is estimated from mismatched answers",
        Family::Unpaired,
        kto,
    )
    .with(Needs { mismatched: true, ..Needs::NOTHING }),
    row("apo_zero_unpaired", "APO-zero on single answers with labels: KTO without the KL", Family::Unpaired, |s, o| {
        labelled(s, o, 0.0)
    }),
];

/// The row of the loss called `name`.
///
/// # Errors
/// [`crate::Error::Input`] that lists the names.
pub fn find(name: &str) -> crate::Result<&'static Loss> {
    LOSSES
        .iter()
        .find(|l| l.name == name)
        .ok_or_else(|| crate::Error::Input(format!("no loss is called '{name}'; there are: {}", names(|_| true))))
}

/// The names of those losses for which `is` holds.
pub(super) fn names(is: impl Fn(&Loss) -> bool) -> String {
    LOSSES.iter().filter(|l| is(l)).map(|l| l.name).collect::<Vec<_>>().join(", ")
}

/// Every loss with what it is, one on each line.
pub fn listed() -> String {
    LOSSES.iter().map(|l| format!("\n{}: {}", l.name, l.about)).collect()
}
