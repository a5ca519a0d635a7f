//! Inverted dropout (Srivastava et al., JMLR 15, 2014) whose masks are drawn by counter and never stored.

use super::case::{Case, Kernel};
use super::sizes::{several, stream};
use super::way::Way;
use crate::gpu::Value::{Float, Size, Words};
use crate::gpu::{Gpu, Launch, Recorder, Source, Tensor};
use crate::rng::{halves, philox, unit};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "dropout",
    soft: include_str!("../../shaders/dropout.wgsl"),
    tile: include_str!("../../shaders/dropout.wgsl"),
    libs: &["grid", "philox"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "dropout with masks drawn by counter",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

/// Which mask: element (t, c) is kept where word c mod 4 of Philox at counter `[c / 4, position[t], node[t]]` (node as
/// low and high half) under `key`, as a number in [0, 1) with 24 bits, is at least `rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mask {
    /// Key of the step and the site.
    pub key: u64,
    /// Fraction that is dropped, from 0 to below 1.
    pub rate: f32,
}

impl Mask {
    /// The factor by which kept values are multiplied.
    pub(crate) fn scale(&self) -> f32 {
        (1.0 / (1.0 - f64::from(self.rate))) as f32
    }

    fn keeps(&self, (node, position): (u64, u32), channel: usize) -> bool {
        let [low, high] = halves(node);
        unit(philox([(channel / 4) as u32, position, low, high], halves(self.key))[channel % 4]) >= self.rate
    }
}

/// What of each row enters its mask, for the GPU: (key of its node, position on its path).
///
/// # Errors
/// Out of memory.
pub(crate) fn rows(gpu: &Gpu, rows: &[(u64, u32)]) -> Result<Tensor> {
    let words = |(node, position): &(u64, u32)| {
        let [low, high] = halves(*node);
        [low, high, *position]
    };
    gpu.upload(rows.len(), 3, &rows.iter().flat_map(words).collect::<Vec<u32>>())
}

/// y `[T, N]` = x masked; `rows` as [`rows`] gives them. The gradient by y becomes that by x through this function too.
///
/// # Errors
/// Shapes that do not fit; a rate outside 0 to below 1.
pub(crate) fn forward(rec: &mut Recorder, x: &Tensor, rows: &Tensor, mask: Mask, y: &Tensor) -> Result<()> {
    y.expect_shape("dropout's output", x.rows(), x.cols())?;
    rows.expect_shape("dropout's rows", x.rows(), 3)?;
    if !(0.0..1.0).contains(&mask.rate) {
        return Err(Error::Bug(format!("dropout of {}; expected a share from 0 to below 1", mask.rate)));
    }
    rec.launch(Launch {
        source: &SOURCE,
        entry: "forward",
        constants: vec![],
        params: &[
            ("rows", Size(x.rows())),
            ("n4", Size(x.ld() / 4)),
            ("key", Words(&halves(mask.key))),
            ("p", Float(mask.rate)),
            ("scale", Float(mask.scale())),
        ],
        bind: &[x, rows, y],
        groups: several(&SOURCE, rec.variant(), x.len() / 4),
        cost: stream(&[x, y], 1.0),
    })
}

/// x `[T, N]` masked.
pub(crate) fn twin(x: &[f64], rows: &[(u64, u32)], mask: Mask) -> Vec<f64> {
    let cols = x.len() / rows.len().max(1);
    let one = |(i, v): (usize, &f64)| match mask.keeps(rows[i / cols], i % cols) {
        true => v / (1.0 - f64::from(mask.rate)),
        false => 0.0,
    };
    x.iter().enumerate().map(one).collect()
}

fn cases() -> Vec<Case> {
    let shapes = [(1, 1, 0.1), (7, 33, 0.5), (640, 36, 0.1), (33, 160, 0.9), (5, 12, 0.0)];
    let case = |(rows, cols, rate): (usize, usize, f32)| {
        Case::new(format!("forward {rows}x{cols} rate {rate}"), 1e-6, move |t| {
            let (x, hx) = t.matrix(rows, cols)?;
            // Rows of one node lie at different positions, and rows of one position in different nodes.
            let nodes: Vec<u64> = (0..rows.div_ceil(3)).map(|_| t.word()).collect();
            let at: Vec<(u64, u32)> = (0..rows).map(|r| (nodes[r / 3], (r % 5) as u32)).collect();
            let mask = Mask { key: t.word(), rate };
            let (row, y) = (self::rows(t.gpu, &at)?, t.gpu.empty(rows, cols)?);
            forward(&mut t.rec, &x, &row, mask, &y)?;
            t.expect("y", &y, || twin(&hx, &at, mask));
            Ok(())
        })
    };
    shapes.map(case).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 400;
    const COLS: usize = 250;

    fn drawn(key: u64, rate: f32) -> Vec<f64> {
        let rows: Vec<(u64, u32)> = (0..ROWS).map(|r| (1 + r as u64 / 100, (r % 100) as u32)).collect();
        twin(&[1.0; ROWS * COLS], &rows, Mask { key, rate })
    }

    /// 100,000 draws: five standard deviations of the kept share are below 0.008.
    #[test]
    fn the_kept_share_and_the_mean_are_those_asked_for() {
        for rate in [0.0, 0.1, 0.5, 0.9] {
            let (all, want) = (drawn(3, rate), 1.0 - f64::from(rate));
            let n = all.len() as f64;
            let kept = all.iter().filter(|x| **x != 0.0).count() as f64 / n;
            assert!((kept - want).abs() < 0.008, "{kept} kept of {rate}");
            let mean = all.iter().sum::<f64>() / n;
            assert!((mean - 1.0).abs() < 0.008 / want, "the mean is {mean} at {rate}");
        }
    }

    /// No row, channel or key repeats another's mask, and neighbours do not go together.
    #[test]
    fn masks_are_independent() {
        let (one, other) = (drawn(3, 0.5), drawn(4, 0.5));
        let together = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).filter(|(x, y)| (**x > 0.0) == (**y > 0.0)).count() as f64 / a.len() as f64
        };
        for (what, share) in [
            ("keys", together(&one, &other)),
            ("channels", together(&one[1..], &one[..one.len() - 1])),
            ("positions", together(&one[COLS..], &one[..one.len() - COLS])),
            ("nodes", together(&one[100 * COLS..], &one[..one.len() - 100 * COLS])),
        ] {
            assert!((share - 0.5).abs() < 0.01, "{what}: {share}");
        }
    }

    #[test]
    fn a_rate_that_leaves_nothing_is_refused() {
        let gpu = Gpu::open(None, None).unwrap();
        let (x, row) = (gpu.zeros(2, 4).unwrap(), rows(&gpu, &[(1, 0), (1, 1)]).unwrap());
        for rate in [1.0, -0.1, f32::NAN] {
            assert!(forward(&mut gpu.record(), &x, &row, Mask { key: 0, rate }, &x).is_err(), "{rate}");
        }
    }
}
