// C = A B, for adapters that run on the CPU: no barrier, 8 lanes side by side over vec4 columns of B. Of the rows of A,
// which all lanes need, each lane loads a share (lib/lanes). MR rows and NC vec4 columns a lane, the columns a
// workgroup's width apart; with all lanes along K instead (weights stored [N, K]) the same adapter reaches a quarter of
// this. Neighbouring workgroups take neighbouring rows, so that a strip of B stays in the cache. What is
// held in registers is written out (//*MR*NC; docs/SHADERS.md), since loops over private arrays are not unrolled.
struct Params {
    m: u32,      // rows of C
    n4: u32,     // columns of C in vec4
    k: u32,      // length of the sum
    lda4: u32,
    ldb4: u32,
    ldc4: u32,
    row0: u32,   // first row of this dispatch
    a0: u32,     // vec4 of a row of A before its first one
    b0: u32,     // the same of B
    c0: u32,     // the same of C and of the bias
    k0: u32,     // where the sum begins, in forward and forward_tn
    channels: u32, // of a row of A that are no padding, where NORM
    edges: vec4u, // where the adapted layers behind the first begin, in vec4 columns of C
    eps: f32,
    rank4: u32,  // of an adapter, where LORA; then row distances of u, its B and its factors
    ldu4: u32,
    ldl4: u32,
    ldf4: u32,
}
// NORM: A's rows are RMS-normalised on the way, x / sqrt(mean(x^2) + eps) * (OFFSET + gain). The factor of a row leaves
// the sum.
fn rms(squares: vec4f) -> vec4f {
    return vec4f(inverseSqrt(dot(squares, vec4f(1.0)) / f32(p.channels) + p.eps));
}
// LORA: bias [3, N] holds bias, g and f (lib/adapted.soft.wgsl).
// GATED: B is [gate | up], C = act(A gate) * (A up); a lane's two columns (NC is 2) stand half of N apart.

//@ forward lanes
// A [M, K] by rows; K is a multiple of 4, B has that many rows.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> b: array<Operand>;        // [K, N]
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;       // [N] where BIAS
@group(0) @binding(4) var<storage, read> gain: array<vec4f>;       // [K] where NORM
@group(0) @binding(5) var<storage, read> u: array<vec4f>;          // [M, R] where LORA
@group(0) @binding(6) var<storage, read> low: array<vec4f>;        // [R, N] where LORA
@group(0) @binding(7) var<storage, read_write> c: array<vec4f>;    // [M, N], where GATED [M, N / 2]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, lane: Lane) {
    let begin = g.y * WG * select(NC, 1u, GATED == 1u);
    let first = begin + lane.index;
    let step = select(WG, p.n4 / 2u, GATED == 1u);
    let row = p.row0 + g.x * MR;
    let col# = min(first + #u * step, p.n4 - 1u); //*1*NC
    let at$ = min(row + $u, p.m - 1u) * p.lda4 + p.a0; //*MR
    var c$_# = vec4f(); //*MR*NC
    var q$ = vec4f(); //*MR
    var bi = p.k0 * p.ldb4;
    let k4 = p.k / 4u;
    for (var k = p.k0 / 4u; k < k4; k += LANES) {
        let i = min(k + own(lane), k4 - 1u);
        var v$ = a[at$ + i]; //*MR
        if NORM == 1u { q$ = fma(v$, select(vec4f(), v$, k + own(lane) < k4), q$); v$ *= f32(OFFSET) + gain[i]; } //*MR
        let here = min(LANES, k4 - k);
        for (var j = 0u; j < here; j++) {
            let x# = wide(b[bi + col#]); //*1*NC
            let y# = wide(b[bi + p.ldb4 + col#]); //*1*NC
            let z# = wide(b[bi + 2u * p.ldb4 + col#]); //*1*NC
            let w# = wide(b[bi + 3u * p.ldb4 + col#]); //*1*NC
            bi += 4u * p.ldb4;
            let a$ = from_lane(v$, j); //*MR
            c$_# = fma(vec4f(a$.w), w#, fma(vec4f(a$.z), z#, \
                   fma(vec4f(a$.y), y#, fma(vec4f(a$.x), x#, c$_#)))); //*MR*NC
        }
    }
    if NORM == 1u {
        let r$ = rms(total(q$, lane)); //*MR
        c$_# *= r$; //*MR*NC
    }
    //< adapted
    if BIAS == 1u { c$_# += bias[p.c0 + col#]; } //*MR*NC
    if row + $u < p.m && first < p.n4 / 2u { c[(row + $u) * p.ldc4 + col0] = gated(ACT, c$_0, c$_1); } //*MR*GATED
    if GATED == 0u && row + $u < p.m && first + #u * WG < p.n4 { \
        let o = (row + $u) * p.ldc4 + p.c0 + col#; \
        if ADD == 1u { c[o] += c$_#; } else { c[o] = c$_#; } \
    } //*MR*NC
}

//@ forward_tn
// A is stored [K, M]: C = A^T B, the form of a weight's gradient (X^T dY, summed over tokens).
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [K, M]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [K, N]
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;    // [M, N]
@compute @workgroup_size(WG)
fn forward_tn(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let col = g.x * WG + lane;
    let row4 = p.row0 / 4u + g.y * 2u;
    if col >= p.n4 {
        return;
    }
    let second = min(row4 + 1u, p.lda4 - 1u);
    var c$ = vec4f(); //*8
    var ai = p.k0 * p.lda4 + row4;
    var aj = p.k0 * p.lda4 + second;
    var bi = p.k0 * p.ldb4 + p.b0 + col;
    for (var k = p.k0; k < p.k; k++) {
        let v = b[bi];
        let x = a[ai];
        let y = a[aj];
        c0 = fma(vec4f(x.x), v, c0);
        c1 = fma(vec4f(x.y), v, c1);
        c2 = fma(vec4f(x.z), v, c2);
        c3 = fma(vec4f(x.w), v, c3);
        c4 = fma(vec4f(y.x), v, c4);
        c5 = fma(vec4f(y.y), v, c5);
        c6 = fma(vec4f(y.z), v, c6);
        c7 = fma(vec4f(y.w), v, c7);
        ai += p.lda4;
        aj += p.lda4;
        bi += p.ldb4;
    }
    let row = row4 * 4u;
    if row + $u < p.m { \
        let o = (row + $u) * p.ldc4 + col; \
        if ADD == 1u { c[o] += c$; } else { c[o] = c$; } \
    } //*8
}

//@ forward_nt
// C = A B^T of so few rows that transposing B first does not pay: a lane takes 4 rows of B as they lie.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;          // [M, K]
@group(0) @binding(2) var<storage, read> b: array<Operand>;        // [N, K]
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;    // [M, N]
@compute @workgroup_size(WG)
fn forward_nt(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let col = g.x * WG + lane;
    let row = p.row0 + g.y * MR;
    if col >= p.n4 {
        return;
    }
    let at$ = min(row + $u, p.m - 1u) * p.lda4 + p.a0; //*MR
    var c$_# = vec4f(); //*MR*4
    let b# = (col * 4u + #u) * p.ldb4; //*1*4
    for (var k4 = 0u; k4 < p.k / 4u; k4++) {
        let w# = wide(b[b# + k4]); //*1*4
        let a$ = a[at$ + k4]; //*MR
        c$_# = fma(a$, w#, c$_#); //*MR*4
    }
    let one = vec4f(1.0);
    if row + $u < p.m { \
        let o = (row + $u) * p.ldc4 + col; \
        let v = vec4f(dot(c$_0, one), dot(c$_1, one), dot(c$_2, one), dot(c$_3, one)); \
        if ADD == 1u { c[o] += v; } else { c[o] = v; } \
    } //*MR
}

//@ forward_q lanes scales bits
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
@compute @workgroup_size(WG)
fn forward_q(@builtin(workgroup_id) g: vec3u, lane: Lane) {
    let begin = g.y * WG * select(NC, 1u, GATED == 1u);
    let first = begin + lane.index;
    let step = select(WG, p.n4 / 2u, GATED == 1u);
    let row = p.row0 + g.x * MR;
    let col# = min(first + #u * step, p.n4 - 1u); //*1*NC
    let at$ = min(row + $u, p.m - 1u) * p.lda4 + p.a0; //*MR
    var c$_# = vec4f(); //*MR*NC
    var q$ = vec4f(); //*MR
    // Of a group of 16 two lanes load each vec4, so what the lanes add up counts it twice.
    let once = select(1.0, f32(GROUP) / 32.0, LANES == 8u);
    var wi = 0u;
    for (var group = 0u; group < p.k / GROUP; group++) {
        var s$_# = vec4f(); //*MR*NC
        var t$ = vec4f(); //*MR
        var v$ = vec4f(); //*MR
        var i = group * (GROUP / 4u) + own(lane) % (GROUP / 4u);
        if LANES == 8u {
            v$ = a[at$ + i]; //*MR
            if NORM == 1u { q$ = fma(v$, v$, q$); v$ *= f32(OFFSET) + gain[i]; } //*MR
            t$ = v$; //*MR
        }
        var j = 0u;
        var above# = vec4u(); //*1*NC
        if ABOVE > 0u { above# = words[wi + LOWER_WORDS * p.ldb4 + col#]; } //*1*NC
        for (var w = 0u; w < LOWER_WORDS; w++) {
            let u# = words[wi + col#]; //*1*NC
            wi += p.ldb4;
            for (var shift = 0u; shift < 32u; shift += 4u * LOWER) {
                if LANES == 1u {
                    v$ = a[at$ + i]; //*MR
                    if NORM == 1u { q$ = fma(v$, v$, q$); v$ *= f32(OFFSET) + gain[i]; } //*MR
                    t$ += v$; //*MR
                    i += 1u;
                }
                let a$ = from_lane(v$, j); //*MR
                j += 1u;
                let x# = steps_of(bits_of(u# >> vec4u(shift), above#)); //*1*NC
                s$_# = fma(vec4f(a$.x), x#, s$_#); //*MR*NC
                let y# = steps_of(bits_of(u# >> vec4u(shift + LOWER), above# >> vec4u(ABOVE))); //*1*NC
                s$_# = fma(vec4f(a$.y), y#, s$_#); //*MR*NC
                let z# = steps_of(bits_of(u# >> vec4u(shift + 2u * LOWER), above# >> vec4u(2u * ABOVE))); //*1*NC
                s$_# = fma(vec4f(a$.z), z#, s$_#); //*MR*NC
                let w# = steps_of(bits_of(u# >> vec4u(shift + 3u * LOWER), above# >> vec4u(3u * ABOVE))); //*1*NC
                s$_# = fma(vec4f(a$.w), w#, s$_#); //*MR*NC
                above# >>= vec4u(4u * ABOVE); //*1*NC
            }
        }
        wi += (GROUP_WORDS - LOWER_WORDS) * p.ldb4;
        let f# = scales_at(group, col#, p.ldb4); //*1*NC
        let e$ = total(vec4f(t$.x + t$.y + t$.z + t$.w), lane) * once; //*MR
        c$_# = fma(e$, f#.minimum, fma(s$_#, f#.scale, c$_#)); //*MR*NC
    }
    if NORM == 1u {
        let r$ = rms(total(q$, lane) * once); //*MR
        c$_# *= r$; //*MR*NC
    }
    //< adapted
    if BIAS == 1u { c$_# += bias[p.c0 + col#]; } //*MR*NC
    if row + $u < p.m && first < p.n4 / 2u { c[(row + $u) * p.ldc4 + col0] = gated(ACT, c$_0, c$_1); } //*MR*GATED
    if GATED == 0u && row + $u < p.m && first + #u * WG < p.n4 { \
        let o = (row + $u) * p.ldc4 + p.c0 + col#; \
        if ADD == 1u { c[o] += c$_#; } else { c[o] = c$_#; } \
    } //*MR*NC
}
