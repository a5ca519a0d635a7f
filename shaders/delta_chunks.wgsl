// The gated delta rule in chunks of rows (WY form: DeltaNet, arXiv 2406.06484; gated: arXiv 2412.06464). With G the
// sums of g within a chunk, S0 the state before it, and of each row the query q, the key k, the value v:
//   (I + L) u = beta (v - exp(G) S0^T k), L[i, m] = beta_i exp(G_i - G_m) (k_i . k_m) for m < i
//   o = exp(G) S0^T q + A u,              A[i, m] = exp(G_i - G_m) (q_i . k_m) for m <= i
//   S = exp(G_last) S0 + sum of exp(G_last - G_m) k_m u_m^T
// T = (I + L)^-1 is found first, then W = T beta exp(G) k and U = T beta v, so that u = U - W S0 is a product. Each
// chunk of a forest begins with the state behind the one before it on its path.
struct Params {
    first: u32, // the first chunk
    count: u32, // chunks
    size4: u32, // most rows of a chunk, in vec4
    hk: u32,    // heads of keys
    hv: u32,    // heads of values
    k4: u32,    // a head of keys in vec4
    v4: u32,    // a head of values in vec4
}
// A row of a matrix [rows, rows of the chunk] of each head.
fn line_of(t: u32, h: u32) -> u32 {
    return (t * p.hv + h) * p.size4;
}

//@ scores
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read_write> a: array<vec4f>;    // [T, HV, C4]
@group(0) @binding(5) var<storage, read_write> l: array<vec4f>;    // [T, HV, C4]
@compute @workgroup_size(WG)
fn scores(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.size4) {
        return;
    }
    let it = item_of(i, p.size4, p.size4);
    if is_behind(it) || it.col > it.tile {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    let m$ = row_of(it.at, it.col, $u); //*4
    var qk$ = vec4f(); //*4
    var kk$ = vec4f(); //*4
    for (var c = 0u; c < p.k4; c++) {
        let to$ = mixed[key_of(m$, it.h) + c]; //*4
        let q$ = mixed[query_of(t$, it.h) + c]; //*4
        let k$ = mixed[key_of(t$, it.h) + c]; //*4
        qk$ += vec4f(dot(q$, to0), dot(q$, to1), dot(q$, to2), dot(q$, to3)); //*4
        kk$ += vec4f(dot(k$, to0), dot(k$, to1), dot(k$, to2), dot(k$, to3)); //*4
    }
    let sums = vec4f(gates[gate_of(m0, it.h, 2u)], gates[gate_of(m1, it.h, 2u)], gates[gate_of(m2, it.h, 2u)],
                     gates[gate_of(m3, it.h, 2u)]);
    let m = 4u * it.col + vec4u(0u, 1u, 2u, 3u);
    if 4u * it.tile + $u < it.at.y { \
        let row = vec4u(4u * it.tile + $u); \
        let decay = exp(min(gates[gate_of(t$, it.h, 2u)] - sums, vec4f())); \
        a[line_of(t$, it.h) + it.col] = select(vec4f(), decay * qk$, m <= row); \
        l[line_of(t$, it.h) + it.col] = select(vec4f(), gates[gate_of(t$, it.h, 1u)] * decay * kk$, m < row); \
    } //*4
}

//@ solve
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> l: array<f32>;            // [T, HV, C]
@group(0) @binding(3) var<storage, read_write> inverse: array<vec4f>; // [T, HV, C4]
@compute @workgroup_size(WG)
fn solve(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(1u, p.size4) {
        return;
    }
    let it = item_of(i, 1u, p.size4);
    let begin = 4u * it.col;
    for (var r = begin; r < it.at.y; r++) {
        let line = line_of(it.at.x + r, it.h);
        var sum = select(vec4f(), vec4f(1.0), vec4u(r) == begin + vec4u(0u, 1u, 2u, 3u));
        for (var m = begin; m < r; m++) {
            sum = fma(vec4f(-l[4u * line + m]), inverse[line_of(it.at.x + m, it.h) + it.col], sum);
        }
        inverse[line + it.col] = sum;
    }
}

//@ apply
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> inverse: array<vec4f>;    // [T, HV, C4]
@group(0) @binding(5) var<storage, read_write> w: array<vec4f>;    // [T, HV, K4]
@group(0) @binding(6) var<storage, read_write> u: array<vec4f>;    // [T, HV, V4]
// Row m of what the inverse is applied to: keys in the first columns, values in the others.
fn given(it: Item, m: u32) -> vec4f {
    let strength = gates[gate_of(m, it.h, 1u)];
    if it.col < p.k4 {
        return strength * exp(gates[gate_of(m, it.h, 2u)]) * mixed[key_of(m, it.h) + it.col];
    }
    return strength * mixed[value_of(m, it.h) + it.col - p.k4];
}
@compute @workgroup_size(WG)
fn apply(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.k4 + p.v4) {
        return;
    }
    let it = item_of(i, p.size4, p.k4 + p.v4);
    if is_behind(it) {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    var s$ = vec4f(); //*4
    for (var m4 = 0u; m4 <= it.tile; m4++) {
        let w$ = inverse[line_of(t$, it.h) + m4]; //*4
        let x$ = given(it, row_of(it.at, m4, $u)); //*4
        s$ = fma(vec4f(w$[#]), x#, s$); //*4*4
    }
    if 4u * it.tile + $u < it.at.y { \
        if it.col < p.k4 { \
            w[(t$ * p.hv + it.h) * p.k4 + it.col] = s$; \
        } else { \
            u[cell_of(t$, it.h, it.col - p.k4)] = s$; \
        } \
    } //*4
}

//@ enter
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> w: array<vec4f>;          // [T, HV, K4]
@group(0) @binding(3) var<storage, read> state: array<vec4f>;      // [chunks, HV, 4 K4, V4], behind each chunk
@group(0) @binding(4) var<storage, read_write> u: array<vec4f>;    // [T, HV, V4]
@compute @workgroup_size(WG)
fn enter(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.v4) {
        return;
    }
    let it = item_of(i, p.size4, p.v4);
    if is_behind(it) || it.at.z == NONE {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    var s$ = vec4f(); //*4
    for (var kk = 0u; kk < p.k4; kk++) {
        let at = state_of(it.at.z, it.h) + 4u * kk * p.v4 + it.col;
        let x$ = state[at + $u * p.v4]; //*4
        let w$ = w[(t$ * p.hv + it.h) * p.k4 + kk]; //*4
        s$ = fma(vec4f(w$[#]), x#, s$); //*4*4
    }
    if 4u * it.tile + $u < it.at.y { u[cell_of(t$, it.h, it.col)] -= s$; } //*4
}

//@ carry
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> u: array<vec4f>;          // [T, HV, V4]
@group(0) @binding(5) var<storage, read_write> state: array<vec4f>; // [chunks, HV, 4 K4, V4], behind each chunk
@compute @workgroup_size(WG)
fn carry(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.k4, p.v4) {
        return;
    }
    // Here a tile is four of a head's channels.
    let it = item_of(i, p.k4, p.v4);
    let last = gates[gate_of(it.at.x + it.at.y - 1u, it.h, 2u)];
    let row = 4u * it.tile * p.v4 + it.col;
    var s$ = vec4f(); //*4
    if it.at.z != NONE {
        let before = state_of(it.at.z, it.h) + row;
        s$ = exp(last) * state[before + $u * p.v4]; //*4
    }
    for (var t = it.at.x; t < it.at.x + it.at.y; t++) {
        let key = exp(last - gates[gate_of(t, it.h, 2u)]) * mixed[key_of(t, it.h) + it.tile];
        let x = u[cell_of(t, it.h, it.col)];
        s$ = fma(vec4f(key[$]), x, s$); //*4
    }
    let at = state_of(it.chunk, it.h) + row;
    state[at + $u * p.v4] = s$; //*4
}

//@ query
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> a: array<vec4f>;          // [T, HV, C4]
@group(0) @binding(5) var<storage, read> state: array<vec4f>;      // [chunks, HV, 4 K4, V4], behind each chunk
@group(0) @binding(6) var<storage, read> u: array<vec4f>;          // [T, HV, V4]
@group(0) @binding(7) var<storage, read_write> o: array<vec4f>;    // [T, HV, V4]
@compute @workgroup_size(WG)
fn query(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.v4) {
        return;
    }
    let it = item_of(i, p.size4, p.v4);
    if is_behind(it) {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    var s$ = vec4f(); //*4
    if it.at.z != NONE {
        for (var kk = 0u; kk < p.k4; kk++) {
            let at = state_of(it.at.z, it.h) + 4u * kk * p.v4 + it.col;
            let x$ = state[at + $u * p.v4]; //*4
            let q$ = mixed[query_of(t$, it.h) + kk]; //*4
            s$ = fma(vec4f(q$[#]), x#, s$); //*4*4
        }
        s$ = exp(gates[gate_of(t$, it.h, 2u)]) * s$; //*4
    }
    for (var m4 = 0u; m4 <= it.tile; m4++) {
        let w$ = a[line_of(t$, it.h) + m4]; //*4
        let x$ = u[cell_of(row_of(it.at, m4, $u), it.h, it.col)]; //*4
        s$ = fma(vec4f(w$[#]), x#, s$); //*4*4
    }
    if 4u * it.tile + $u < it.at.y { o[cell_of(t$, it.h, it.col)] = s$; } //*4
}
