//! Who holds how much: bytes of live buffers by what they are for, now and at their peak.

use super::{Gpu, lock};
use crate::Result;

/// What memory is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A model's parameters, its adapter's too, and its tables of angles.
    Weights,
    /// The gradients, one for each trained parameter.
    Gradients,
    /// The optimiser's moments.
    Moments,
    /// What forward keeps for the backward pass.
    Activations,
    /// Keys and values of sequences that grow.
    Arena,
    /// Rows as wide as the vocabulary.
    Logits,
    /// Everything else: what comes and goes within a pass, and its lists.
    #[default]
    Work,
}

impl Part {
    /// Every part, in the order that reports use.
    pub const ALL: [Part; 7] =
        [Part::Weights, Part::Gradients, Part::Moments, Part::Activations, Part::Arena, Part::Logits, Part::Work];

    /// The words that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Part::Weights => "weights",
            Part::Gradients => "gradients",
            Part::Moments => "moments",
            Part::Activations => "activations",
            Part::Arena => "KV arena",
            Part::Logits => "logits",
            Part::Work => "work",
        }
    }
}

/// The most that was live at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Bytes of all buffers.
    pub bytes: u64,
    /// Bytes of each part's buffers at that moment, in the order of [`Part::ALL`].
    pub parts: [u64; Part::ALL.len()],
}

impl Peak {
    /// The parts that hold anything, with their bytes.
    pub fn held(&self) -> impl Iterator<Item = (Part, u64)> {
        Part::ALL.into_iter().zip(self.parts).filter(|(_, bytes)| *bytes > 0)
    }
}

/// Bytes to plan with where `bytes` were counted: free buffers serve for somewhat smaller ones, and which ones are free
/// differs a little between the steps.
pub(crate) fn with_margin(bytes: u64) -> u64 {
    bytes + bytes / 64
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |(part, bytes): (Part, u64)| format!("{} {:.1} MiB", part.name(), bytes as f64 / f64::from(1 << 20));
        f.write_str(&self.held().map(one).collect::<Vec<_>>().join(", "))
    }
}

/// The most of something, from `low` to `high`, for which `fits` gives a result, where less takes less; tries `high`
/// first.
pub(crate) fn most<T>(
    mut low: usize,
    mut high: usize,
    mut fits: impl FnMut(usize) -> Result<Option<T>>,
) -> Result<Option<(usize, T)>> {
    let (mut at, mut best) = (high, None);
    while low <= high && high > 0 {
        match fits(at)? {
            Some(result) => (low, best) = (at + 1, Some((at, result))),
            None => high = at - 1,
        }
        at = low.midpoint(high);
    }
    Ok(best)
}

#[derive(Default)]
pub(super) struct Ledger {
    /// What is being allocated for.
    part: Part,
    live: [u64; Part::ALL.len()],
    peak: Peak,
}

impl Ledger {
    pub(super) fn live(&self) -> u64 {
        self.live.iter().sum()
    }

    /// Books a buffer to the part that is being allocated for.
    pub(super) fn add(&mut self, bytes: u64) -> Part {
        self.live[self.part as usize] += bytes;
        if self.live() > self.peak.bytes {
            self.peak = Peak { bytes: self.live(), parts: self.live };
        }
        self.part
    }

    pub(super) fn remove(&mut self, part: Part, bytes: u64) {
        self.live[part as usize] -= bytes;
    }
}

/// Books what is allocated while it lives; the part before comes back with its end.
#[must_use]
pub(crate) struct Booking<'g> {
    gpu: &'g Gpu,
    before: Part,
}

impl Drop for Booking<'_> {
    fn drop(&mut self) {
        lock(&self.gpu.0.pool).ledger.part = self.before;
    }
}

impl Gpu {
    /// Books what is allocated from here on to `part`, until the result is dropped.
    pub(crate) fn book(&self, part: Part) -> Booking<'_> {
        let before = std::mem::replace(&mut lock(&self.0.pool).ledger.part, part);
        Booking { gpu: self, before }
    }

    /// Bytes of buffers now in use.
    pub fn live_bytes(&self) -> u64 {
        lock(&self.0.pool).ledger.live()
    }

    /// The largest [`Gpu::live_bytes`] since the last [`Gpu::reset_peak`].
    pub fn peak_bytes(&self) -> u64 {
        self.peak().bytes
    }

    /// The most that was live at once since the last [`Gpu::reset_peak`], by part.
    pub fn peak(&self) -> Peak {
        lock(&self.0.pool).ledger.peak.clone()
    }

    /// Does `work`, whose buffers end with it, and leaves the peak as it was: what a device takes once, in its first
    /// run, is in no plan. The cap holds for it.
    pub(super) fn off_the_peak<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = self.peak();
        let done = work();
        lock(&self.0.pool).ledger.peak = before;
        done
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        let ledger = &mut lock(&self.0.pool).ledger;
        ledger.peak = Peak { bytes: ledger.live(), parts: ledger.live };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_knows_its_parts_and_buffers_their_own() {
        let gpu = Gpu::open(None, None).unwrap();
        for gpu in [gpu.counting(None), gpu] {
            let weights = gpu.book(Part::Weights);
            let a = gpu.zeros(64, 64).unwrap();
            let logits = gpu.book(Part::Logits);
            let b = gpu.empty(1, 64).unwrap();
            drop(logits);
            drop(b);
            let c = gpu.zeros(1, 1024).unwrap();
            drop(weights);
            let _work = gpu.empty(64, 128).unwrap();
            assert_eq!(gpu.live_bytes(), 16384 + 4096 + 32768);
            let held: Vec<(Part, u64)> = gpu.peak().held().collect();
            assert_eq!(held, [(Part::Weights, 16384 + 4096), (Part::Work, 32768)]);
            drop((a, c));
            assert_eq!((gpu.live_bytes(), gpu.peak_bytes()), (32768, 16384 + 4096 + 32768));
            gpu.reset_peak();
            assert_eq!(gpu.peak().held().collect::<Vec<_>>(), [(Part::Work, 32768)]);
        }
    }

    #[test]
    fn what_a_device_takes_once_is_not_in_the_peak() {
        let gpu = Gpu::open(None, None).unwrap();
        let kept = gpu.zeros(64, 64).unwrap();
        gpu.off_the_peak(|| drop(gpu.empty(64, 128).unwrap()));
        assert_eq!((gpu.live_bytes(), gpu.peak_bytes()), (16384, 16384));
        drop(kept);
    }

    #[test]
    fn a_cap_counts_what_is_kept_free() {
        let gpu = Gpu::open(None, Some(1 << 20)).unwrap();
        drop(gpu.empty(1, 200_000).unwrap());
        // Not of the free one's size, and there is no room for both.
        let other = gpu.empty(1, 100_000).unwrap();
        assert!(gpu.empty(1, 200_000).is_err_and(|e| e.to_string().contains("`plan`")));
        drop(other);
        gpu.empty(1, 200_000).unwrap();
    }

    #[test]
    fn the_most_that_fits_is_found() {
        for high in 0..20 {
            for limit in 0..25 {
                let found = most(1, high, |n| Ok((n <= limit).then_some(n * 2))).unwrap();
                let want = high.min(limit);
                assert_eq!(found, (want > 0).then_some((want, want * 2)), "{high} {limit}");
            }
        }
    }
}
