// The first position that any of the rows from .. to sees through its window: what lies before is jumped over, since a
// position grows by at most 1 a row.
fn first_seen(from_: u32, to: u32) -> u32 {
    var low = pos[from_];
    for (var r = from_ + 1u; r < to; r++) {
        low = min(low, pos[r]);
    }
    return max(low, p.window - 1u) - (p.window - 1u);
}
