//! Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
//! 2011).
//!
//! A number is a pure function of seed, record id and position, so nothing depends on the order in which work is done.
//! The sampler on the GPU uses the counter `[position, 0, id_lo, id_hi]`, [`Stream`] uses `[block, 1, id_lo, id_hi]`,
//! the keys of dropout's masks are drawn at `[step, 2, site_lo, site_hi]`, and the rounding of bf16 weights at
//! `[place, 3, parameter, step]`.

/// The four random words of Philox 4x32 with ten rounds.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let a = u64::from(c0) * 0xD251_1F53;
        let b = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((b >> 32) as u32 ^ c1 ^ k0, b as u32, (a >> 32) as u32 ^ c3 ^ k1, a as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// The low and the high half of `x`.
pub fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// The sampler's uniform number in [0, 1), with 24 bits, for one token position of one record.
pub fn sampler_uniform(seed: u64, id: u64, position: u32) -> f32 {
    let [lo, hi] = halves(id);
    unit(philox([position, 0, lo, hi], halves(seed))[0])
}

/// A number in [0, 1), a multiple of 2^-24, from 32 random bits.
pub(crate) fn unit(x: u32) -> f32 {
    (x >> 8) as f32 / (1 << 24) as f32
}

/// The id of a record: a hash (FNV-1a, 64 bits) of round, stage, prompt and sample number. Two records of a run that
/// differ in any of these draw independent numbers; the place of a record in its file does not matter.
pub fn record_id(round: u32, stage: &str, prompt: &[u32], sample: u32) -> u64 {
    let mut hash = Fnv::new();
    hash.write(&round.to_le_bytes());
    hash.write(&(stage.len() as u64).to_le_bytes());
    hash.write(stage.as_bytes());
    for id in prompt {
        hash.write(&id.to_le_bytes());
    }
    hash.write(&sample.to_le_bytes());
    hash.0
}

/// The prime of FNV with 64 bits.
const PRIME: u64 = 0x0000_0100_0000_01B3;

/// FNV-1a, 64 bits, of some bytes.
pub fn fnv(bytes: &[u8]) -> u64 {
    let mut hash = Fnv::new();
    hash.write(bytes);
    hash.0
}

/// The hash that [`fnv`] gives of all bytes that are written one after another.
pub(crate) struct Fnv(pub(crate) u64);

impl Fnv {
    /// The hash of no bytes.
    pub(crate) fn new() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }

    /// Goes on with more bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// Goes on with more bytes, eight at a time, for files of gigabytes. The result is not FNV-1a.
    pub(crate) fn write_words(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let rest = words.remainder();
        for word in words {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            // A factor moves bits up alone; the shift brings them down again.
            let mixed = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.0 = mixed ^ (mixed >> 32);
        }
        self.write(rest);
    }
}

/// A sequence of random numbers on the host, keyed by a seed and a record id.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    id: [u32; 2],
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of record `id` under `seed`.
    pub fn new(seed: u64, id: u64) -> Self {
        Self { key: halves(seed), id: halves(id), block: 0, words: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox([self.block, 1, self.id[0], self.id[1]], self.key);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        let word = self.words[self.used];
        self.used += 1;
        word
    }

    /// A uniform number in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        unit(self.bits())
    }

    /// A uniform number in 0..n (0 when n is 0). The bias is below n / 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.bits()) * n as u64) >> 32) as usize
    }

    /// A uniform number in lo..=hi.
    pub fn between(&mut self, lo: usize, hi: usize) -> usize {
        lo + self.below(hi.saturating_sub(lo) + 1)
    }

    /// One of `items`, or `None` if there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let i = self.below(items.len());
        items.get(i)
    }

    /// Puts `items` into a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// A standard normal number (Box-Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * f64::from(1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(self.uniform());
        (radius * angle.cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // Random123's own vectors (kat_vectors, philox4x32 10).
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn record_ids_tell_every_part_apart() {
        let base = record_id(1, "candidates", &[5, 6], 0);
        assert_eq!(base, record_id(1, "candidates", &[5, 6], 0));
        for other in [
            record_id(2, "candidates", &[5, 6], 0),
            record_id(1, "prompts", &[5, 6], 0),
            record_id(1, "candidates", &[5, 7], 0),
            record_id(1, "candidates", &[5], 6),
            record_id(1, "candidates", &[5, 6], 1),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn fnv_known_answer() {
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_bit_of_every_word_counts() {
        let of = |bytes: &[u8]| {
            let mut hash = Fnv::new();
            hash.write_words(bytes);
            hash.0
        };
        let bytes = [0u8; 35];
        let mut seen = vec![of(&bytes)];
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            seen.push(of(&other));
        }
        // The highest bits of two words do not make up for each other.
        let mut both = bytes;
        (both[7], both[15]) = (128, 128);
        assert_ne!(of(&both), seen[0]);
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn streams_are_uniform_and_independent() {
        let mut a = Stream::new(7, 1);
        let draws: Vec<f32> = (0..40_000).map(|_| a.uniform()).collect();
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let mut b = Stream::new(7, 2);
        assert_ne!(draws[0], b.uniform());
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[a.below(7)] += 1);
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    #[test]
    fn shuffle_permutes_and_normal_has_unit_variance() {
        let mut s = Stream::new(0, 0);
        let mut items: Vec<usize> = (0..50).collect();
        s.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        let z: Vec<f64> = (0..20_000).map(|_| f64::from(s.normal())).collect();
        let var = z.iter().map(|x| x * x).sum::<f64>() / z.len() as f64;
        assert!((var - 1.0).abs() < 0.05, "{var}");
    }

    #[test]
    fn edge_cases_do_not_panic() {
        let mut s = Stream::new(0, 0);
        assert_eq!(s.below(0), 0);
        assert_eq!(s.between(3, 3), 3);
        assert_eq!(s.choose::<u8>(&[]), None);
    }
}
