//! Runs the cases: against the twins (`check`) and against the clock (`bench`).

use super::case::{Case, Expected, Kernel, Trial};
use super::list::ALL;
use super::peak::Peaks;
use crate::gpu::{Form, Gpu, Variant};
use crate::{Error, Observer, Result};

/// One case of one kernel in one variant, compared.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CheckRow {
    /// The op's stem.
    pub kernel: String,
    /// soft or tile, and whether in the invariant order.
    pub variant: String,
    /// Entry point and shape.
    pub case: String,
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

/// One timed case.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BenchRow {
    /// The op's stem.
    pub name: String,
    /// soft or tile, and whether in the invariant order.
    pub variant: String,
    /// Entry point and shape.
    pub shape: String,
    /// Element type of the weights.
    pub dtype: String,
    /// Median time of a run in milliseconds.
    pub median_ms: f64,
    /// Half the distance between the quartiles over the median.
    pub spread: f64,
    /// Timed runs.
    pub n: usize,
    /// 10^9 floating-point operations a second.
    pub gflops: f64,
    /// 10^9 bytes a second, each tensor counted once.
    pub gbs: f64,
    /// Fraction of the device's own measured peak that the case reaches, of that peak which bounds it.
    pub share: f64,
    /// Sum of the outputs, so that a fast wrong result shows.
    pub checksum: f64,
}

pub(super) fn selected<'k>(filter: Option<&'k str>) -> Result<impl Iterator<Item = &'static Kernel> + use<'k>> {
    if let Some(name) = filter
        && !ALL.iter().any(|k| k.name() == name)
    {
        let names: Vec<&str> = ALL.iter().map(|k| k.name()).collect();
        return Err(Error::Input(format!("no kernel is called '{name}'; there are: {}", names.join(", "))));
    }
    Ok(ALL.iter().filter(move |k| filter.is_none_or(|f| f == k.name())))
}

/// Compares every case of the selected kernels with its twin, in each of `variants`.
///
/// # Errors
/// An unknown kernel, one named that this device cannot build; a device that was lost. A case that fails to build or
/// run is a failed row.
pub fn run(gpu: &Gpu, filter: Option<&str>, variants: &[Variant], observer: &dyn Observer) -> Result<Vec<CheckRow>> {
    let mut rows = Vec::new();
    for kernel in selected(filter)? {
        if filter.is_some() {
            gpu.expect_buildable((kernel.source)())?;
        }
        for form in kernel.forms(gpu, variants) {
            for case in (kernel.cases)().iter().filter(|c| !c.timed) {
                if observer.stop_requested() {
                    return Err(Error::Stopped);
                }
                let mut row = CheckRow {
                    kernel: kernel.name().to_owned(),
                    variant: form.name(),
                    case: case.name.clone(),
                    max_abs_error: 0.0,
                    max_error: 0.0,
                    max_ulp: 0.0,
                    tolerance: case.tolerance,
                    passed: true,
                    note: String::new(),
                };
                match compare(gpu, form, case, &mut row) {
                    Ok(()) => {}
                    Err(e @ Error::DeviceLost(_)) => return Err(e),
                    Err(e) => {
                        row.passed = false;
                        row.note = e.to_string();
                    }
                }
                rows.push(row);
                observer.advance(1);
            }
        }
    }
    Ok(rows)
}

/// A seed per case name, so that adding a case changes no other one's numbers.
pub(super) fn seed(case: &Case) -> u64 {
    case.name.bytes().fold(11, |s, b| (s ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Distance between neighbouring f32 values at `size` > 0.
fn ulp(size: f64) -> f64 {
    let size = (size as f32).clamp(f32::MIN_POSITIVE, f32::MAX / 2.0);
    f64::from(size.next_up()) - f64::from(size)
}

fn compare(gpu: &Gpu, form: Form, case: &Case, row: &mut CheckRow) -> Result<()> {
    let mut trial = Trial::new(gpu, form, seed(case), true);
    (case.run)(&mut trial)?;
    let Trial { rec, outputs, .. } = trial;
    rec.submit()?;
    for (what, tensor, expected) in outputs {
        match expected {
            Expected::Words(want) => {
                let got: Vec<u32> = gpu.download(&tensor)?;
                if let Some(i) = (0..want.len()).find(|&i| got.get(i) != Some(&want[i])) {
                    row.passed = false;
                    row.note = format!("{what}[{i}] is {:?}, the twin says {}", got.get(i), want[i]);
                }
            }
            Expected::Floats(want) => {
                let got: Vec<f32> = gpu.download(&tensor)?;
                if got.len() != want.len() {
                    return Err(Error::Bug(format!("{what} has {} values, the twin {}", got.len(), want.len())));
                }
                let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len().max(1) as f64).sqrt();
                for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                    let abs = (f64::from(*g) - w).abs();
                    let size = w.abs().max(rms).max(1e-30);
                    let error = abs / size;
                    if error.is_nan() || error > case.tolerance {
                        row.passed = false;
                        if row.note.is_empty() {
                            row.note = format!("{what}[{i}] is {g}, the twin says {w}");
                        }
                    }
                    row.max_abs_error = row.max_abs_error.max(abs);
                    row.max_error = row.max_error.max(error);
                    row.max_ulp = row.max_ulp.max(abs / ulp(size));
                }
            }
        }
    }
    Ok(())
}

/// Times cases: one warm-up, then `n` runs.
///
/// # Errors
/// As [`run`]; here a case that fails ends the bench.
pub fn bench(
    gpu: &Gpu,
    shapes: &[(&Kernel, Case)],
    n: usize,
    peaks: &Peaks,
    observer: &dyn Observer,
) -> Result<Vec<BenchRow>> {
    let mut rows = Vec::new();
    for (kernel, case) in shapes {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        rows.push(time_case(gpu, kernel, case, n, peaks)?);
        observer.advance(1);
    }
    Ok(rows)
}

/// The timed cases of the selected kernels whose weights are of type `dtype`, or of a form of it: `q4` takes `q4k`
/// along.
///
/// # Errors
/// An unknown kernel.
pub fn timed(filter: Option<&str>, dtype: Option<&str>) -> Result<Vec<(&'static Kernel, Case)>> {
    let all = selected(filter)?.flat_map(|k| (k.cases)().into_iter().map(move |case| (k, case)));
    Ok(all.filter(|(_, case)| case.timed && dtype.is_none_or(|d| case.dtype.starts_with(d))).collect())
}

fn time_case(gpu: &Gpu, kernel: &Kernel, case: &Case, n: usize, peaks: &Peaks) -> Result<BenchRow> {
    let mut trial = Trial::new(gpu, gpu.form(), seed(case), false);
    (case.run)(&mut trial)?;
    let Trial { rec, outputs, .. } = trial;
    let plan = rec.compile();
    gpu.time(&plan, 1)?;
    let mut checksum = 0.0;
    for (_, tensor, _) in &outputs {
        checksum += gpu.download::<f32>(tensor)?.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    let mut times = gpu.time(&plan, n.max(1))?;
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let (median, cost) = (quantile(0.5), plan.cost());
    Ok(BenchRow {
        name: kernel.name().to_owned(),
        variant: gpu.form().name(),
        shape: case.name.clone(),
        dtype: case.dtype.to_owned(),
        median_ms: median * 1e3,
        spread: (quantile(0.75) - quantile(0.25)) / 2.0 / median,
        n: times.len(),
        gflops: cost.flops / median / 1e9,
        gbs: cost.bytes / median / 1e9,
        share: peaks.share(cost, median),
        checksum,
    })
}
