//! Times the cases: on memory that no cache holds, by the host's clock and the device's, candidates in turn, with their
//! results looked at again behind it.

use super::case::{Case, Kernel, Trial};
use super::choice::{named, seed};
use super::peak::{self, Peaks};
use crate::gpu::{Cost, Gpu, Kept, Plan, Tensor};
use crate::settings::setters;
use crate::{Error, Observer, Result};

/// How cases are timed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Timing {
    /// Timed runs of each case.
    pub runs: usize,
    /// Run on the same memory each time, so that caches hold what they can; else on copies in turn that together
    /// exceed the last cache.
    pub warm: bool,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { runs: 7, warm: false }
    }
}

setters! {
    impl Timing {
        /// Timed runs of each case.
        runs: usize;
        /// Run on the same memory each time, so that caches hold what they can; else on copies in turn that together
        /// exceed the last cache.
        warm: bool;
    }
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
    /// Timed runs.
    pub n: usize,
    /// Mean time of a run in milliseconds, by the host's clock.
    pub mean_ms: f64,
    /// Standard deviation of a run's time in milliseconds.
    pub sd_ms: f64,
    /// Median time of a run in milliseconds.
    pub median_ms: f64,
    /// The median by the device's own clock, where it has timestamps.
    pub device_ms: Option<f64>,
    /// Half the distance between the quartiles over the median.
    pub spread: f64,
    /// How much slower the last third of the runs was than the first, as a fraction of the first.
    pub drift: f64,
    /// Floating-point operations of a run.
    pub flops: f64,
    /// Bytes of a run, each tensor counted once.
    pub bytes: f64,
    /// 10^9 floating-point operations a second.
    pub gflops: f64,
    /// 10^9 bytes a second.
    pub gbs: f64,
    /// Fraction of the device's own measured peak that the case reaches, of that peak which bounds it.
    pub share: f64,
    /// Whether caches held what they could.
    pub warm: bool,
    /// Sum of the outputs, so that a fast wrong result shows.
    pub checksum: f64,
    /// Why the figures are not to be believed; empty where nothing speaks against them.
    pub doubt: String,
}

/// The share above which a figure is not believed: no run does more than the peak, which was measured to some percent.
const MOST: f64 = 1.05;
/// Cases that take turns.
const TURNS: usize = 8;
/// Most copies of a case's memory, and most bytes of all copies of the cases that take turns.
const MOST_COPIES: u64 = 64;
const MOST_BYTES: u64 = 512 << 20;

/// Launches with their memory.
pub(super) struct Ready {
    /// The launches on each copy of the memory.
    plans: Vec<Plan>,
    /// What the first plan started from.
    kept: Kept,
    outputs: Vec<(String, Tensor)>,
    /// What the first plan gave.
    first: Vec<Vec<u32>>,
    host: Vec<f64>,
    device: Vec<f64>,
}

impl Ready {
    /// Copies the memory of a plan as often as the timing needs it, and runs it once on each copy.
    pub(super) fn new(
        gpu: &Gpu,
        plan: Plan,
        outputs: Vec<(String, Tensor)>,
        timing: &Timing,
        peaks: &Peaks,
    ) -> Result<Ready> {
        let kept = gpu.keep(&plan);
        let copies = if timing.warm { 1 } else { copies(plan.held_bytes(), peaks.cache_bytes) };
        let mut plans = (1..copies).map(|_| gpu.copy_of(&plan)).collect::<Result<Vec<_>>>()?;
        plans.insert(0, plan);
        for plan in &plans {
            gpu.time(plan, 1)?;
        }
        let tensors: Vec<&Tensor> = outputs.iter().map(|(_, tensor)| tensor).collect();
        let first = gpu.download_all(&tensors)?;
        Ok(Ready { plans, kept, outputs, first, host: Vec::new(), device: Vec::new() })
    }

    /// The launches on the memory that was given.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn plan(&self) -> Result<&Plan> {
        self.plans.first().ok_or_else(|| Error::Bug("a case without launches".into()))
    }

    /// What the first run gave for an output.
    pub(super) fn first(&self, name: &str) -> Option<&[u32]> {
        let found = self.outputs.iter().zip(&self.first).find(|((own, _), _)| own == name);
        found.map(|(_, words)| words.as_slice())
    }
}

/// What a row says of its launches: the kernel, the shape and the type of the weights.
type Named<'a> = (&'a str, &'a str, &'a str);

/// Times cases after a run that warms up, and tells of each row as it comes. Peaks that a case exceeds are measured
/// again and kept in `peaks`.
///
/// # Errors
/// A case that fails to build or run, a device that was lost.
pub fn bench(
    gpu: &Gpu,
    shapes: &[(&Kernel, Case)],
    timing: &Timing,
    peaks: &mut Peaks,
    observer: &dyn Observer,
    tell: &mut dyn FnMut(&BenchRow),
) -> Result<Vec<BenchRow>> {
    let mut rows = Vec::new();
    for turn in shapes.chunks(TURNS) {
        let mut all = turn.iter().map(|(_, case)| ready(gpu, case, timing, peaks)).collect::<Result<Vec<_>>>()?;
        in_turn(gpu, &mut all, timing.runs, observer)?;
        for ((kernel, case), ready) in turn.iter().zip(all) {
            let row = believed(gpu, (kernel.name(), &case.name, case.dtype), ready, (timing, peaks), observer)?;
            tell(&row);
            rows.push(row);
            observer.advance(1);
        }
    }
    Ok(rows)
}

/// Times launches that stand alone.
pub(super) fn run_ready(
    gpu: &Gpu,
    named: Named,
    mut ready: Ready,
    (timing, peaks): (&Timing, &mut Peaks),
    observer: &dyn Observer,
) -> Result<BenchRow> {
    in_turn(gpu, std::slice::from_mut(&mut ready), timing.runs, observer)?;
    believed(gpu, named, ready, (timing, peaks), observer)
}

/// The row of what was timed. Where it is above the peak, peak and case are measured again; what is not to be believed
/// then, or whose result is another one than before, is marked.
fn believed(
    gpu: &Gpu,
    named: Named,
    mut ready: Ready,
    (timing, peaks): (&Timing, &mut Peaks),
    observer: &dyn Observer,
) -> Result<BenchRow> {
    let mut row = row(gpu, named, &ready, timing, peaks);
    if row.share > MOST {
        peaks.raise(&peak::measure(gpu, gpu.form())?);
        (ready.host, ready.device) = (Vec::new(), Vec::new());
        in_turn(gpu, std::slice::from_mut(&mut ready), timing.runs, observer)?;
        row = self::row(gpu, named, &ready, timing, peaks);
        if row.share > MOST {
            let percent = row.share * 100.0;
            row.doubt = format!("{percent:.0} % of the peak, measured twice: the work or the clock is wrong");
        }
    }
    if let Some(what) = changed(gpu, &ready)? {
        row.doubt = what;
    }
    Ok(row)
}

/// The timed cases of the selected kernels whose weights are of type `dtype`, or of a form of it: `q4` takes `q4k`
/// along.
///
/// # Errors
/// As [`named`].
pub fn timed(names: &[String], dtype: Option<&str>) -> Result<Vec<(&'static Kernel, Case)>> {
    let all = named(names)?.into_iter().flat_map(|k| (k.cases)().into_iter().map(move |case| (k, case)));
    Ok(all.filter(|(_, case)| case.timed && dtype.is_none_or(|d| case.dtype.starts_with(d))).collect())
}

/// Makes the memory of a case and runs it once on each copy.
fn ready(gpu: &Gpu, case: &Case, timing: &Timing, peaks: &Peaks) -> Result<Ready> {
    let mut trial = Trial::new(gpu, gpu.form(), seed(case, 0), false);
    (case.run)(&mut trial)?;
    let Trial { rec, outputs, .. } = trial;
    let outputs = outputs.into_iter().map(|(what, tensor, _)| (what, tensor)).collect();
    Ready::new(gpu, rec.compile(), outputs, timing, peaks)
}

/// How many copies of so many bytes exceed a cache twice over.
fn copies(bytes: u64, cache: u64) -> u64 {
    let most = (MOST_BYTES / TURNS as u64 / bytes.max(1)).clamp(1, MOST_COPIES);
    (2 * cache).div_ceil(bytes.max(1)).clamp(2, MOST_COPIES).min(most.max(2))
}

/// Runs all of them once, then again, so that a slow stretch of the machine hits all alike.
fn in_turn(gpu: &Gpu, all: &mut [Ready], runs: usize, observer: &dyn Observer) -> Result<()> {
    let stopwatch = gpu.stopwatch();
    for run in 0..runs.max(1) {
        if observer.stop_requested() {
            return Err(Error::Stopped);
        }
        for ready in all.iter_mut() {
            let timed = stopwatch.time(&ready.plans[run % ready.plans.len()])?;
            ready.host.push(timed.host);
            ready.device.extend(timed.device);
        }
    }
    Ok(())
}

/// Which output is another one than before the timing, from the same memory.
fn changed(gpu: &Gpu, ready: &Ready) -> Result<Option<String>> {
    gpu.put_back(&ready.kept);
    gpu.run(ready.plan()?)?;
    let tensors: Vec<&Tensor> = ready.outputs.iter().map(|(_, tensor)| tensor).collect();
    let now: Vec<Vec<u32>> = gpu.download_all(&tensors)?;
    let pairs = ready.outputs.iter().zip(ready.first.iter().zip(&now));
    let mut off = pairs.filter_map(|((what, _), (was, is))| {
        let i = (0..was.len()).find(|i| was[*i] != is[*i])?;
        let [was, is] = [was[i], is[i]].map(f32::from_bits);
        Some(format!("{what}[{i}] was {was} before the timing and is {is} after it"))
    });
    Ok(off.next())
}

/// The value below which this fraction of sorted values lies.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted.get((sorted.len().saturating_sub(1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Mean, standard deviation, median, and how much slower the last third was than the first.
struct Times {
    mean: f64,
    sd: f64,
    median: f64,
    spread: f64,
    drift: f64,
}

impl Times {
    fn of(all: &[f64]) -> Times {
        let mean_of = mean(all);
        let square = all.iter().map(|x| (x - mean_of).powi(2)).sum::<f64>();
        let third = all.len() / 3;
        let drift = match third {
            0 => 0.0,
            _ => mean(&all[all.len() - third..]) / mean(&all[..third]) - 1.0,
        };
        let mut sorted = all.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = quantile(&sorted, 0.5);
        let spread = (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / 2.0 / median;
        let sd = (square / all.len().saturating_sub(1).max(1) as f64).sqrt();
        Times { mean: mean_of, sd, median, spread, drift }
    }
}

fn row(gpu: &Gpu, (name, shape, dtype): Named, ready: &Ready, timing: &Timing, peaks: &Peaks) -> BenchRow {
    let cost = ready.plans.first().map_or(Cost::default(), Plan::cost);
    let times = Times::of(&ready.host);
    let mut device = ready.device.clone();
    device.sort_by(f64::total_cmp);
    let bound = if timing.warm { *peaks } else { peaks.uncached() };
    let sum = |words: &Vec<u32>| words.iter().map(|x| f64::from(f32::from_bits(*x))).sum::<f64>();
    BenchRow {
        name: name.to_owned(),
        variant: gpu.form().name(),
        shape: shape.to_owned(),
        dtype: dtype.to_owned(),
        n: ready.host.len(),
        mean_ms: times.mean * 1e3,
        sd_ms: times.sd * 1e3,
        median_ms: times.median * 1e3,
        device_ms: (!device.is_empty()).then(|| quantile(&device, 0.5) * 1e3),
        spread: times.spread,
        drift: times.drift,
        flops: cost.flops,
        bytes: cost.bytes,
        gflops: cost.flops / times.median / 1e9,
        gbs: cost.bytes / times.median / 1e9,
        share: bound.share(cost, times.median),
        warm: timing.warm,
        checksum: ready.first.iter().map(sum).sum(),
        doubt: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_mean_a_median_and_a_drift() {
        let times = Times::of(&[1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        assert_eq!((times.mean, times.median, times.drift), (2.0, 2.0, 2.0));
        // The sample's deviation: √(4 / 5).
        assert!((times.sd - 0.8f64.sqrt()).abs() < 1e-12);
        assert_eq!(Times::of(&[5.0]).drift, 0.0);
    }

    #[test]
    fn copies_exceed_the_cache_and_not_the_memory() {
        assert_eq!(copies(1 << 20, 8 << 20), 16);
        assert_eq!(copies(1 << 10, 32 << 20), MOST_COPIES);
        // A case that no cache holds still takes turns between two copies.
        assert_eq!(copies(400 << 20, 32 << 20), 2);
    }

    #[test]
    fn a_result_that_changes_is_told() {
        let gpu = Gpu::open(None, None).unwrap();
        let timed = timed(&["adamw".to_owned()], None).unwrap();
        let (_, case) = &timed[0];
        let peaks = Peaks { cache_bytes: 1 << 20, ..Peaks::default() };
        let mut ready = ready(&gpu, case, &Timing::default(), &peaks).unwrap();
        assert!(ready.plans.len() > 1);
        // A step in place starts from the same weights again.
        assert_eq!(changed(&gpu, &ready).unwrap(), None);
        ready.first[0][3] ^= 1;
        assert!(changed(&gpu, &ready).unwrap().unwrap().starts_with("w[3] was "));
    }
}
