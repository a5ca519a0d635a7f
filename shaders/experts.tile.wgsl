// Products of places by the matrices of their experts (shaders/router.wgsl), for GPUs. Matrices stand side by side,
// `[K, E N]`; a launch has those from `first` on, `count` of them. A tile's MR places have one expert: few of them are
// added up in 8 slices of K, a lane each; 32 are multiplied in blocks of 32 x 64, staged in workgroup memory 16 deep.
struct Params {
    n4: u32,     // columns of one expert's matrix in vec4
    k4: u32,     // its rows in vec4
    lda4: u32,
    ldb4: u32,
    ldc4: u32,
    tile0: u32,  // first tile of this dispatch, or the first 64 rows of C in forward_tn
    first: u32,  // first expert of this launch
    count: u32,  // and how many there are
}
// No row, no expert.
const NONE: u32 = 0xffffffffu;

//@ forward_few fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [T, K] where GATHER, else [S, K]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [S]
@group(0) @binding(3) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(4) var<storage, read> b: array<Operand>;        // [K, E N]
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;       // [E N] where BIAS
@group(0) @binding(6) var<storage, read_write> c: array<vec4f>;    // [S, N]
var<workgroup> part: array<vec4f, 256>; // [8 slices, 32 columns]
@compute @workgroup_size(256)
fn forward_few(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped_few
}

//@ forward_few_q scales bits fetch_q
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [T, K] where GATHER, else [S, K]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [S]
@group(0) @binding(3) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(4) var<storage, read> words: array<vec4u>;      // [K * BITS / 32, E N]
@group(0) @binding(5) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(6) var<storage, read> bias: array<vec4f>;       // [E N] where BIAS
@group(0) @binding(7) var<storage, read_write> c: array<vec4f>;    // [S, N]
var<workgroup> part: array<vec4f, 256>; // [8 slices, 32 columns]
@compute @workgroup_size(256)
fn forward_few_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped_few
}

//@ forward fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [T, K] where GATHER, else [S, K]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [S]
@group(0) @binding(3) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(4) var<storage, read> b: array<Operand>;        // [K, E N]
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;       // [E N] where BIAS
@group(0) @binding(6) var<storage, read_write> c: array<vec4f>;    // [S, N]
// 5 vec4 a row instead of 4, so that the rows written together fall on different banks.
var<workgroup> as_: array<vec4f, 160>; // [32, 16]
var<workgroup> bs: array<vec4f, 256>;  // [16, 64]
@compute @workgroup_size(128)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped
}

//@ forward_q scales bits fetch_q
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [T, K] where GATHER, else [S, K]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [S]
@group(0) @binding(3) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(4) var<storage, read> words: array<vec4u>;      // [K * BITS / 32, E N]
@group(0) @binding(5) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(6) var<storage, read> bias: array<vec4f>;       // [E N] where BIAS
@group(0) @binding(7) var<storage, read_write> c: array<vec4f>;    // [S, N]
// 5 vec4 a row instead of 4, so that the rows written together fall on different banks.
var<workgroup> as_: array<vec4f, 160>; // [32, 16]
var<workgroup> bs: array<vec4f, 256>;  // [16, 64]
@compute @workgroup_size(128)
fn forward_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped
}

//@ forward_nt fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [S, N]
@group(0) @binding(2) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(3) var<storage, read> b: array<Operand>;        // [K, E N]
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [S, K]
var<workgroup> as_: array<vec4f, 160>; // [32, 16], 5 vec4 a row
var<workgroup> bs: array<f32, 1024>;   // [16 of N, 64 of K]
@compute @workgroup_size(128)
fn forward_nt(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped_nt
}

//@ forward_nt_q scales bits fetch_q
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [S, N]
@group(0) @binding(2) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(3) var<storage, read> words: array<vec4u>;      // [K * BITS / 32, E N]
@group(0) @binding(4) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;    // [S, K]
var<workgroup> as_: array<vec4f, 160>; // [32, 16], 5 vec4 a row
var<workgroup> bs: array<f32, 1024>;   // [16 of N, 64 of K]
@compute @workgroup_size(128)
fn forward_nt_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped_nt
}

//@ forward_tn
// C += A^T B over the places of each expert: the form of the gradient by its matrix.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [T, K] where GATHER, else [S, K]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [S]
@group(0) @binding(3) var<storage, read> ranges: array<vec2u>;     // [E, first place | rows]
@group(0) @binding(4) var<storage, read> b: array<vec4f>;          // [S, N]
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;    // [K, E N]
var<workgroup> as_: array<vec4f, 256>; // [16, 64]
var<workgroup> bs: array<vec4f, 256>;  // [16, 64]
@compute @workgroup_size(128)
fn forward_tn(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let tx = lane % 16u;
    let ty = lane / 16u;
    let row4 = (p.tile0 + g.y) * 16u;
    let col = g.x * 16u + tx;
    let range = ranges[p.first + g.z];
    let end = range.x + range.y;
    var x$ = vec4f(); //*8
    for (var s = range.x; s < end; s += 16u) {
        var v$ = vec4f(); //*2
        var w$ = vec4f(); //*2
        let s$ = s + ty + 8u * $u; //*2
        if s$ < end && row4 + tx < p.k4 { \
            v$ = a[select(s$, row[s$] / CHOSEN, GATHER == 1u) * p.lda4 + row4 + tx]; \
        } //*2
        if s$ < end && col < p.n4 { w$ = b[s$ * p.ldb4 + col]; } //*2
        as_[lane + 128u * $u] = v$; //*2
        bs[lane + 128u * $u] = w$; //*2
        workgroupBarrier();
        for (var q = 0u; q < 16u; q++) {
            let i = as_[q * 16u + ty];
            let j = as_[q * 16u + ty + 8u];
            let u = bs[q * 16u + tx];
            x0 = fma(vec4f(i.x), u, x0);
            x1 = fma(vec4f(i.y), u, x1);
            x2 = fma(vec4f(i.z), u, x2);
            x3 = fma(vec4f(i.w), u, x3);
            x4 = fma(vec4f(j.x), u, x4);
            x5 = fma(vec4f(j.y), u, x5);
            x6 = fma(vec4f(j.z), u, x6);
            x7 = fma(vec4f(j.w), u, x7);
        }
        workgroupBarrier();
    }
    if row4 + ty + ($u / 4u) * 8u < p.k4 && col < p.n4 { \
        c[((row4 + ty + ($u / 4u) * 8u) * 4u + $u % 4u) * p.ldc4 + g.z * p.n4 + col] += x$; \
    } //*8
}

//@ sums
// What is added to the gradient by the experts' biases: of each the sum of its places.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ranges: array<vec2u>;     // [E, first place | rows]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [S, N]
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;    // [E N]
@compute @workgroup_size(WG)
fn sums(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let col = g.x * WG + lane;
    if col >= p.n4 {
        return;
    }
    var sum = vec4f();
    let range = ranges[g.z];
    for (var s = range.x; s < range.x + range.y; s++) {
        sum += b[s * p.ldb4 + col];
    }
    c[g.z * p.n4 + col] += sum;
}
