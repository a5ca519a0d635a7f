// C = A B for GPUs: blocks of 64 x 64 staged in workgroup memory 16 deep, 8 x 4 results a lane (128 lanes;
// docs/notebook/gpu.md has the forms that lost). Rows of a lane lie 8 apart and neighbouring lanes hold neighbouring
// columns, so that they read neighbouring banks. What is staged is written out twice, not looped over, so that all
// loads start together. Few rows (decode) take forward_rows and forward_q: there the weights are read once, K is split
// into 8 slices, one a lane, which are added in order. Where a result's bits must not depend on the number of rows, the
// blocked form is launched once for each of the same 8 slices. (A loop over slices in the kernel took SwiftShader's
// compiler minutes.)
struct Params {
    m: u32,      // rows of C
    n4: u32,     // columns of C in vec4
    k: u32,      // where the sum ends
    lda4: u32,
    ldb4: u32,
    ldc4: u32,
    row0: u32,   // first row of this dispatch
    a0: u32,     // vec4 of a row of A before its first one
    b0: u32,     // the same of B
    c0: u32,     // the same of C and of the bias
    k0: u32,     // where the sum begins
    channels: u32, // of a row of A that are no padding, where NORM
    edges: vec4u, // where the adapted layers behind the first begin, in vec4 columns of C
    eps: f32,
    rank4: u32,  // of an adapter, where LORA; then row distances of u, its B and its factors
    ldu4: u32,
    ldl4: u32,
    ldf4: u32,
}

fn store(row: u32, col: u32, v: vec4f) {
    if row < p.m && col < p.n4 {
        let at = row * p.ldc4 + p.c0 + col;
        if ADD == 1u {
            c[at] += v;
        } else {
            c[at] = v;
        }
    }
}

//@ forward blocks fetch
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> b: array<Operand>;        // [K, N]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [M, N]
@compute @workgroup_size(128)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    blocks(g, lane);
}

//@ forward_q_blocks scales bits blocks fetch_q
// B in groups along K, as in forward_q.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> words: array<vec4u>;      // [K * BITS / 32, N]
@group(0) @binding(3) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;    // [M, N]
@compute @workgroup_size(128)
fn forward_q_blocks(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    blocks(g, lane);
}

//@ forward_tn
// A is stored [K, M]: C = A^T B, the form of a weight's gradient (X^T dY, summed over tokens).
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [K, M]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [K, N]
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;    // [M, N]
var<workgroup> as_: array<vec4f, 256>; // [16, 64]
var<workgroup> bs: array<vec4f, 256>;  // [16, 64]
@compute @workgroup_size(128)
fn forward_tn(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let tx = lane % 16u;
    let ty = lane / 16u;
    let row0 = p.row0 + g.y * 64u;
    let col0 = g.x * 16u;
    var x$ = vec4f(); //*8
    for (var k = 0u; k < p.k; k += 16u) {
        var v$ = vec4f(); //*2
        var w$ = vec4f(); //*2
        if k + ty + 8u * $u < p.k && row0 / 4u + tx < p.lda4 { \
            v$ = a[(k + ty + 8u * $u) * p.lda4 + row0 / 4u + tx]; \
        } //*2
        if k + ty + 8u * $u < p.k && col0 + tx < p.n4 { \
            w$ = b[(k + ty + 8u * $u) * p.ldb4 + p.b0 + col0 + tx]; \
        } //*2
        as_[lane + 128u * $u] = v$; //*2
        bs[lane + 128u * $u] = w$; //*2
        workgroupBarrier();
        for (var q = 0u; q < 16u; q++) {
            let s = as_[q * 16u + ty];
            let t = as_[q * 16u + ty + 8u];
            let u = bs[q * 16u + tx];
            x0 = fma(vec4f(s.x), u, x0);
            x1 = fma(vec4f(s.y), u, x1);
            x2 = fma(vec4f(s.z), u, x2);
            x3 = fma(vec4f(s.w), u, x3);
            x4 = fma(vec4f(t.x), u, x4);
            x5 = fma(vec4f(t.y), u, x5);
            x6 = fma(vec4f(t.z), u, x6);
            x7 = fma(vec4f(t.w), u, x7);
        }
        workgroupBarrier();
    }
    store(row0 + ty * 4u + ($u / 4u) * 32u + $u % 4u, col0 + tx, x$); //*8
}

//@ forward_rows finish
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> b: array<Operand>;        // [K, N]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(4) var<storage, read> gain: array<vec4f>;       // [K] where NORM
@group(0) @binding(5) var<storage, read> u: array<vec4f>;          // [M, R] where LORA
@group(0) @binding(6) var<storage, read> low: array<vec4f>;        // [R, N] where LORA
@group(0) @binding(7) var<storage, read_write> c: array<vec4f>;    // [M, N], where GATED [M, N / 2]
@compute @workgroup_size(256)
fn forward_rows(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let tx = lane % 32u;
    let slice = lane / 32u;
    let col = column(g.x, tx);
    let row = p.row0 + g.y * MR;
    var c$ = vec4f(); //*MR
    var n$ = vec4f(); //*MR
    var late = vec4f();
    let length = (p.k / 4u + 7u) / 8u;
    for (var k4 = slice * length; k4 < min((slice + 1u) * length, p.k / 4u); k4++) {
        let bi = k4 * 4u * p.ldb4 + col;
        let b0 = wide(b[bi]);
        let b1 = wide(b[bi + p.ldb4]);
        let b2 = wide(b[bi + 2u * p.ldb4]);
        let b3 = wide(b[bi + 3u * p.ldb4]);
        var a$ = a[min(row + $u, p.m - 1u) * p.lda4 + p.a0 + k4]; //*MR
        if NORM == 1u { n$ = fma(a$, a$, n$); a$ *= f32(OFFSET) + gain[k4]; } //*MR
        c$ = fma(vec4f(a$.w), b3, fma(vec4f(a$.z), b2, fma(vec4f(a$.y), b1, fma(vec4f(a$.x), b0, c$)))); //*MR
    }
    //< adapted
    if BIAS == 1u && slice == 0u {
        late = bias[p.c0 + col];
        if NORM == 0u { c$ += late; } //*MR
    }
    finish(row + $u, g.x, lane, c$, n$, late); //*MR
}

//@ forward_q scales bits finish
// B in groups of GROUP along K: words as `bits` has them, a scale and a minimum per group; dequantised in registers.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> words: array<vec4u>;      // [K * BITS / 32, N]
@group(0) @binding(3) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(5) var<storage, read> gain: array<vec4f>;       // [K] where NORM
@group(0) @binding(6) var<storage, read> u: array<vec4f>;          // [M, R] where LORA
@group(0) @binding(7) var<storage, read> low: array<vec4f>;        // [R, N] where LORA
@group(0) @binding(8) var<storage, read_write> c: array<vec4f>;    // [M, N], where GATED [M, N / 2]
@compute @workgroup_size(256)
fn forward_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let tx = lane % 32u;
    let slice = lane / 32u;
    let col = column(g.x, tx);
    let row = p.row0 + g.y * MR;
    var c$ = vec4f(); //*MR
    var n$ = vec4f(); //*MR
    var late = vec4f();
    for (var group = slice; group < p.k / GROUP; group += 8u) {
        let s = scales_at(group, col, p.ldb4);
        let first = group * GROUP_WORDS;
        var above = vec4u();
        if ABOVE > 0u { above = words[above_row(group) * p.ldb4 + col]; }
        var k4 = group * (GROUP / 4u);
        for (var w = 0u; w < LOWER_WORDS; w++) {
            let q = words[(first + w) * p.ldb4 + col];
            for (var shift = 0u; shift < 32u; shift += 4u * LOWER) {
                let q# = bits_of(q >> vec4u(shift + #u * LOWER), above >> vec4u(#u * ABOVE)); //*1*4
                let b# = fma(steps_of(q#), s.scale, s.minimum); //*1*4
                above >>= vec4u(4u * ABOVE);
                var a$ = a[min(row + $u, p.m - 1u) * p.lda4 + p.a0 + k4]; //*MR
                if NORM == 1u { n$ = fma(a$, a$, n$); a$ *= f32(OFFSET) + gain[k4]; } //*MR
                c$ = fma(vec4f(a$.w), b3, fma(vec4f(a$.z), b2, fma(vec4f(a$.y), b1, fma(vec4f(a$.x), b0, c$)))); //*MR
                k4 += 1u;
            }
        }
    }
    //< adapted
    if BIAS == 1u && slice == 0u {
        late = bias[p.c0 + col];
        if NORM == 0u { c$ += late; } //*MR
    }
    finish(row + $u, g.x, lane, c$, n$, late); //*MR
}
