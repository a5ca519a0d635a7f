// A gated short convolution (LFM2) down each path of the forest: u = B * x, conv = sum of TAPS taps over u of the row
// and of those before it on its path, y = C * conv. B, C and x stand side by side in one row.
struct Params {
    rows: u32,  // T, or entries, or rows of a step
    d4: u32,    // D in vec4
}
// No row.
const NONE: u32 = 0xffffffffu;
fn u_of(row: u32, c: u32) -> vec4f {
    let at = row * 3u * p.d4 + c;
    return bcx[at] * bcx[at + 2u * p.d4];
}

//@ forward path
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bcx: array<vec4f>;        // [T, B D | C D | x D]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> taps: array<vec4f>;       // [TAPS, D]
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [D] where BIAS
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;    // [T, D]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let c = i - t * p.d4;
        y[i] = bcx[t * 3u * p.d4 + p.d4 + c] * path_sum(t, c);
        break; //*ONCE
    }
}

//@ backward path below
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bcx: array<vec4f>;        // [T, B D | C D | x D]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> taps: array<vec4f>;       // [TAPS, D]
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [D] where BIAS
@group(0) @binding(5) var<storage, read> dy: array<vec4f>;         // [T, D]
@group(0) @binding(6) var<storage, read_write> dbcx: array<vec4f>; // [T, B D | C D | x D]
// The gradient by the sum of row r.
fn dsum(r: u32, c: u32) -> vec4f {
    return dy[r * p.d4 + c] * bcx[r * 3u * p.d4 + p.d4 + c];
}
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let c = i - t * p.d4;
        let sum = path_sum(t, c);
        let du = path_back(t, c);
        let at = t * 3u * p.d4 + c;
        dbcx[at] = du * bcx[at + 2u * p.d4];
        dbcx[at + p.d4] = dy[i] * sum;
        dbcx[at + 2u * p.d4] = du * bcx[at];
        break; //*ONCE
    }
}

//@ backward_taps
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bcx: array<vec4f>;        // [T, B D | C D | x D]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;         // [T, D]
@group(0) @binding(4) var<storage, read_write> dtaps: array<vec4f>; // [TAPS, D]
@group(0) @binding(5) var<storage, read_write> dbias: array<vec4f>; // [D] where BIAS
@compute @workgroup_size(WG)
fn backward_taps(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = g.x * WG + lane;
    if c >= p.d4 {
        return;
    }
    var s$ = vec4f(); //*TAPS
    var all = vec4f();
    for (var t = 0u; t < p.rows; t++) {
        let d = dy[t * p.d4 + c] * bcx[t * 3u * p.d4 + p.d4 + c];
        all += d;
        var row = t;
        if row != NONE { \
            s$ = fma(d, u_of(row, c), s$); \
            row = links[row].x; \
        } //*TAPS
    }
    dtaps[(TAPS - 1u - $u) * p.d4 + c] += s$; //*TAPS
    if BIAS == 1u { dbias[c] += all; }
}

//@ keep path_keep
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bcx: array<vec4f>;        // [T, B D | C D | x D]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> row: array<u32>;          // [E]
@group(0) @binding(4) var<storage, read> slot: array<u32>;         // [E]
@group(0) @binding(5) var<storage, read_write> past: array<vec4f>; // [slots, TAPS - 1, D]
@compute @workgroup_size(WG)
fn keep(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let e = i / p.d4;
        let c = i - e * p.d4;
        keep_path(e, c);
        break; //*ONCE
    }
}

//@ step path_step
// One more row of each sequence.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bcx: array<vec4f>;        // [N, B D | C D | x D]
@group(0) @binding(2) var<storage, read> slot: array<u32>;         // [N]
@group(0) @binding(3) var<storage, read> taps: array<vec4f>;       // [TAPS, D]
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [D] where BIAS
@group(0) @binding(5) var<storage, read_write> past: array<vec4f>; // [slots, TAPS - 1, D]
@group(0) @binding(6) var<storage, read_write> y: array<vec4f>;    // [N, D]
@compute @workgroup_size(WG)
fn step(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let c = i - t * p.d4;
        var start = vec4f();
        if BIAS == 1u { start = bias[c]; }
        y[i] = bcx[t * 3u * p.d4 + p.d4 + c] * path_step(t, c, start);
        break; //*ONCE
    }
}
