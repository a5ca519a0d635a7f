//! Quantising to blocks of 256 values: scales and steps that make the squared error small.
//!
//! Each group of values looks for its best scale on its own: from several starts, steps are chosen for a scale and the
//! scale is chosen for the steps by least squares, in turn, while the error falls. The groups' scales are then rounded
//! to the few bits that they are stored in, and their neighbours are tried, since the nearest is not always the best.
//! Errors are weighted by r + |x|, where r is the group's root mean square: large weights matter more to a model, but
//! not by their square.

use half::f16;

use super::dtype::{Dtype, Encoded, bounds, put_half};

/// Rounds of choosing steps and scale in turn, from each start.
const ROUNDS: usize = 3;
/// How much wider than the type's the range of steps of each start is.
const STARTS: [f32; 7] = [0.0, -0.9, -0.6, -0.3, 0.3, 0.6, 0.9];

/// A group's values, and their weights.
struct Group<const N: usize> {
    values: [f32; N],
    weights: [f32; N],
}

/// Sums over a group, side by side, so that they need not wait for one another.
fn sum<const N: usize, const K: usize>(of: impl Fn(usize) -> [f32; K]) -> [f32; K] {
    const LANES: usize = 8;
    let mut lanes = [[0.0f32; LANES]; K];
    for i in (0..N).step_by(LANES) {
        let terms: [[f32; K]; LANES] = std::array::from_fn(|j| of(i + j));
        for (k, lane) in lanes.iter_mut().enumerate() {
            lane.iter_mut().zip(&terms).for_each(|(sum, terms)| *sum += terms[k]);
        }
    }
    lanes.map(|lane| lane.iter().sum())
}

/// The nearest whole number, for what lies far below 2^22: adding 1.5 x 2^23 leaves no place for a fraction.
fn nearest(x: f32) -> f32 {
    const NO_FRACTION: f32 = 12_582_912.0;
    (x + NO_FRACTION) - NO_FRACTION
}

impl<const N: usize> Group<N> {
    fn new(values: &[f32]) -> Self {
        let values: [f32; N] = std::array::from_fn(|i| values[i]);
        let [squares] = sum::<N, 1>(|i| [values[i] * values[i]]);
        let r = (squares / N as f32).sqrt();
        Self { values, weights: values.map(|x| r + x.abs()) }
    }

    /// The steps from `low` to `high` that are nearest to the values, where a step q stands for q x scale - minimum.
    fn steps(&self, scale: f32, minimum: f32, (low, high): (f32, f32)) -> [f32; N] {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        self.values.map(|x| nearest(((x + minimum) * inverse).clamp(low, high)))
    }

    /// The weighted squared error of such steps.
    fn error(&self, steps: &[f32; N], scale: f32, minimum: f32) -> f32 {
        let [error] = sum::<N, 1>(|i| {
            let off = steps[i] * scale - minimum - self.values[i];
            [self.weights[i] * off * off]
        });
        error
    }

    /// The scale and the minimum, which is not below 0, that suit steps from 0 to `top` best.
    fn with_minimum(&self, top: f32) -> (f32, f32) {
        let (least, greatest) = bounds(&self.values);
        let least = least.min(0.0);
        if greatest <= least {
            return (0.0, -least);
        }
        let [w, wx] = sum::<N, 2>(|i| [self.weights[i], self.weights[i] * self.values[i]]);
        let mut best = ((greatest - least) / top, -least, f32::INFINITY);
        for start in STARTS {
            let (mut scale, mut minimum) = ((greatest - least) / (top + start), -least);
            let mut last = f32::INFINITY;
            for _ in 0..ROUNDS {
                let steps = self.steps(scale, minimum, (0.0, top));
                let [wq, wqq, wqx] = sum::<N, 3>(|i| {
                    let q = self.weights[i] * steps[i];
                    [q, q * steps[i], q * self.values[i]]
                });
                let spread = w * wqq - wq * wq;
                if spread > 0.0 {
                    scale = (w * wqx - wq * wx) / spread;
                    minimum = (wq * scale - wx) / w;
                }
                if minimum < 0.0 || spread <= 0.0 {
                    (scale, minimum) = (if wqq > 0.0 { wqx / wqq } else { 0.0 }, 0.0);
                }
                let error = self.error(&steps, scale, minimum);
                if error < best.2 {
                    best = (scale, minimum, error);
                }
                if error >= last || scale <= 0.0 {
                    break;
                }
                last = error;
            }
        }
        (best.0.max(0.0), best.1)
    }

    /// The scale, of either sign, that suits steps from -`half` to `half` - 1 best.
    fn around_zero(&self, half: f32) -> f32 {
        let most = self.values.iter().fold(0.0f32, |most, v| if v.abs() > most.abs() { *v } else { most });
        let mut best = (0.0, f32::INFINITY);
        for start in STARTS {
            // The lowest step is one farther from 0 than the highest.
            let mut scale = most / -(half + start);
            let mut last = f32::INFINITY;
            for _ in 0..ROUNDS {
                let steps = self.steps(scale, 0.0, (-half, half - 1.0));
                let [wqq, wqx] = sum::<N, 2>(|i| {
                    let q = self.weights[i] * steps[i];
                    [q * steps[i], q * self.values[i]]
                });
                scale = if wqq > 0.0 { wqx / wqq } else { 0.0 };
                let error = self.error(&steps, scale, 0.0);
                if error < best.1 {
                    best = (scale, error);
                }
                if error >= last || scale == 0.0 {
                    break;
                }
                last = error;
            }
        }
        best.0
    }

    /// Steps by the scale and minimum that are stored, of those given the best: `candidates` are what is stored, `of`
    /// says what it means.
    fn best<T: Copy>(
        &self,
        range: (f32, f32),
        candidates: impl Iterator<Item = T>,
        of: impl Fn(T) -> (f32, f32),
    ) -> Option<(T, [f32; N])> {
        let mut best: Option<(f32, T, [f32; N])> = None;
        for candidate in candidates {
            let (scale, minimum) = of(candidate);
            let steps = self.steps(scale, minimum, range);
            let error = self.error(&steps, scale, minimum);
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, candidate, steps));
            }
        }
        best.map(|(_, candidate, steps)| (candidate, steps))
    }
}

/// A number as it will be read back from f16.
fn halved(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The whole numbers around x / unit, the nearest first, that lie within a range.
fn around(x: f32, unit: f32, (low, high): (i16, i16)) -> impl Iterator<Item = i16> + Clone {
    let middle = if unit == 0.0 { 0 } else { (x / unit).round() as i16 };
    let middle = middle.clamp(low, high);
    [middle, middle - 1, middle + 1].into_iter().filter(move |n| (low..=high).contains(n))
}

/// Q4_K and Q5_K: eight groups of 32, each with a scale and a minimum of 6 bits.
pub(super) fn shifted(dtype: Dtype, block: &[f32; 256], out: &mut Vec<u8>) -> Encoded {
    const MOST: i16 = 63;
    let five = dtype == Dtype::Q5K;
    let top = if five { 31.0 } else { 15.0 };
    let groups: [Group<32>; 8] = std::array::from_fn(|g| Group::new(&block[32 * g..]));
    let wanted = groups.each_ref().map(|group| group.with_minimum(top));
    let largest = |of: fn(&(f32, f32)) -> f32| wanted.iter().map(of).fold(0.0, f32::max) / f32::from(MOST);
    let (d, dmin) = (largest(|w| w.0), largest(|w| w.1));
    put_half(dtype, d, out)?;
    put_half(dtype, dmin, out)?;
    let (d, dmin) = (halved(d), halved(dmin));
    let mut stored = [(0u8, 0u8); 8];
    let mut steps = [[0u8; 32]; 8];
    for (g, group) in groups.iter().enumerate() {
        let minima = around(wanted[g].1, dmin, (0, MOST));
        let pairs = around(wanted[g].0, d, (0, MOST)).flat_map(|s| minima.clone().map(move |m| (s, m)));
        let of = |(s, m): (i16, i16)| (d * f32::from(s), dmin * f32::from(m));
        if let Some(((s, m), best)) = group.best((0.0, top), pairs, of) {
            stored[g] = (s as u8, m as u8);
            steps[g] = best.map(|q| q as u8);
        }
    }
    // The first four groups' 6 bits lie whole in a byte each; the others' lower 4 share a byte, their upper 2 fill up
    // the bytes of the first four.
    let high = |g: usize, of: fn((u8, u8)) -> u8| of(stored[g]) & 63 | of(stored[g + 4]) >> 4 << 6;
    out.extend((0..4).map(|g| high(g, |s| s.0)));
    out.extend((0..4).map(|g| high(g, |s| s.1)));
    out.extend((4..8).map(|g| stored[g].0 & 15 | (stored[g].1 & 15) << 4));
    if five {
        out.extend((0..32).map(|i| (0..8).fold(0, |bits, g| bits | (steps[g][i] >> 4) << g)));
    }
    for pair in steps.as_chunks::<2>().0 {
        out.extend((0..32).map(|i| pair[0][i] & 15 | (pair[1][i] & 15) << 4));
    }
    Ok(())
}

/// Q6_K: sixteen groups of 16, each with a scale of 8 bits.
pub(super) fn centred(block: &[f32; 256], out: &mut Vec<u8>) -> Encoded {
    const HALF: f32 = 32.0;
    let groups: [Group<16>; 16] = std::array::from_fn(|g| Group::new(&block[16 * g..]));
    let wanted = groups.each_ref().map(|group| group.around_zero(HALF));
    let most = wanted.iter().fold(0.0f32, |most, s| if s.abs() > most.abs() { *s } else { most });
    let d = halved(most / -128.0);
    let mut scales = [0u8; 16];
    let mut steps = [0u8; 256];
    for (g, group) in groups.iter().enumerate() {
        let of = |s: i16| (d * f32::from(s), 0.0);
        if let Some((s, best)) = group.best((-HALF, HALF - 1.0), around(wanted[g], d, (-128, 127)), of) {
            scales[g] = (s as i8).cast_unsigned();
            best.iter().enumerate().for_each(|(i, q)| steps[16 * g + i] = (q + HALF) as u8);
        }
    }
    // Of each 128 values, those 64 apart share a byte of lower bits, those 32 apart a byte of upper ones.
    for half in steps.as_chunks::<128>().0 {
        out.extend((0..64).map(|i| half[i] & 15 | (half[i + 64] & 15) << 4));
    }
    for half in steps.as_chunks::<128>().0 {
        out.extend((0..32).map(|i| (0..4).fold(0, |bits, k| bits | (half[i + 32 * k] >> 4) << (2 * k))));
    }
    out.extend(scales);
    put_half(Dtype::Q6K, d, out)
}
