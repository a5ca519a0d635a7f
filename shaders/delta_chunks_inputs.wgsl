// The gradients by q, k, and the gates of the gated delta rule in chunks of rows, from those that
// delta_chunks_backward.wgsl gives: do by o, dr by R = beta (v - exp(G) S0^T k), dS by the states.
struct Params {
    first: u32, // the first chunk
    count: u32, // chunks, or rows
    size4: u32, // most rows of a chunk, in vec4
    hk: u32,    // heads of keys
    hv: u32,    // heads of values
    k4: u32,    // a head of keys in vec4
    v4: u32,    // a head of values in vec4
}
// A row of the two matrices [rows, rows of the chunk] of each head: of queries (0) and of keys (1) that read.
fn line_of(t: u32, h: u32, which: u32) -> u32 {
    return ((t * p.hv + h) * 2u + which) * p.size4;
}
// The gradient by a query (0), by a key that reads (1) and by a key that is written (2).
fn grad_of(t: u32, h: u32, which: u32) -> u32 {
    return ((t * p.hv + h) * 3u + which) * p.k4;
}

//@ pairs chunks
// exp(G_i - G_m) (do_i . u_m) for m <= i, and -beta_i exp(G_i - G_m) (dr_i . u_m) for m < i.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(3) var<storage, read> d_o: array<vec4f>;        // [T, HV, V4]
@group(0) @binding(4) var<storage, read> dr: array<vec4f>;         // [T, HV, V4]
@group(0) @binding(5) var<storage, read> u: array<vec4f>;          // [T, HV, V4]
@group(0) @binding(6) var<storage, read_write> both: array<vec4f>; // [T, HV, 2, C4]
@compute @workgroup_size(WG)
fn pairs(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
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
    var a$ = vec4f(); //*4
    var l$ = vec4f(); //*4
    for (var c = 0u; c < p.v4; c++) {
        let to$ = u[cell_of(m$, it.h, c)]; //*4
        let x$ = d_o[cell_of(t$, it.h, c)]; //*4
        let y$ = dr[cell_of(t$, it.h, c)]; //*4
        a$ += vec4f(dot(x$, to0), dot(x$, to1), dot(x$, to2), dot(x$, to3)); //*4
        l$ += vec4f(dot(y$, to0), dot(y$, to1), dot(y$, to2), dot(y$, to3)); //*4
    }
    let sums = vec4f(gates[gate_of(m0, it.h, 2u)], gates[gate_of(m1, it.h, 2u)], gates[gate_of(m2, it.h, 2u)],
                     gates[gate_of(m3, it.h, 2u)]);
    let m = 4u * it.col + vec4u(0u, 1u, 2u, 3u);
    if 4u * it.tile + $u < it.at.y { \
        let row = vec4u(4u * it.tile + $u); \
        let decay = exp(min(gates[gate_of(t$, it.h, 2u)] - sums, vec4f())); \
        both[line_of(t$, it.h, 0u) + it.col] = select(vec4f(), decay * a$, m <= row); \
        both[line_of(t$, it.h, 1u) + it.col] = select(vec4f(), -gates[gate_of(t$, it.h, 1u)] * decay * l$, m < row); \
    } //*4
}

//@ reads chunks
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> state: array<vec4f>;      // [chunks, HV, 4 K4, V4], behind each chunk
@group(0) @binding(5) var<storage, read> d_o: array<vec4f>;        // [T, HV, V4]
@group(0) @binding(6) var<storage, read> dr: array<vec4f>;         // [T, HV, V4]
@group(0) @binding(7) var<storage, read> both: array<vec4f>;       // [T, HV, 2, C4]
@group(0) @binding(8) var<storage, read_write> dqk: array<vec4f>;  // [T, HV, dq | dk read | dk written]
@compute @workgroup_size(WG)
fn reads(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.k4) {
        return;
    }
    let it = item_of(i, p.size4, p.k4);
    if is_behind(it) {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    var q$ = vec4f(); //*4
    var k$ = vec4f(); //*4
    if it.at.z != NONE {
        for (var c = 0u; c < p.v4; c++) {
            let at = state_of(it.at.z, it.h) + 4u * it.col * p.v4 + c;
            let s$ = state[at + $u * p.v4]; //*4
            let x$ = d_o[cell_of(t$, it.h, c)]; //*4
            let y$ = dr[cell_of(t$, it.h, c)]; //*4
            q$ += vec4f(dot(x$, s0), dot(x$, s1), dot(x$, s2), dot(x$, s3)); //*4
            k$ -= vec4f(dot(y$, s0), dot(y$, s1), dot(y$, s2), dot(y$, s3)); //*4
        }
        let e$ = exp(gates[gate_of(t$, it.h, 2u)]); //*4
        q$ *= e$; //*4
        k$ *= gates[gate_of(t$, it.h, 1u)] * e$; //*4
    }
    for (var m4 = 0u; m4 <= it.tile; m4++) {
        let x$ = both[line_of(t$, it.h, 0u) + m4]; //*4
        let y$ = both[line_of(t$, it.h, 1u) + m4]; //*4
        let to$ = mixed[key_of(row_of(it.at, m4, $u), it.h) + it.col]; //*4
        q$ = fma(vec4f(x$[#]), to#, q$); //*4*4
        k$ = fma(vec4f(y$[#]), to#, k$); //*4*4
    }
    if 4u * it.tile + $u < it.at.y { \
        dqk[grad_of(t$, it.h, 0u) + it.col] = q$; \
        dqk[grad_of(t$, it.h, 1u) + it.col] = k$; \
    } //*4
}

//@ writes chunks
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read> dstate: array<vec4f>;     // [chunks, HV, 4 K4, V4], before each chunk
@group(0) @binding(5) var<storage, read> u: array<vec4f>;          // [T, HV, V4]
@group(0) @binding(6) var<storage, read> both: array<vec4f>;       // [T, HV, 2, C4]
@group(0) @binding(7) var<storage, read_write> dqk: array<vec4f>;  // [T, HV, dq | dk read | dk written]
@compute @workgroup_size(WG)
fn writes(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(p.size4, p.k4) {
        return;
    }
    let it = item_of(i, p.size4, p.k4);
    if is_behind(it) {
        return;
    }
    let t$ = row_of(it.at, it.tile, $u); //*4
    var k$ = vec4f(); //*4
    for (var child = it.at.w; child != NONE; child = chunks[2u * child + 1u].x) {
        for (var c = 0u; c < p.v4; c++) {
            let at = state_of(child, it.h) + 4u * it.col * p.v4 + c;
            let s$ = dstate[at + $u * p.v4]; //*4
            let x$ = u[cell_of(t$, it.h, c)]; //*4
            k$ += vec4f(dot(x$, s0), dot(x$, s1), dot(x$, s2), dot(x$, s3)); //*4
        }
    }
    let last = gates[gate_of(it.at.x + it.at.y - 1u, it.h, 2u)];
    k$ *= exp(last - gates[gate_of(t$, it.h, 2u)]); //*4
    for (var t = it.at.x + 4u * it.tile; t < it.at.x + it.at.y; t++) {
        let x = both[line_of(t, it.h, 0u) + it.tile];
        let y = both[line_of(t, it.h, 1u) + it.tile];
        let query = mixed[query_of(t, it.h) + it.col];
        let key = mixed[key_of(t, it.h) + it.col];
        k$ = fma(vec4f(x[$]), query, fma(vec4f(y[$]), key, k$)); //*4
    }
    if 4u * it.tile + $u < it.at.y { dqk[grad_of(t$, it.h, 2u) + it.col] = k$; } //*4
}

//@ by_gates
// What each row gives to its sum of g, and the gradient by b, of which beta is the sigmoid.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(2) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(3) var<storage, read> dqk: array<vec4f>;        // [T, HV, dq | dk read | dk written]
@group(0) @binding(4) var<storage, read> dr: array<vec4f>;         // [T, HV, V4]
@group(0) @binding(5) var<storage, read> u: array<vec4f>;          // [T, HV, V4]
@group(0) @binding(6) var<storage, read_write> dgates: array<f32>; // [T, by the sums | by b, HV each]
@compute @workgroup_size(WG)
fn by_gates(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / heads4() / 4u;
    if t >= p.count {
        return;
    }
    let h = i - t * heads4() * 4u;
    var by_sums = 0.0;
    var by_b = 0.0;
    if h < p.hv {
        for (var c = 0u; c < p.k4; c++) {
            let at = grad_of(t, h, 0u) + c;
            by_sums += dot(mixed[query_of(t, h) + c], dqk[at]);
            by_sums += dot(mixed[key_of(t, h) + c], dqk[at + p.k4] - dqk[at + 2u * p.k4]);
        }
        for (var c = 0u; c < p.v4; c++) {
            by_b += dot(dr[cell_of(t, h, c)], u[cell_of(t, h, c)]);
        }
        by_b *= 1.0 - gates[gate_of(t, h, 1u)];
    }
    dgates[t * 8u * heads4() + h] = by_sums;
    dgates[t * 8u * heads4() + 4u * heads4() + h] = by_b;
}
