//! How much of a card's memory its work is planned with.

use super::{DeviceInfo, Gpu, mib};

/// The parts of 100 of a card's memory that are planned with: a driver, a desktop and what the ledger does not see
/// (pipelines, staging) want their share. What others hold right now does not count, so that a resumed work is cut as
/// it was.
const USABLE: u64 = 92;

/// The bytes that are planned with where no cap is given. Software adapters have none: they share the system's memory,
/// and their work is cut alike on all machines.
pub(super) fn of(info: &DeviceInfo) -> Option<u64> {
    (!info.software).then_some(usable(info.memory_bytes))
}

/// The cap that somebody gave.
pub(super) fn given(gpu: &Gpu) -> Option<u64> {
    gpu.memory().filter(|bytes| Some(*bytes) != of(gpu.info()))
}

/// The bytes of a card's memory that are planned with.
fn usable(bytes: u64) -> u64 {
    bytes / 100 * USABLE
}

impl Gpu {
    /// The most bytes that live buffers may have: what was asked for ([`crate::gpu::Options::memory`]), else 92 % of
    /// the card's memory ([`DeviceInfo::memory_bytes`]); None, no limit, on a software adapter.
    pub fn memory(&self) -> Option<u64> {
        self.0.memory
    }

    /// Bytes to plan with, also on a device that counts without a cap.
    pub(crate) fn planned_bytes(&self) -> u64 {
        self.0.memory.unwrap_or(usable(self.info().memory_bytes))
    }

    /// The cap in words, for messages.
    pub(crate) fn cap_told(&self) -> String {
        let bytes = mib(self.planned_bytes());
        match (given(self), self.info()) {
            (Some(_), _) => format!("{bytes} MiB"),
            (None, DeviceInfo { memory_bytes, memory_source, .. }) => {
                let card = mib(*memory_bytes);
                format!("{bytes} MiB, {USABLE} % of the card's {card} ({memory_source}; --memory says otherwise)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory;
    use super::*;

    #[test]
    fn a_card_is_planned_with_unless_a_cap_is_given() {
        let gpu = Gpu::open(None, Some(1 << 20)).unwrap();
        assert_eq!((gpu.counting_desktop().memory(), gpu.cap_told()), (Some(1 << 20), "1.0 MiB".into()));
        let gpu = Gpu::open(None, None).unwrap();
        assert_eq!(gpu.memory(), of(gpu.info()));
        let desktop = gpu.counting_desktop();
        assert_eq!(desktop.memory(), Some(usable(memory::ASSUMED)));
        assert!(
            desktop.cap_told().contains("7536.6 MiB, 92 % of the card's 8192.0 (assumed"),
            "{}",
            desktop.cap_told()
        );
        assert_eq!(desktop.counting(None).planned_bytes(), usable(memory::ASSUMED));
    }
}
