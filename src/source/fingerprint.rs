//! By what an adapter knows its base again, wherever that lies: how the tensors are stored, and samples of their bytes.

use crate::arch::{Arch, family};
use crate::rng::Fnv;
use crate::weights::Weights;

/// A hash of a base's storage, and one of its values. Bases whose storage differs, such as a model and the same in
/// fewer bits, cannot be told apart by their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    storage: u64,
    values: u64,
}

impl Fingerprint {
    /// The fingerprint of a model's parameters; samples are read, not whole files.
    pub(super) fn of(arch: &Arch, weights: &Weights) -> Fingerprint {
        // Files of one model may differ in order.
        let mut names: Vec<String> = family::parameters(arch).into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let (mut storage, mut values) = (Fnv::new(), Fnv::new());
        for name in &names {
            storage.write(weights.storage_of(name).as_bytes());
            weights.samples(name).for_each(|bytes| values.write(&bytes));
        }
        Fingerprint { storage: storage.0, values: values.0 }
    }

    /// Reads what [`Fingerprint`] writes; `None` if it is something else.
    pub(super) fn parse(text: &str) -> Option<Fingerprint> {
        let (storage, values) = text.split_once('-')?;
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        Some(Fingerprint { storage: number(storage)?, values: number(values)? })
    }

    /// Whether the two are surely of different models: stored alike, with other values.
    pub(super) fn contradicts(self, other: Fingerprint) -> bool {
        self.storage == other.storage && self.values != other.values
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}", self.storage, self.values)
    }
}
