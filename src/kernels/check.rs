//! Runs the cases against their twins (`check`): each value, that nothing is written outside of its tensor, and that
//! the same launches give the same bits.

use super::case::{Expected, Trial};
use super::choice::{Chosen, Comparison, seed};
use crate::gpu::{Gpu, Plan, Tensor};
use crate::{Error, Observer, Result};

/// How often the launches of a case run from the same memory, where that is looked at.
const RUNS: usize = 20;

/// One case of one kernel in one variant, compared.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CheckRow {
    /// The op's stem.
    pub kernel: String,
    /// soft or tile, and whether in the invariant order.
    pub variant: String,
    /// Entry point and shape.
    pub case: String,
    /// What its random numbers are ([`super::Inputs::name`]).
    pub inputs: String,
    /// How often it ran; several times where all runs were to give the same bits.
    pub runs: usize,
    /// Largest absolute error over all outputs.
    pub max_abs_error: f64,
    /// Largest error relative to the larger of |value| and the output's root mean square.
    pub max_error: f64,
    /// [`CheckRow::max_error`]'s difference in units in the last place of an f32 of that size.
    pub max_ulp: f64,
    /// What `max_error` may be at most.
    pub tolerance: f64,
    /// Whether `max_error` is within the tolerance and nothing else went wrong.
    pub passed: bool,
    /// What went wrong besides numbers, or which output is off.
    pub note: String,
}

impl CheckRow {
    /// The first thing that goes wrong is what is told.
    fn fail(&mut self, note: impl FnOnce() -> String) {
        self.passed = false;
        if self.note.is_empty() {
            self.note = note();
        }
    }
}

/// Compares the chosen cases with their twins. What is written outside of a tensor is found on a GPU that was opened
/// with [`crate::gpu::Options::guarded`].
///
/// # Errors
/// A device that was lost. A case that fails to build or run is a failed row.
pub fn run(gpu: &Gpu, chosen: &Chosen, observer: &dyn Observer) -> Result<Vec<CheckRow>> {
    let mut rows = Vec::new();
    for comparison in &chosen.comparisons {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        let mut row = CheckRow {
            kernel: comparison.kernel.name().to_owned(),
            variant: comparison.form.name(),
            case: comparison.case.name.clone(),
            inputs: comparison.inputs.name().to_owned(),
            runs: if comparison.repeated { RUNS } else { 1 },
            max_abs_error: 0.0,
            max_error: 0.0,
            max_ulp: 0.0,
            tolerance: comparison.case.tolerance,
            passed: true,
            note: String::new(),
        };
        match compare(gpu, comparison, chosen.seed, &mut row) {
            Ok(()) => {}
            Err(e @ Error::DeviceLost(_)) => return Err(e),
            Err(e) => row.fail(|| e.to_string()),
        }
        rows.push(row);
        observer.advance(1);
    }
    Ok(rows)
}

/// Distance between neighbouring f32 values at `size` > 0.
fn ulp(size: f64) -> f64 {
    let size = (size as f32).clamp(f32::MIN_POSITIVE, f32::MAX / 2.0);
    f64::from(size.next_up()) - f64::from(size)
}

fn compare(gpu: &Gpu, comparison: &Comparison, chosen: u64, row: &mut CheckRow) -> Result<()> {
    let Comparison { form, case, inputs, .. } = comparison;
    let mut trial = Trial::new(gpu, *form, seed(case, chosen), true).of(*inputs);
    (case.run)(&mut trial)?;
    let Trial { rec, outputs, .. } = trial;
    let plan = rec.compile();
    let kept = comparison.repeated.then(|| gpu.keep(&plan));
    gpu.run(&plan)?;
    let tensors: Vec<&Tensor> = outputs.iter().map(|(_, tensor, _)| tensor).collect();
    let first: Vec<Vec<u32>> = gpu.download_all(&tensors)?;
    for ((what, _, expected), got) in outputs.iter().zip(&first) {
        match expected {
            Expected::Words(want) => {
                if let Some(i) = (0..want.len()).find(|&i| got.get(i) != Some(&want[i])) {
                    row.fail(|| format!("{what}[{i}] is {:?}, the twin says {}", got.get(i), want[i]));
                }
            }
            Expected::Floats(want) => floats(what, got, want, row)?,
        }
    }
    if let Some(outside) = gpu.overrun(&plan)? {
        row.fail(|| format!("wrote outside of a tensor: {outside}"));
    }
    let Some(kept) = kept else { return Ok(()) };
    for run in 2..=RUNS {
        gpu.put_back(&kept);
        again(gpu, &plan, (&tensors, &first), |output, i, was, is| {
            let what = &outputs[output].0;
            row.fail(|| format!("{what}[{i}] is {was:#010x} in the first run and {is:#010x} in run {run}"));
        })?;
    }
    Ok(())
}

/// Runs the plan once more and tells of the first word of each output that is another one than before.
fn again(
    gpu: &Gpu,
    plan: &Plan,
    (tensors, first): (&[&Tensor], &[Vec<u32>]),
    mut tell: impl FnMut(usize, usize, u32, u32),
) -> Result<()> {
    gpu.run(plan)?;
    let now: Vec<Vec<u32>> = gpu.download_all(tensors)?;
    for (output, (was, is)) in first.iter().zip(&now).enumerate() {
        if let Some(i) = (0..was.len()).find(|i| was[*i] != is[*i]) {
            tell(output, i, was[i], is[i]);
        }
    }
    Ok(())
}

fn floats(what: &str, got: &[u32], want: &[f64], row: &mut CheckRow) -> Result<()> {
    if got.len() != want.len() {
        return Err(Error::Bug(format!("{what} has {} values, the twin {}", got.len(), want.len())));
    }
    let held = want.iter().filter(|x| (**x as f32).is_finite());
    let rms = (held.map(|x| x * x).sum::<f64>() / want.len().max(1) as f64).sqrt();
    for (i, (g, w)) in got.iter().map(|bits| f32::from_bits(*bits)).zip(want).enumerate() {
        // What f32 cannot hold is an infinity.
        if (*w as f32).is_infinite() && g == *w as f32 {
            continue;
        }
        let abs = (f64::from(g) - w).abs();
        let size = w.abs().max(rms).max(1e-30);
        let error = abs / size;
        if error.is_nan() || error > row.tolerance {
            row.fail(|| format!("{what}[{i}] is {g}, the twin says {w}"));
        }
        row.max_abs_error = row.max_abs_error.max(abs);
        row.max_error = row.max_error.max(error);
        row.max_ulp = row.max_ulp.max(abs / ulp(size));
    }
    Ok(())
}
