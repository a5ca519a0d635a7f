//! What a device can do at its best, measured by kernels that do nothing else: the ground of `bench`'s shares.

use super::case::{Case, Kernel};
use super::columns;
use super::sizes::{lanes, several};
use super::way::{Traits, Way};
use crate::gpu::Value::Size;
use crate::gpu::{Cost, Form, Gpu, Launch, Recorder, Source, Tensor, Units};
use crate::{Error, Result};

static SOURCE: Source = Source {
    name: "peak",
    soft: include_str!("../../shaders/peak.wgsl"),
    tile: include_str!("../../shaders/peak.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The multiply-adds in f16, for devices that have it.
static SOURCE_F16: Source = Source {
    name: "peak_f16",
    soft: include_str!("../../shaders/peak_f16.wgsl"),
    tile: include_str!("../../shaders/peak_f16.wgsl"),
    libs: &["grid"],
    tile_size: 64,
};

/// The multiply-adds of matrix units, for devices opened with them.
static SOURCE_MATRIX: Source = Source {
    name: "peak_matrix",
    soft: include_str!("../../shaders/peak_matrix.wgsl"),
    tile: include_str!("../../shaders/peak_matrix.wgsl"),
    libs: &["grid", "fragment"],
    tile_size: 128,
};

/// The kernel's row in [`super::ALL`].
pub const KERNEL: Kernel = Kernel {
    source: || &SOURCE,
    about: "the device's own peaks",
    ways: |traits| Way::plain(&SOURCE, traits),
    ordered: &[],
    cases,
};

/// The row of the kernel in f16 in [`super::ALL`].
pub const F16: Kernel = Kernel {
    source: || &SOURCE_F16,
    about: "the device's peak in f16",
    ways: |traits| Way::plain(&SOURCE_F16, traits),
    ordered: &[],
    cases: cases_f16,
};

/// The row of the kernel on matrix units in [`super::ALL`].
pub const MATRIX: Kernel = Kernel {
    source: || &SOURCE_MATRIX,
    about: "the peak of the device's matrix units (--matrix-units)",
    ways: |traits| traits.units.map(|units| way_matrix(traits, units)).into_iter().collect(),
    ordered: &[],
    cases: cases_matrix,
};

/// Multiply-adds of a lane in a step: three chains of vec4, eight times.
const CHAINED: usize = 3 * 4 * 8;

/// Products of fragments that a subgroup does in a step: four chains, eight times.
const FRAGMENTS: usize = 4 * 8;

/// Bytes that every cache is taken to hold.
const CACHED: usize = 4 << 20;

/// Bytes of the largest memory that is read to find out what the last cache holds, which is also what it is taken to
/// hold at least: where no cache shows, the reading is slower than any.
const LARGEST: usize = 128 << 20;
const LEAST_CACHE: usize = 32 << 20;

/// A device's peaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Peaks {
    /// 10^9 operations a second in fused multiply-adds of f32, two operations each.
    pub gflops: f64,
    /// 10^9 operations a second in fused multiply-adds of f16; `None` where shaders cannot compute in it.
    #[serde(default)]
    pub f16_gflops: Option<f64>,
    /// 10^9 operations a second on matrix units, with operands in f16 and sums in f32; `None` where the device was
    /// opened without them.
    #[serde(default)]
    pub matrix_gflops: Option<f64>,
    /// 10^9 bytes a second when reading alone, more than a cache holds.
    pub read_gbs: f64,
    /// 10^9 bytes a second when reading again and again what a cache holds.
    pub cached_gbs: f64,
    /// 10^9 bytes a second in a copy, read and written bytes together.
    pub copy_gbs: f64,
    /// 10^9 bytes a second when writing alone.
    #[serde(default)]
    pub write_gbs: f64,
    /// Bytes that the last cache holds: more than these are read more slowly.
    #[serde(default)]
    pub cache_bytes: u64,
    /// Microseconds that one more dispatch costs.
    pub dispatch_us: f64,
}

impl Peaks {
    /// The share of the peak that bounds `cost`: [`Peaks::least`] over `seconds`.
    pub fn share(&self, cost: Cost, seconds: f64) -> f64 {
        self.least(cost) / seconds
    }

    /// These peaks for work whose memory lies in no cache.
    pub fn uncached(&self) -> Peaks {
        Peaks { cached_gbs: 0.0, ..*self }
    }

    /// Takes each figure that is higher in `other`, which was measured at another time.
    pub fn raise(&mut self, other: &Peaks) {
        let most = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        *self = Peaks {
            gflops: self.gflops.max(other.gflops),
            f16_gflops: most(self.f16_gflops, other.f16_gflops),
            matrix_gflops: most(self.matrix_gflops, other.matrix_gflops),
            read_gbs: self.read_gbs.max(other.read_gbs),
            cached_gbs: self.cached_gbs.max(other.cached_gbs),
            copy_gbs: self.copy_gbs.max(other.copy_gbs),
            write_gbs: self.write_gbs.max(other.write_gbs),
            cache_bytes: self.cache_bytes.max(other.cache_bytes),
            dispatch_us: self.dispatch_us.min(other.dispatch_us),
        };
    }

    /// The least seconds that the operations or the bytes of one launch would take, whichever is more.
    pub fn least(&self, cost: Cost) -> f64 {
        let cached = if cost.bytes <= CACHED as f64 { self.cached_gbs } else { 0.0 };
        let bytes = cost.bytes / cached.max(self.read_gbs).max(self.copy_gbs).max(self.write_gbs);
        let on_units = cost.on_units / self.matrix_gflops.unwrap_or(self.gflops);
        ((cost.flops - cost.on_units) / self.gflops + on_units).max(bytes) / 1e9
    }
}

fn launch(
    rec: &mut Recorder,
    (source, entry): (&'static Source, &'static str),
    steps: usize,
    x: &Tensor,
    y: &Tensor,
    cost: Cost,
) -> Result<()> {
    let count = y.len() / 4;
    if entry != "multiply" && x.len() != y.len() * steps {
        let shapes = format!("{:?} and {:?} in {steps} steps", x.shape(), y.shape());
        return Err(Error::Bug(format!("peak: {shapes} do not fit")));
    }
    rec.launch(Launch {
        source,
        entry,
        constants: vec![],
        params: &[("lanes", Size(count)), ("steps", Size(steps))],
        bind: &[x, y],
        groups: if entry == "copy" {
            several(source, rec.variant(), count)
        } else {
            lanes(source, rec.variant(), count)
        },
        cost,
    })
}

/// y `[L, 4]` = the sum of three chains x <- x a + b of `steps` times eight multiply-adds, in f16 if `half`; ab is `[2,
/// 4]`.
///
/// # Errors
/// Shapes that do not fit; a device without f16.
fn multiply(rec: &mut Recorder, half: bool, ab: &Tensor, y: &Tensor, steps: usize) -> Result<()> {
    ab.expect_shape("peak's factors", 2, 4)?;
    let flops = (y.len() / 4 * steps * CHAINED) as f64 * 2.0;
    let source = if half { &SOURCE_F16 } else { &SOURCE };
    launch(rec, (source, "multiply"), steps, ab, y, Cost::new(flops, 4.0 * y.len() as f64))
}

fn way_matrix(traits: &Traits, units: Units) -> Way {
    Way::new(&SOURCE_MATRIX, traits, "multiply", [("SIZE", units.size), ("WG", units.lanes)])
}

/// y `[G, 4]`: in each row the first element of Σ over j of `steps` times eight a b\[j\], and the number of subgroups
/// in a workgroup; ab `[5, SIZE²]` is a and four b of the units' size.
///
/// # Errors
/// Shapes that do not fit; a device without matrix units.
fn multiply_matrix(rec: &mut Recorder, ab: &Tensor, y: &Tensor, steps: usize) -> Result<()> {
    let Some(units) = rec.gpu().units() else {
        return Err(Error::Bug("peak_matrix: the device was opened without matrix units".into()));
    };
    ab.expect_shape("peak's fragments", 5, (units.size * units.size) as usize)?;
    y.expect_shape("peak's results", y.rows(), 4)?;
    let way = way_matrix(&Traits::of(rec), units);
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &[("steps", Size(steps))],
        bind: &[ab, y],
        groups: crate::gpu::fold(y.rows()),
        // How many subgroups there are is known when it has run.
        cost: Cost::default(),
    })
}

/// y `[L, 4]` = Σ over s of x\[s\], x `[S, 4 L]`.
///
/// # Errors
/// Shapes that do not fit.
fn sum(rec: &mut Recorder, x: &Tensor, y: &Tensor) -> Result<()> {
    let cost = Cost::new(x.len() as f64, 4.0 * (x.len() + y.len()) as f64);
    launch(rec, (&SOURCE, "sum"), x.rows(), x, y, cost)
}

/// y = x, both `[L, 4]`.
///
/// # Errors
/// Shapes that do not fit.
fn copy(rec: &mut Recorder, x: &Tensor, y: &Tensor) -> Result<()> {
    launch(rec, (&SOURCE, "copy"), 1, x, y, Cost::new(0.0, 4.0 * (x.len() + y.len()) as f64))
}

/// What [`multiply`] makes in lane `i`, channel `c`.
fn twin(i: usize, steps: usize, a: f64, b: f64) -> f64 {
    let chain = |start: f64| (0..steps * 8).fold((i % 16) as f64 * 0.0625 + start, |x, _| x * a + b);
    chain(0.0) + chain(1.0) + chain(2.0)
}

fn multiplied(name: String, tolerance: f64, half: bool, count: usize, steps: usize) -> Case {
    Case::new(name, tolerance, move |t| {
        let ab = [0.75f32, -0.5, 0.25, 0.875, 0.5, 1.0, -0.25, 0.125];
        let (x, y) = (t.gpu.upload(2, 4, &ab)?, t.gpu.zeros(count, 4)?);
        multiply(&mut t.rec, half, &x, &y, steps)?;
        let at = |j: usize| twin(j / 4, steps, f64::from(ab[j % 4]), f64::from(ab[4 + j % 4]));
        t.expect("y", &y, || (0..count * 4).map(at).collect());
        Ok(())
    })
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (count, steps) in [(1, 1), (37, 3), (129, 40)] {
        all.push(multiplied(format!("multiply {count} x {steps}"), 2e-6, false, count, steps));
    }
    for (rows, count) in [(1, 5), (33, 1), (7, 130), (3, 601)] {
        all.push(Case::new(format!("sum and copy {rows}x{count}"), 2e-6, move |t| {
            let (x, hx) = t.matrix(rows, count * 4)?;
            let (y, z) = (t.gpu.zeros(count, 4)?, t.gpu.zeros(count, 4)?);
            sum(&mut t.rec, &x, &y)?;
            copy(&mut t.rec, &y, &z)?;
            let at = |j: usize| (0..rows).map(|r| hx[r * count * 4 + j]).sum();
            t.expect("z", &z, || (0..count * 4).map(at).collect());
            Ok(())
        }));
    }
    all
}

fn cases_f16() -> Vec<Case> {
    let case = |(count, steps)| multiplied(format!("multiply {count} x {steps} f16"), 4e-3, true, count, steps);
    [(1, 1), (37, 3), (129, 1)].map(case).into()
}

fn cases_matrix() -> Vec<Case> {
    let all = [(1, 1), (5, 7)].map(|(groups, steps)| {
        Case::new(format!("multiply {groups} x {steps}"), 1e-6, move |t| {
            let size = t.gpu.units().map_or(8, |u| u.size as usize);
            // Multiples of 1/8, whose products f16 and f32 hold.
            let ab: Vec<f32> = (0..5 * size * size).map(|_| t.below(16) as f32 / 8.0 - 1.0).collect();
            let (x, y, first) = (t.gpu.upload(5, size * size, &ab)?, t.gpu.zeros(groups, 4)?, t.gpu.zeros(groups, 1)?);
            multiply_matrix(&mut t.rec, &x, &y, steps)?;
            columns::take(&mut t.rec, &y, 0, 1.0, &first)?;
            t.expect("y", &first, || {
                let product = |j: usize, k: usize| f64::from(ab[k]) * f64::from(ab[(j * size + k) * size]);
                let sum: f64 = (1..5).flat_map(|j| (0..size).map(move |k| product(j, k))).sum();
                vec![sum * (8 * steps) as f64; groups]
            });
            Ok(())
        })
    });
    all.into()
}

/// Measures the device: each peak is the best of some runs, since whatever disturbs a run makes it slower.
///
/// # Errors
/// Out of memory; device errors.
pub fn measure(gpu: &Gpu, form: Form) -> Result<Peaks> {
    // Enough lanes and steps that a run takes some milliseconds: an estimate first, then as many steps as fill the
    // time.
    let (count, room) = (16_384, (gpu.max_binding_bytes() as usize).min(256 << 20) / 16);
    let ab = gpu.upload(2, 4, &[0.5f32, 0.25, 0.75, 0.125, 1.0, 1.0, 1.0, 1.0])?;
    let y = gpu.zeros(count, 4)?;
    let run = |work: &dyn Fn(&mut Recorder) -> Result<()>| -> Result<(f64, Cost)> {
        let mut rec = gpu.record_form(form);
        work(&mut rec)?;
        let plan = rec.compile();
        gpu.time(&plan, 1)?;
        Ok((plateau(|| Ok(gpu.time(&plan, 3)?.into_iter().fold(f64::INFINITY, f64::min)))?, plan.cost()))
    };
    // The most that any number of steps reaches, by the operations of so many.
    type Multiply<'a> = &'a dyn Fn(&mut Recorder, usize) -> Result<()>;
    let fastest = |work: Multiply, flops: &dyn Fn(usize, Cost) -> Result<f64>| -> Result<f64> {
        let (mut steps, mut gflops) = (16, 0.0f64);
        loop {
            let (seconds, cost) = run(&|rec| work(rec, steps))?;
            gflops = gflops.max(flops(steps, cost)? / seconds / 1e9);
            if seconds > 0.01 || steps >= 1 << 16 {
                return Ok(gflops);
            }
            steps *= 4;
        }
    };
    let multiplying =
        |half: bool| fastest(&|rec, steps| multiply(rec, half, &ab, &y, steps), &|_, cost| Ok(cost.flops));
    let gflops = multiplying(false)?;
    let f16_gflops = gpu.has_f16().then(|| multiplying(true)).transpose()?;
    let on_units = |units: Units| {
        let size = units.size as usize;
        let (ab, y) = (gpu.upload(5, size * size, &vec![0.125f32; 5 * size * size])?, gpu.zeros(512, 4)?);
        fastest(&|rec, steps| multiply_matrix(rec, &ab, &y, steps), &|steps, _| {
            let subgroups: f64 = gpu.download::<f32>(&y)?.chunks_exact(4).map(|row| f64::from(row[1])).sum();
            Ok(subgroups * (steps * FRAGMENTS) as f64 * 2.0 * (size as f64).powi(3))
        })
    };
    let matrix_gflops = gpu.units().map(on_units).transpose()?;
    let reading = |bytes: usize, times: usize| -> Result<f64> {
        let lanes = bytes / 16 / 64;
        let (x, sums) = (gpu.zeros(64, lanes * 4)?, gpu.zeros(lanes, 4)?);
        let (seconds, cost) = run(&|rec| (0..times).try_for_each(|_| sum(rec, &x, &sums)))?;
        Ok(cost.bytes / seconds / 1e9)
    };
    let (read_gbs, cached_gbs) = (reading((room * 16).min(64 << 20), 1)?, reading(CACHED / 2, 16)?);
    let sizes = (20..).map(|power| 1usize << power).take_while(|bytes| *bytes <= LARGEST.min(room * 16));
    let read = sizes.map(|bytes| Ok((bytes, reading(bytes, (16 << 20) / bytes.min(16 << 20))?)));
    let cache_bytes = last_cache(&read.collect::<Result<Vec<_>>>()?) as u64;
    let half = room.min(1 << 22) / 2;
    let (x, y) = (gpu.zeros(half, 4)?, gpu.zeros(half, 4)?);
    let (seconds, cost) = run(&|rec| copy(rec, &x, &y))?;
    let copy_gbs = cost.bytes / seconds / 1e9;
    let (seconds, cost) = run(&|rec| super::rows::fill(rec, &y))?;
    let write_gbs = cost.bytes / seconds / 1e9;
    let small = [gpu.zeros(1, 4)?, gpu.zeros(1, 4)?];
    let many = |n: usize| run(&|rec| (0..n).try_for_each(|_| copy(rec, &small[0], &small[1])));
    let (long, short) = (many(600)?.0, many(100)?.0);
    let dispatch_us = (long - short).max(0.0) / 500.0 * 1e6;
    Ok(Peaks { gflops, f16_gflops, matrix_gflops, read_gbs, cached_gbs, copy_gbs, write_gbs, cache_bytes, dispatch_us })
}

/// The least of measurements, taken until three in a row are no more than a hundredth below the least before them: a
/// device that slept comes to its full clock first.
fn plateau(mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    let (mut least, mut level) = (measure()?, 0);
    for _ in 0..20 {
        let next = measure()?;
        level = if next < 0.99 * least { 0 } else { level + 1 };
        least = least.min(next);
        if level == 3 {
            break;
        }
    }
    Ok(least)
}

/// The largest memory, of those from the smallest to the largest with the rate at which they were read, that was read
/// clearly faster than the largest; [`LEAST_CACHE`] where that is less.
fn last_cache(read: &[(usize, f64)]) -> usize {
    let slowest = read.last().map_or(0.0, |(_, rate)| *rate);
    let held = read.iter().rev().find(|(_, rate)| *rate > 1.25 * slowest);
    held.map_or(0, |(bytes, _)| *bytes).max(LEAST_CACHE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_measured_until_it_stays() {
        let mut times = [5.0, 4.0, 3.0, 3.1, 2.99, 3.0, 1.0].into_iter();
        assert_eq!(plateau(|| Ok(times.next().unwrap())).unwrap(), 2.99);
    }

    #[test]
    fn the_last_cache_is_where_reading_becomes_slow() {
        let mib = |n: usize| n << 20;
        let read = [(1, 90.0), (16, 80.0), (64, 50.0), (128, 20.0)].map(|(n, rate)| (mib(n), rate));
        assert_eq!(last_cache(&read), mib(64));
        assert_eq!(last_cache(&[(mib(1), 10.0), (mib(128), 10.0)]), LEAST_CACHE);
    }

    #[test]
    fn the_peak_that_bounds_is_the_one_that_counts() {
        let peaks = Peaks { gflops: 100.0, read_gbs: 10.0, cached_gbs: 50.0, copy_gbs: 8.0, ..Peaks::default() };
        // A second of work by either measure, done in two.
        let share = |flops, bytes| peaks.share(Cost::new(flops, bytes), 2.0);
        assert_eq!((share(100e9, 1e9), share(1e9, 10e9)), (0.5, 0.5));
        assert_eq!(peaks.share(Cost::new(0.0, 1e6), 2e-5), 1.0);
        // Half of the operations on units that are four times as fast.
        let peaks = Peaks { matrix_gflops: Some(400.0), ..peaks };
        assert_eq!(peaks.share(Cost { on_units: 100e9, ..Cost::new(200e9, 0.0) }, 2.5), 0.5);
    }
}
