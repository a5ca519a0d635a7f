// Beside a product x W of up to four layers whose columns lie side by side (q, k, v; gate, up): y = bias + g * (x W) +
// f * (u B), u = x A (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353), and its backward pass. Each layer has `rank`
// columns of u and as many rows of B. `columns` holds a row of each: bias, g, f and, with DoRA, s and the norm of a
// column of W + s A B. Columns without an adapter have g = 1 and f = 0. MR rows a lane share what is loaded of B.
struct Params {
    rows: u32,   // T
    n4: u32,     // columns of this block of B in vec4
    ldy4: u32,
    ldu4: u32,
    ldl4: u32,   // row distance of B in vec4
    ldf4: u32,   // row distance of columns in vec4
    first4: u32, // where the block begins
    rank4: u32,  // of one layer, in vec4
    edges: vec4u, // where the columns of the layers behind the first begin, in vec4
}

//@ add
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> u: array<vec4f>;          // [T, R]
@group(0) @binding(2) var<storage, read> low: array<vec4f>;        // [R, N]
@group(0) @binding(3) var<storage, read> columns: array<vec4f>;    // [5, N]
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;    // [T, N]
@compute @workgroup_size(WG)
fn add(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let item = flat(g, n) * WG + lane;
    let row = item / p.n4 * MR;
    if row >= p.rows {
        return;
    }
    let col = item % p.n4;
    let at = p.first4 + col;
    let own = layer(at) * p.rank4;
    var s$ = vec4f(); //*MR
    for (var j = 0u; j < p.rank4; j++) {
        let b# = low[(4u * j + #u) * p.ldl4 + col]; //*1*4
        let a$ = u[min(row + $u, p.rows - 1u) * p.ldu4 + own + j]; //*MR
        s$ = fma(vec4f(a$.w), b3, fma(vec4f(a$.z), b2, fma(vec4f(a$.y), b1, fma(vec4f(a$.x), b0, s$)))); //*MR
    }
    let bias = columns[at];
    let whole = columns[p.ldf4 + at];
    let part = columns[2u * p.ldf4 + at];
    if row + $u < p.rows { \
        let o = (row + $u) * p.ldy4 + at; \
        y[o] = fma(part, s$, fma(whole, y[o], bias)); \
    } //*MR
}

//@ back_u
// du = (f * dy) B^T, each layer by its own columns; a block behind the first adds to what is there.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;         // [T, N]
@group(0) @binding(2) var<storage, read> low: array<vec4f>;        // [R, N]
@group(0) @binding(3) var<storage, read> columns: array<vec4f>;    // [5, N]
@group(0) @binding(4) var<storage, read_write> du: array<vec4f>;   // [T, R]
@compute @workgroup_size(WG)
fn back_u(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let item = flat(g, n) * WG + lane;
    let row = item / p.ldu4 * MR;
    if row >= p.rows {
        return;
    }
    let own = item % p.ldu4;
    let which = own / p.rank4;
    let j = own % p.rank4;
    let edges = p.edges;
    let own_first = select(select(select(0u, edges.x, which == 1u), edges.y, which == 2u), edges.z, which == 3u);
    let own_end = select(select(select(p.ldf4, edges.z, which == 2u), edges.y, which == 1u), edges.x, which == 0u);
    let begin = max(p.first4, own_first);
    let end = min(p.first4 + p.n4, own_end);
    var s$_# = vec4f(); //*MR*4
    for (var at = begin; at < end; at++) {
        let part = columns[2u * p.ldf4 + at];
        let b# = part * low[(4u * j + #u) * p.ldl4 + at - p.first4]; //*1*4
        let d$ = dy[min(row + $u, p.rows - 1u) * p.ldy4 + at]; //*MR
        s$_# = fma(d$, b#, s$_#); //*MR*4
    }
    let one = vec4f(1.0);
    if row + $u < p.rows { \
        let o = (row + $u) * p.ldu4 + own; \
        let v = vec4f(dot(s$_0, one), dot(s$_1, one), dot(s$_2, one), dot(s$_3, one)); \
        if p.first4 > 0u { du[o] += v; } else { du[o] = v; } \
    } //*MR
}

//@ back_b
// dB += u^T (f * dy)
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> u: array<vec4f>;          // [T, R]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;         // [T, N]
@group(0) @binding(3) var<storage, read> columns: array<vec4f>;    // [5, N]
@group(0) @binding(4) var<storage, read_write> db: array<vec4f>;   // [R, N]
@compute @workgroup_size(WG)
fn back_b(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let item = flat(g, n) * WG + lane;
    let j = item / p.n4;
    if j >= p.rank4 {
        return;
    }
    let col = item % p.n4;
    let at = p.first4 + col;
    let own = layer(at) * p.rank4 + j;
    var s# = vec4f(); //*1*4
    for (var row = 0u; row < p.rows; row++) {
        let a = u[row * p.ldu4 + own];
        let d = dy[row * p.ldy4 + at];
        s0 = fma(vec4f(a.x), d, s0);
        s1 = fma(vec4f(a.y), d, s1);
        s2 = fma(vec4f(a.z), d, s2);
        s3 = fma(vec4f(a.w), d, s3);
    }
    let part = columns[2u * p.ldf4 + at];
    db[(4u * j + #u) * p.ldl4 + col] += part * s#; //*1*4
}

//@ scale
// z = g * dy
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;         // [T, N]
@group(0) @binding(2) var<storage, read> columns: array<vec4f>;    // [5, N]
@group(0) @binding(3) var<storage, read_write> z: array<vec4f>;    // [T, N]
@compute @workgroup_size(WG)
fn scale(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.ldf4); i += WG) {
        z[i] = columns[p.ldf4 + i % p.ldf4] * dy[i];
        break; //*ONCE
    }
}

//@ back_m
// dm += sum over rows of dy * (x W + s u B) / norm, whole = x W
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> u: array<vec4f>;          // [T, R]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;         // [T, N]
@group(0) @binding(3) var<storage, read> whole: array<vec4f>;      // [T, N]
@group(0) @binding(4) var<storage, read> low: array<vec4f>;        // [R, N]
@group(0) @binding(5) var<storage, read> columns: array<vec4f>;    // [5, N]
@group(0) @binding(6) var<storage, read_write> dm: array<vec4f>;   // [N]
@compute @workgroup_size(WG)
fn back_m(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let at = flat(g, n) * WG + lane;
    if at >= p.n4 {
        return;
    }
    let own = layer(at) * p.rank4;
    let s = columns[3u * p.ldf4 + at];
    let norm = columns[4u * p.ldf4 + at];
    var sum = vec4f();
    for (var row = 0u; row < p.rows; row++) {
        var part = vec4f();
        for (var j = 0u; j < p.rank4; j++) {
            let b# = low[(4u * j + #u) * p.ldl4 + at]; //*1*4
            let a = u[row * p.ldu4 + own + j];
            part = fma(vec4f(a.w), b3, fma(vec4f(a.z), b2, fma(vec4f(a.y), b1, fma(vec4f(a.x), b0, part))));
        }
        sum = fma(dy[row * p.ldy4 + at], fma(s, part, whole[row * p.ldy4 + at]), sum);
    }
    dm[at] += select(sum / norm, vec4f(), norm == vec4f());
}

//@ norms reduce
// The norms of the columns from first4 on, of which W and part hold the transpose: norm = |W + s part|, g = m / norm, f
// = s g. A column without an adapter has norm 0.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> turned: array<vec4f>;     // [n, K]
@group(0) @binding(2) var<storage, read> part: array<vec4f>;       // [n, K]
@group(0) @binding(3) var<storage, read> m: array<f32>;            // [N]
@group(0) @binding(4) var<storage, read_write> columns: array<f32>; // [5, N]
@compute @workgroup_size(WG)
fn norms(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) l: u32) {
    let row = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if row >= p.rows {
        return;
    }
    let at = 4u * p.first4 + row;
    let ld = 4u * p.ldf4;
    let s = columns[3u * ld + at];
    var sum = 0.0;
    for (var i = lane; i < p.n4; i += LANES) {
        let v = fma(vec4f(s), part[row * p.n4 + i], turned[row * p.n4 + i]);
        sum += dot(v, v);
    }
    let norm = max(sqrt(reduce_sum(sum, l)), 1e-30);
    if lane == 0u && columns[4u * ld + at] != 0.0 {
        columns[ld + at] = m[at] / norm;
        columns[2u * ld + at] = s * m[at] / norm;
        columns[4u * ld + at] = norm;
    }
}
