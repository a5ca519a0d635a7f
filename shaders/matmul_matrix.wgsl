// C = A B on matrix units: fragments of SIZE x SIZE in f16, sums in f32. A workgroup is meant to be four subgroups:
// each holds a quarter of a block of C, FR x FC fragments, in registers, and A and B are staged 32 deep, rounded to f16
// (what is too large for it becomes the largest f16, no infinity). Where the device makes subgroups of another size,
// quarters are taken in turn.
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
    m: u32,      // rows of C
    n4: u32,     // columns of C in vec4
    k: u32,      // terms of a sum
    lda4: u32,
    ldb4: u32,
    ldc4: u32,
    row0: u32,   // first row of this dispatch
    c0: u32,     // vec4 of a row of C, and of the bias, before the first one
}
const BM = 2u * FR * SIZE;   // rows of a block
const BN4 = FC * SIZE / 2u;  // its columns in vec4
// 8 values more than a row needs, so that rows fall on different banks.
const STEP_A = 40u;
const STEP_B = 4u * BN4 + 8u;
var<workgroup> as_: array<f16, BM * STEP_A>;          // [BM, 32]
var<workgroup> bs: array<f16, 32u * STEP_B>;          // [32, BN]
var<workgroup> cs: array<f32, 4u * SIZE * SIZE>;   // [4 quarters, SIZE, SIZE]

fn narrow(x: vec4f) -> vec4h {
    return vec4h(clamp(x, vec4f(-65504.0), vec4f(65504.0)));
}
// Four neighbours of a row of as_ or bs.
fn put_a(at: u32, x: vec4f) {
    let h = narrow(x);
    as_[at] = h.x; as_[at + 1u] = h.y; as_[at + 2u] = h.z; as_[at + 3u] = h.w;
}
fn put_b(at: u32, x: vec4f) {
    let h = narrow(x);
    bs[at] = h.x; bs[at + 1u] = h.y; bs[at + 2u] = h.z; bs[at + 3u] = h.w;
}

struct Place {
    @builtin(workgroup_id) group: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) lanes: u32,
    @builtin(subgroup_invocation_id) in_subgroup: u32,
}
fn block(at: Place) {
    let row0 = p.row0 + at.group.y * BM;
    let col0 = at.group.x * BN4;
    let r = at.lane / 8u;
    let ka = at.lane % 8u;
    let kb = at.lane / BN4;
    let cx = col0 + at.lane % BN4;
    let turns = (3u + at.subgroups) / at.subgroups;
    for (var turn = 0u; turn < turns; turn++) {
        let quarter = turn * at.subgroups + at.subgroup;
        let fr0 = quarter / 2u % 2u * FR * SIZE;
        let fc0 = quarter % 2u * FC * SIZE;
        var c$_# = Sum(); //*FR*FC
        for (var k = 0u; k < p.k; k += 32u) {
            var v$ = vec4f(); //*AV
            if row0 + r + (WG / 8u) * $u < p.m && k + ka * 4u < p.k { \
                v$ = a[(row0 + r + (WG / 8u) * $u) * p.lda4 + k / 4u + ka]; \
            } //*AV
            var w$ = vec4f(); //*BV
            if k + kb + (WG / BN4) * $u < p.k && cx < p.n4 { \
                w$ = fetch(k + kb + (WG / BN4) * $u, cx); \
            } //*BV
            put_a((r + (WG / 8u) * $u) * STEP_A + ka * 4u, v$); //*AV
            put_b((kb + (WG / BN4) * $u) * STEP_B + at.lane % BN4 * 4u, w$); //*BV
            workgroupBarrier();
            for (var q = 0u; q < 32u; q += SIZE) {
                let ia$ = (fr0 + SIZE * $u) * STEP_A + q; //*FR
                let ib$ = q * STEP_B + fc0 + SIZE * $u; //*FC
                let a$ = coopLoadT<Left>(&as_[ia$], STEP_A); //*FR
                let b$ = coopLoadT<Right>(&bs[ib$], STEP_B); //*FC
                c$_# = coopMultiplyAdd(a$, b#, c$_#); //*FR*FC
            }
            workgroupBarrier();
        }
        // A fragment at a time goes through workgroup memory, since its lanes' shares are the device's own affair.
        let is = quarter % 4u * SIZE * SIZE;
        if quarter < 4u { coopStoreT(c$_#, &cs[is], SIZE); } \
        workgroupBarrier(); \
        finish(at, quarter, row0 + fr0 + SIZE * $u, col0 + (fc0 + SIZE * #u) / 4u); \
        workgroupBarrier(); //*FR*FC
    }
}
fn finish(at: Place, quarter: u32, row0: u32, col0: u32) {
    if quarter > 3u { return; }
    for (var i = at.in_subgroup; i < SIZE * SIZE / 4u; i += at.lanes) {
        let row = row0 + i / (SIZE / 4u);
        let col = col0 + i % (SIZE / 4u);
        if row < p.m && col < p.n4 {
            let at4 = quarter * SIZE * SIZE + i * 4u;
            var v = vec4f(cs[at4], cs[at4 + 1u], cs[at4 + 2u], cs[at4 + 3u]);
            if BIAS == 1u { v += bias[p.c0 + col]; }
            let to = row * p.ldc4 + p.c0 + col;
            if ADD == 1u { v += c[to]; }
            c[to] = v;
        }
    }
}

//@ forward fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> b: array<Operand>;        // [K, N]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [M, N]
@compute @workgroup_size(WG)
fn forward(at: Place) {
    block(at);
}

//@ forward_q scales bits fetch_q
// B in groups of GROUP along K: words as `bits` has them, a scale and a minimum per group.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> words: array<vec4u>;      // [K * BITS / 32, N]
@group(0) @binding(3) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;    // [M, N]
@compute @workgroup_size(WG)
fn forward_q(at: Place) {
    block(at);
}
