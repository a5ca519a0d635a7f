// The gradients of the gated delta rule in chunks of rows, as delta_chunks.wgsl has it, from those by o. With dS that
// by the state behind a chunk, which adds up those by the states before the chunks that follow it:
//   du = A^T do + exp(G_last - G) dS^T k, dr = T^T du (that by R = beta (v - exp(G) S0^T k))
//   dS0 = exp(G_last) dS + sum of exp(G) q do^T - W du^T
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

//@ across
// out = M^T x, of a matrix of each chunk and head.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> matrix: array<vec4f>;     // [T, HV, C4]
@group(0) @binding(3) var<storage, read> x: array<vec4f>;          // [T, HV, V4]
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;  // [T, HV, V4]
@compute @workgroup_size(WG)
fn across(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.v4) {
        return;
    }
    let it = item_of(i, p.size4, p.v4);
    if is_behind(it) {
        return;
    }
    var s$ = vec4f(); //*4
    for (var t = it.at.x + 4u * it.tile; t < it.at.x + it.at.y; t++) {
        let w = matrix[line_of(t, it.h) + it.tile];
        let y = x[cell_of(t, it.h, it.col)];
        s$ = fma(vec4f(w[$]), y, s$); //*4
    }
    let begin = it.at.x + 4u * it.tile;
    if 4u * it.tile + $u < it.at.y { out[cell_of(begin + $u, it.h, it.col)] = s$; } //*4
}

//@ leave
// du += exp(G_last - G) dS^T k.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> dstate: array<vec4f>;     // [chunks, HV, 4 K4, V4], before each chunk
@group(0) @binding(5) var<storage, read_write> du: array<vec4f>;   // [T, HV, V4]
@compute @workgroup_size(WG)
fn leave(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.v4) {
        return;
    }
    let it = item_of(i, p.size4, p.v4);
    if is_behind(it) || it.at.w == NONE {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    var s$ = vec4f(); //*4
    for (var child = it.at.w; child != NONE; child = chunks[2u * child + 1u].x) {
        for (var kk = 0u; kk < p.k4; kk++) {
            let at = state_of(child, it.h) + 4u * kk * p.v4 + it.col;
            let x$ = dstate[at + $u * p.v4]; //*4
            let k$ = mixed[key_of(t$, it.h) + kk]; //*4
            s$ = fma(vec4f(k$[#]), x#, s$); //*4*4
        }
    }
    let last = gates[gate_of(it.at.x + it.at.y - 1u, it.h, 2u)];
    if 4u * it.tile + $u < it.at.y { \
        du[cell_of(t$, it.h, it.col)] += exp(last - gates[gate_of(t$, it.h, 2u)]) * s$; \
    } //*4
}

//@ back
// dS0 of the chunks that have one before them.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> w: array<vec4f>;          // [T, HV, K4]
@group(0) @binding(5) var<storage, read> d_o: array<vec4f>;        // [T, HV, V4]
@group(0) @binding(6) var<storage, read> du: array<vec4f>;         // [T, HV, V4]
@group(0) @binding(7) var<storage, read_write> dstate: array<vec4f>; // [chunks, HV, 4 K4, V4], before each chunk
@compute @workgroup_size(WG)
fn back(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.k4, p.v4) {
        return;
    }
    // Here a tile is four of a head's channels.
    let it = item_of(i, p.k4, p.v4);
    if it.at.z == NONE {
        return;
    }
    let row = 4u * it.tile * p.v4 + it.col;
    var s$ = vec4f(); //*4
    for (var child = it.at.w; child != NONE; child = chunks[2u * child + 1u].x) {
        let at = state_of(child, it.h) + row;
        s$ += dstate[at + $u * p.v4]; //*4
    }
    let last = exp(gates[gate_of(it.at.x + it.at.y - 1u, it.h, 2u)]);
    s$ *= last; //*4
    for (var t = it.at.x; t < it.at.x + it.at.y; t++) {
        let query = exp(gates[gate_of(t, it.h, 2u)]) * mixed[query_of(t, it.h) + it.tile];
        let x = d_o[cell_of(t, it.h, it.col)];
        let key = w[(t * p.hv + it.h) * p.k4 + it.tile];
        let y = du[cell_of(t, it.h, it.col)];
        s$ = fma(vec4f(query[$]), x, fma(vec4f(-key[$]), y, s$)); //*4
    }
    let at = state_of(it.chunk, it.h) + row;
    dstate[at + $u * p.v4] = s$; //*4
}

//@ finals
// The share of each channel of the keys in the product of the state behind a chunk and its gradient.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> state: array<vec4f>;      // [chunks, HV, 4 K4, V4], behind each chunk
@group(0) @binding(3) var<storage, read> dstate: array<vec4f>;     // [chunks, HV, 4 K4, V4], before each chunk
@group(0) @binding(4) var<storage, read_write> ends: array<f32>;   // [chunks, 4 K4, HV]
@compute @workgroup_size(WG)
fn finals(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let c = i / heads4() / 4u / (4u * p.k4);
    if c >= p.count {
        return;
    }
    let h = i % (4u * heads4());
    let row = i / heads4() / 4u % (4u * p.k4) * p.v4;
    var sum = 0.0;
    for (var child = chunks[2u * c].w; child != NONE && h < p.hv; child = chunks[2u * child + 1u].x) {
        for (var j = 0u; j < p.v4; j++) {
            sum += dot(state[state_of(c, h) + row + j], dstate[state_of(child, h) + row + j]);
        }
    }
    ends[i] = sum;
}
