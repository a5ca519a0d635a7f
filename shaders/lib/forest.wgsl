// Rows of the token forest: row i sees row j exactly when j <= i < end[j] (and pos[i] - pos[j] < window). PARTS lanes
// share a row and hold every PARTSth Part (lib/channels) of its heads. qkv holds [q heads | k heads | v heads], each
// head D4 vec4 wide.
struct Params {
    rows: u32,      // T
    heads: u32,     // H
    kv_heads: u32,  // KV
    ld4: u32,       // (H + 2 KV) D4
    scale: f32,
    window: u32,
    head0: u32,
    d4: u32,        // D4 again, unknown to the compiler
    cap: f32,       // of the scores, with CAP
}
fn visible(i: u32, j: u32, e: u32, distance: u32) -> bool {
    // No short circuit, which would be a branch.
    return (j <= i) & (i < e) & (distance < p.window);
}

// Rows of a workgroup, for ABREAST heads (or groups of HQ heads) beside one another.
const ROWS: u32 = max(WG / PARTS / ABREAST, 1u);
const D: u32 = D4 * UNIT; // of a head, in Parts of 4 / UNIT channels
const SHARE: u32 = D / PARTS; // of a lane
// SHARE as a loop bound: for wide heads a software adapter's compiler must not unroll (16 vec4 took it 20 s, and the
// code was slower), for narrow ones it should.
const HELD: u32 = select(max(SHARE, 33u), SHARE, SHARE <= UNROLLED * UNIT);
fn share() -> u32 {
    return select(p.d4 * UNIT / PARTS, SHARE, SHARE <= UNROLLED * UNIT);
}
