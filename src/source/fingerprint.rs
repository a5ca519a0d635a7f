//! By what an adapter knows its base again, wherever that lies: how the tensors are stored, and samples of their bytes.

use crate::arch::{Arch, family};
use crate::rng::Fnv;
use crate::weights::Weights;

/// A hash of a base's storage, one of its values, and one of its layers' norms. Bases whose storage differs, such as a
/// model and the same in fewer bits, cannot be told apart by their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    storage: u64,
    values: u64,
    /// Names and shapes of the norms, which tell families and widths apart and are the same wherever a model is stored;
    /// matrices may be fused in a folder and apart in a GGUF file. `None` in what older versions wrote.
    norms: Option<u64>,
}

impl Fingerprint {
    /// The fingerprint of a model's parameters; samples are read, not whole files.
    pub(super) fn of(arch: &Arch, weights: &Weights) -> Fingerprint {
        // Files of one model may differ in order.
        let mut parameters = family::parameters(arch);
        parameters.sort_unstable();
        let (mut storage, mut values, mut norms) = (Fnv::new(), Fnv::new(), Fnv::new());
        for (name, shape) in &parameters {
            storage.write(weights.storage_of(name).as_bytes());
            weights.samples(name).for_each(|bytes| values.write(&bytes));
            if name.contains("norm") {
                norms.write(format!("{name} {shape:?};").as_bytes());
            }
        }
        Fingerprint { storage: storage.0, values: values.0, norms: Some(norms.0) }
    }

    /// Reads what [`Fingerprint`] writes; `None` if it is something else.
    pub(super) fn parse(text: &str) -> Option<Fingerprint> {
        let mut numbers = text.split('-').map(|hex| u64::from_str_radix(hex, 16).ok());
        let (storage, values, norms) = (numbers.next()??, numbers.next()??, numbers.next());
        match (norms, numbers.next()) {
            (Some(None), _) | (_, Some(_)) => None,
            (norms, None) => Some(Fingerprint { storage, values, norms: norms.flatten() }),
        }
    }

    /// Whether the two are surely of different models: with other norms, or stored alike with other values.
    pub(super) fn contradicts(self, other: Fingerprint) -> bool {
        let norms = self.norms.zip(other.norms).is_some_and(|(one, another)| one != another);
        norms || self.storage == other.storage && self.values != other.values
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}", self.storage, self.values)?;
        self.norms.map_or(Ok(()), |norms| write!(f, "-{norms:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Fingerprint;

    #[test]
    fn bases_are_told_apart_as_far_as_that_is_sure() {
        let of = |text: &str| Fingerprint::parse(text).unwrap();
        let one = of("1-2-3");
        for (other, contradicts) in [
            ("1-2-3", false),
            ("1-5-3", true),
            // The same in fewer bits, or another of the same kind.
            ("4-5-3", false),
            ("4-5-6", true),
            // Written before norms were.
            ("4-5", false),
            ("1-5", true),
        ] {
            assert_eq!(one.contradicts(of(other)), contradicts, "{other}");
            assert_eq!(of(other).contradicts(one), contradicts, "{other}");
            assert_eq!(of(&of(other).to_string()), of(other));
        }
        assert!(["", "1", "1-2-x", "1-2-3-4"].iter().all(|text| Fingerprint::parse(text).is_none()));
    }
}
