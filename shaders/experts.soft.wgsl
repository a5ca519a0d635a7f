// Products of places by the matrices of their experts (shaders/router.wgsl), for adapters that run on the CPU. Matrices
// stand side by side, `[K, E N]`; a launch has those from `first` on, `count` of them. MR rows a lane, which have one
// expert, by one vec4 column.
struct Params {
    n4: u32,     // columns of one expert's matrix in vec4
    k4: u32,     // its rows in vec4
    lda4: u32,
    ldb4: u32,
    ldc4: u32,
    tile0: u32,  // first tile of this dispatch, or the first 8 rows of C in forward_tn
    first: u32,  // first expert of this launch
    count: u32,  // and how many there are
}
// No row, no expert.
const NONE: u32 = 0xffffffffu;

//@ forward fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [T, K] where GATHER, else [S, K]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [S]
@group(0) @binding(3) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(4) var<storage, read> b: array<Operand>;        // [K, E N]
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;       // [E N] where BIAS
@group(0) @binding(6) var<storage, read_write> c: array<vec4f>;    // [S, N]
@compute @workgroup_size(WG)
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
@compute @workgroup_size(WG)
fn forward_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    //< grouped
}

//@ forward_nt fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [S, N]
@group(0) @binding(2) var<storage, read> expert: array<u32>;       // [S / MR]
@group(0) @binding(3) var<storage, read> b: array<Operand>;        // [K, E N]
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [S, K]
@compute @workgroup_size(WG)
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
@compute @workgroup_size(WG)
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
@compute @workgroup_size(WG)
fn forward_tn(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let e = p.first + g.z;
    let col = g.x * WG + lane;
    if col >= p.n4 {
        return;
    }
    let row4 = (p.tile0 + g.y) * 2u;
    let second = min(row4 + 1u, p.k4 - 1u);
    var c$ = vec4f(); //*8
    let range = ranges[e];
    for (var s = range.x; s < range.x + range.y; s++) {
        let from_ = select(s, row[s] / CHOSEN, GATHER == 1u) * p.lda4;
        let v = b[s * p.ldb4 + col];
        let x = a[from_ + row4];
        let y = a[from_ + second];
        c0 = fma(vec4f(x.x), v, c0);
        c1 = fma(vec4f(x.y), v, c1);
        c2 = fma(vec4f(x.z), v, c2);
        c3 = fma(vec4f(x.w), v, c3);
        c4 = fma(vec4f(y.x), v, c4);
        c5 = fma(vec4f(y.y), v, c5);
        c6 = fma(vec4f(y.z), v, c6);
        c7 = fma(vec4f(y.w), v, c7);
    }
    if row4 * 4u + $u < p.k4 * 4u { c[(row4 * 4u + $u) * p.ldc4 + g.z * p.n4 + col] += c$; } //*8
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
