//! Who holds how much: bytes of live buffers by what they are for, and what they were when all of them together were most.

use super::{Gpu, lock};

/// What memory is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A model's parameters, its adapter's too, and its tables of angles.
    Weights,
    /// One for each trained parameter.
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
    pub const ALL: [Part; 7] = [
        Part::Weights,
        Part::Gradients,
        Part::Moments,
        Part::Activations,
        Part::Arena,
        Part::Logits,
        Part::Work,
    ];

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
    /// The same, each part's share at that moment, in the order of [`Part::ALL`].
    pub parts: [u64; Part::ALL.len()],
}

impl Peak {
    /// The parts that hold anything, with their bytes.
    pub fn held(&self) -> impl Iterator<Item = (Part, u64)> {
        Part::ALL.into_iter().zip(self.parts).filter(|(_, bytes)| *bytes > 0)
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |(part, bytes): (Part, u64)| format!("{} {:.1} MiB", part.name(), bytes as f64 / f64::from(1 << 20));
        f.write_str(&self.held().map(one).collect::<Vec<_>>().join(", "))
    }
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
pub struct Booking<'g> {
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
    pub fn book(&self, part: Part) -> Booking<'_> {
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

    /// The same by part.
    pub fn peak(&self) -> Peak {
        lock(&self.0.pool).ledger.peak.clone()
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        let ledger = &mut lock(&self.0.pool).ledger;
        ledger.peak = Peak { bytes: ledger.live(), parts: ledger.live };
    }
}
