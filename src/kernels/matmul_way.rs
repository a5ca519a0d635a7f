//! Which entry point and which tiles a product takes.

use super::product::Extras;
use super::way::{Constant, Traits, Way};
use super::weight::Stored;
use crate::arch::Activation;
use crate::gpu::{LANES, Source, Variant, WIDE};
use std::collections::BTreeSet;

pub(super) static SOURCE: Source = Source {
    name: "matmul",
    soft: include_str!("../../shaders/matmul.soft.wgsl"),
    tile: include_str!("../../shaders/matmul.tile.wgsl"),
    libs: &["operand", "gate", "layers"],
    tile_size: 64,
};

/// Most rows that a product normalises on the way. Each workgroup does it anew: with 8 rows a soft lane would do half
/// as much work again, and a GPU's forward_rows would take 120 registers in place of 80, as RADV compiles it.
const NORMALISED: usize = 2;

/// Most rows of a product that the tile variant splits along K.
pub(super) const ROWS: usize = 8;

/// Most rows of A B^T that are multiplied by B as it lies.
const UNTURNED: usize = 4;

/// Rows and vec4 columns of the result that one lane of the soft kernels holds. With few rows one column alone leaves
/// the adapter's compiler too little to do beside each load: 2 or 4 take a third to a half of its time on quantised
/// weights. What more than 8 rows hold lies in memory, but each load of a weight, which costs more, serves all of them;
/// 64 rows gain nothing more.
pub(super) const TILES: [(u32, u32); 14] =
    [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (8, 1), (4, 4), (8, 2), (16, 1), (16, 2), (32, 1)];

/// Whether a product of `m` rows can normalise them on the way. It never does where a row's bits must be the same in
/// any product: the row's factor comes after the sum. Nor does the tile variant with adapters, whose part is in
/// the sum.
pub(super) fn normalises(traits: &Traits, m: usize, adapted: bool) -> bool {
    m <= NORMALISED && !traits.invariant && !(adapted && traits.variant == Variant::Tile)
}

/// Whether a product of `m` rows and sums of `k` terms can add what adapters give: where there are few, another launch
/// costs more, and on adapters that run on the CPU it takes five times as long with many. It never does where a row's
/// bits must be the same in any product, nor where several launches add up the sums.
pub(super) fn adapts(traits: &Traits, stored: Stored, m: usize, k: usize) -> bool {
    let soft = traits.variant == Variant::Soft && !on_units(traits, m);
    !traits.invariant && (m <= ROWS || soft) && panel(stored, m, k) >= k
}

/// Rows of B that a soft product adds up at a time, all or a multiple of 4 of them: of more than some 2,000 the strip
/// of B that neighbouring workgroups of many rows read, and their rows of A, no longer stay in a core's cache.
pub(super) fn panel(stored: Stored, m: usize, k: usize) -> usize {
    if m <= ROWS || stored.is_quantised() {
        return k.max(1);
    }
    let panels = k.div_ceil(2048).max(1);
    (k / 4).div_ceil(panels).max(1) * 4
}

/// Whether a product of `m` rows can end in the gated activation, by a matrix in one block.
pub(super) fn gates(traits: &Traits, m: usize) -> bool {
    !on_units(traits, m) && (traits.variant == Variant::Soft || m <= ROWS)
}

/// Whether a product of `m` rows is left to matrix units.
pub(super) fn on_units(traits: &Traits, m: usize) -> bool {
    traits.matrix_units && m > ROWS
}

/// Whether A B^T of `m` rows reads B as it lies.
pub(super) fn unturned(traits: &Traits, stored: Stored, m: usize) -> bool {
    traits.variant == Variant::Soft && m <= UNTURNED && !stored.is_quantised()
}

/// Most rows of a lane: of quantised weights, which are dequantised for all of them anyway, fewer; where each lane
/// loads A for itself, 8.
fn most_held(traits: &Traits, stored: Stored) -> u32 {
    match (traits.lanes, stored) {
        (false, _) => 8,
        (true, Stored::Quantised(_)) => 16,
        (true, _) => 32,
    }
}

/// The tiles that the tuner chooses from, in the order of [`TILES`]: fewer rows than half of what there is read the
/// weights too often. The kernels for GPUs hold as many rows as there are, up to 8.
pub(super) fn tiles(traits: &Traits, stored: Stored, m: usize, gated: bool) -> Vec<(u32, u32)> {
    let most = m.next_power_of_two().clamp(1, most_held(traits, stored) as usize) as u32;
    if traits.variant == Variant::Tile {
        return vec![untuned(m, gated)];
    }
    let suits = |(rows, wide): &(u32, u32)| (most.div_ceil(2)..=most).contains(rows) && (!gated || *wide == 2);
    TILES.into_iter().filter(suits).collect()
}

/// The tile of what is not tuned: that of GPUs.
pub(super) fn untuned(m: usize, gated: bool) -> (u32, u32) {
    (m.next_power_of_two().clamp(1, ROWS) as u32, if gated { 2 } else { 1 })
}

/// The tuned number of rows, or a half or a quarter of it where that leaves fewer of a lane's rows without a row of A.
pub(super) fn held(m: usize, tuned: u32) -> u32 {
    let fewer = [tuned, tuned / 2, tuned / 4].into_iter().filter(|rows| *rows == tuned || *rows >= 8);
    // A row of a lane that holds few costs more: loads of B are shared by fewer.
    let cost = |rows: u32| m.next_multiple_of(rows as usize) * (rows as usize + 2) / rows as usize;
    fewer.min_by_key(|rows| cost(*rows)).unwrap_or(tuned)
}

/// Whether a product of `m` rows reads in words of 64 bits: 2.0 to 2.3 times as fast where what is read comes from a
/// cache. Few rows read weights from memory, where it is half as fast: with AVX-512 the compiler chains the loads of 8
/// lanes by masks, and each waits for the one before.
pub(super) fn wide_words(traits: &Traits, m: usize) -> bool {
    m > ROWS && traits.wide_words
}

/// Whether the lanes of a soft workgroup load A for each other. Weights in f32 by one row come from memory, and the
/// form that has each lane load for itself takes a tenth to a third less time there.
pub(super) fn share_loads(traits: &Traits, stored: Stored, m: usize) -> bool {
    traits.lanes && (m > 1 || stored != Stored::Dense)
}

/// Whether the tile variant stages blocks of 64 x 64, which only pays when its 64 rows are mostly there; quantised
/// weights have their own slices of K where bits must not depend on the number of rows.
pub(super) fn blocked(traits: &Traits, stored: Stored, m: usize) -> bool {
    traits.variant == Variant::Tile && m > ROWS && !(stored.is_quantised() && traits.invariant)
}

/// The pipeline of C = A B with `m` rows and a tile of so many rows and vec4 columns.
pub(super) fn way(traits: &Traits, stored: Stored, m: usize, extras: Extras, (rows, wide): (u32, u32)) -> Way {
    let soft = traits.variant == Variant::Soft;
    let blocked = blocked(traits, stored, m);
    let entry = match (stored.is_quantised(), soft, blocked) {
        (true, _, true) => "forward_q_blocks",
        (true, ..) => "forward_q",
        (_, true, _) | (_, _, true) => "forward",
        _ => "forward_rows",
    };
    let mut constants = stored.constants();
    constants.extend((!blocked).then_some(("MR", rows)));
    if soft {
        constants.push(("NC", wide));
        constants.extend(share_loads(traits, stored, m).then_some(LANES));
        constants.extend(wide_words(traits, m).then_some(WIDE));
    }
    constants.extend(fused(extras));
    constants.extend([("BIAS", u32::from(extras.bias)), ("ADD", u32::from(extras.add))]);
    Way::new(&SOURCE, traits, entry, constants)
}

/// The pipeline of C (+)= A B^T with B as it lies, `rows` rows a lane.
pub(super) fn way_unturned(traits: &Traits, stored: Stored, rows: u32, add: bool) -> Way {
    let mut constants = stored.constants();
    constants.extend([("ADD", u32::from(add)), ("MR", rows)]);
    constants.extend(fused(Extras::default()));
    Way::new(&SOURCE, traits, "forward_nt", constants)
}

/// The pipeline of C (+)= A^T B.
pub(super) fn way_tn(traits: &Traits, add: bool) -> Way {
    Way::new(&SOURCE, traits, "forward_tn", [&[("ADD", u32::from(add))], &fused(Extras::default())[..]].concat())
}

/// The constants of what a product does besides, but for BIAS and ADD.
fn fused(extras: Extras) -> [Constant; 5] {
    [
        ("LORA", u32::from(extras.lora)),
        ("NORM", u32::from(extras.norm.is_some())),
        ("OFFSET", u32::from(extras.norm == Some(true))),
        ("GATED", u32::from(extras.gate.is_some())),
        extras.gate.unwrap_or(Activation::Silu).constant(),
    ]
}

/// What a product of `m` rows may do besides.
fn all_extras(traits: &Traits, stored: Stored, m: usize) -> Vec<Extras> {
    let gates: Vec<_> = Activation::ALL.into_iter().map(Some).filter(|_| gates(traits, m)).chain([None]).collect();
    let mut all = Vec::new();
    for lora in [false, true].into_iter().filter(|lora| !lora || adapts(traits, stored, m, 4)) {
        let norms = [Some(false), Some(true)].into_iter().filter(|_| normalises(traits, m, lora)).chain([None]);
        for (norm, gate) in norms.flat_map(|norm| gates.iter().map(move |gate| (norm, *gate))) {
            for (bias, add) in [(false, false), (true, false), (false, true), (true, true)] {
                // What is gated is added to nothing, and adapters bring the bias.
                let there = (gate.is_none() || !add) && !(lora && bias);
                all.extend(there.then_some(Extras { bias, add, norm, gate, lora }));
            }
        }
    }
    all
}

/// All pipelines that launchers ask for.
pub(super) fn ways(traits: &Traits) -> Vec<Way> {
    let mut all: Vec<Way> = [false, true].map(|add| way_tn(traits, add)).into();
    for stored in Stored::all() {
        for (rows, add) in [1, 2, 4].into_iter().flat_map(|rows| [(rows, false), (rows, true)]) {
            all.extend(unturned(traits, stored, rows).then(|| way_unturned(traits, stored, rows as u32, add)));
        }
        // What a product can do besides, and most constants, depend on no more of the rows than this.
        let kind = |m: usize| if m <= NORMALISED { m } else { m.clamp(ROWS, ROWS + 1) };
        for gated in [false, true] {
            let tiles = |m: usize| {
                let all = tiles(traits, stored, m, gated).into_iter().chain([untuned(m, gated)]);
                all.map(move |(rows, wide)| (kind(m), (held(m, rows), wide)))
            };
            for (m, tile) in (1..=64).flat_map(tiles).collect::<BTreeSet<_>>() {
                let extras = all_extras(traits, stored, m).into_iter().filter(|extras| extras.gate.is_some() == gated);
                all.extend(extras.map(|extras| way(traits, stored, m, extras, tile)));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::half::Half;
    use crate::kernels::quants::Quants;

    const SOFT: Traits = Traits::plain(Variant::Soft);
    const TILE: Traits = Traits::plain(Variant::Tile);
    const ABLE: Traits = Traits { lanes: true, wide_words: true, ..SOFT };

    #[test]
    fn products_take_the_entry_point_that_suits_rows_and_weights() {
        let [q4, ..] = Quants::ALL.map(Stored::Quantised);
        let ordered = Traits { invariant: true, ..TILE };
        let plain = Extras::default();
        for (traits, stored, m, entry, begin) in [
            (SOFT, Stored::Dense, 1, "forward", vec![("MR", 2), ("NC", 4)]),
            (ABLE, Stored::Dense, 1, "forward", vec![("MR", 2), ("NC", 4)]),
            (ABLE, Stored::Half(Half::Bf16), 1, "forward", vec![("HALF", 1), ("MR", 2), ("NC", 4), LANES]),
            (ABLE, Stored::Dense, 9, "forward", vec![("MR", 2), ("NC", 4), LANES, WIDE]),
            (SOFT, q4, 9, "forward_q", vec![("BITS", 4), ("GROUP", 32), ("SCALES", 0), ("MR", 2), ("NC", 4)]),
            (TILE, Stored::Dense, 8, "forward_rows", vec![("MR", 2)]),
            (TILE, Stored::Dense, 9, "forward", vec![]),
            (TILE, q4, 9, "forward_q_blocks", vec![("BITS", 4), ("GROUP", 32), ("SCALES", 0)]),
            (ordered, q4, 9, "forward_q", vec![("BITS", 4), ("GROUP", 32), ("SCALES", 0), ("MR", 2)]),
        ] {
            let way = way(&traits, stored, m, plain, (2, 4));
            let end = [("LORA", 0), ("NORM", 0), ("OFFSET", 0), ("GATED", 0), ("ACT", 0), ("BIAS", 0), ("ADD", 0)];
            assert_eq!((way.entry, way.constants), (entry, [&begin[..], &end].concat()), "{traits:?} {stored:?} {m}");
        }
    }

    #[test]
    fn few_rows_are_normalised_and_gated_on_the_way() {
        let ordered = Traits { invariant: true, ..SOFT };
        assert!(normalises(&SOFT, 2, true) && !normalises(&SOFT, 3, false) && !normalises(&ordered, 1, false));
        assert!(normalises(&TILE, 2, false) && !normalises(&TILE, 2, true));
        let [q4, ..] = Quants::ALL.map(Stored::Quantised);
        assert!(adapts(&TILE, q4, 8, 64) && !adapts(&TILE, q4, 9, 64) && !adapts(&ordered, q4, 1, 64));
        assert!(adapts(&SOFT, Stored::Dense, 9, 2048) && !adapts(&SOFT, Stored::Dense, 9, 2052));
        assert!(adapts(&SOFT, Stored::Dense, 8, 4096) && adapts(&SOFT, q4, 9, 4096));
        assert!(gates(&SOFT, 1000) && gates(&TILE, 8) && !gates(&TILE, 9));
        let units = Traits { matrix_units: true, ..SOFT };
        assert!(gates(&units, 8) && !gates(&units, 9));
        assert!(adapts(&units, q4, 8, 64) && !adapts(&units, q4, 9, 64));
        assert!(unturned(&SOFT, Stored::Dense, 4) && !unturned(&SOFT, Stored::Dense, 5));
        assert!(!unturned(&TILE, Stored::Dense, 1));
    }

    #[test]
    fn tiles_hold_about_as_many_rows_as_there_are() {
        let [q4, ..] = Quants::ALL.map(Stored::Quantised);
        assert_eq!(tiles(&SOFT, Stored::Dense, 1, false), [(1, 1), (1, 2), (1, 4)]);
        assert_eq!(tiles(&SOFT, Stored::Dense, 100, false), [(4, 1), (4, 2), (8, 1), (4, 4), (8, 2)]);
        assert_eq!(tiles(&ABLE, Stored::Dense, 100, false), [(16, 1), (16, 2), (32, 1)]);
        assert_eq!(tiles(&ABLE, q4, 100, true), [(8, 2), (16, 2)]);
        assert_eq!(tiles(&TILE, q4, 5, true), [(8, 2)]);
        // Of 40 rows, 5 times 8 leave none empty; of 64, two of 32 share the most loads.
        assert_eq!((held(40, 32), held(64, 32), held(3, 4)), (8, 32, 4));
    }
}
