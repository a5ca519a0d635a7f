// The gated delta rule (Gated DeltaNet, arXiv 2412.06464) row by row: with the decay a = exp(g),
// u = beta (v - a S^T k), S = a S + k u^T, o = S^T q. Of the state S [K, V] of each head of values a lane has four
// columns, which need none of the others.
struct Params {
    first: u32, // the first chunk
    count: u32, // chunks, or entries, or rows of a step
    hk: u32,    // heads of keys
    hv: u32,    // heads of values
    k4: u32,    // a head of keys in vec4
    v4: u32,    // a head of values in vec4
}

//@ scan chunks rule
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read_write> state: array<vec4f>; // [chunks, HV, 4 K4, V4], behind each chunk
@group(0) @binding(5) var<storage, read_write> u: array<vec4f>;    // [T, HV, V4]
@group(0) @binding(6) var<storage, read_write> o: array<vec4f>;    // [T, HV, V4]
@compute @workgroup_size(WG)
fn scan(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= items(1u, p.v4) {
        return;
    }
    let it = item_of(i, 1u, p.v4);
    let at = state_of(it.chunk, it.h) + it.col;
    for (var kk = 0u; kk < 4u * p.k4; kk++) {
        var s = vec4f();
        if it.at.z != NONE {
            s = state[state_of(it.at.z, it.h) + kk * p.v4 + it.col];
        }
        state[at + kk * p.v4] = s;
    }
    for (var t = it.at.x; t < it.at.x + it.at.y; t++) {
        let row = moved(t, it.h, it.col, at);
        u[cell_of(t, it.h, it.col)] = row.u;
        o[cell_of(t, it.h, it.col)] = row.o;
    }
}

//@ step rule
// One more row of each sequence, whose state lies in slot[t].
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> slot: array<u32>;         // [N]
@group(0) @binding(2) var<storage, read> mixed: array<vec4f>;      // [N, q | k | v]
@group(0) @binding(3) var<storage, read> gates: array<f32>;        // [N, g | beta | sums of g, HV each]
@group(0) @binding(4) var<storage, read_write> state: array<vec4f>; // [slots, HV, 4 K4, V4]
@group(0) @binding(5) var<storage, read_write> o: array<vec4f>;    // [N, HV, V4]
@compute @workgroup_size(WG)
fn step(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= p.count * p.hv * p.v4 {
        return;
    }
    let t = i / p.v4 / p.hv;
    let h = i / p.v4 % p.hv;
    o[i] = moved(t, h, i % p.v4, (slot[t] * p.hv + h) * 4u * p.k4 * p.v4 + i % p.v4).o;
}

//@ keep
// The state behind row[e], the last of its chunk, becomes that of slot[e].
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunk: array<u32>;        // [T]
@group(0) @binding(2) var<storage, read> ends: array<vec4f>;       // [chunks, HV, 4 K4, V4]
@group(0) @binding(3) var<storage, read> row: array<u32>;          // [E]
@group(0) @binding(4) var<storage, read> slot: array<u32>;         // [E]
@group(0) @binding(5) var<storage, read_write> state: array<vec4f>; // [slots, HV, 4 K4, V4]
@compute @workgroup_size(WG)
fn keep(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let size = p.hv * 4u * p.k4 * p.v4;
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.count * size); i += WG) {
        let e = i / size;
        state[slot[e] * size + i - e * size] = ends[chunk[row[e]] * size + i - e * size];
        break; //*ONCE
    }
}
