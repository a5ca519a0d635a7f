// What the device can do at its best: chains of fused multiply-adds, a sum over memory, a copy.
struct Params {
    lanes: u32,  // L
    steps: u32,  // S
}

//@ multiply
// Three vec4 chains a lane hide the latency of one: x <- x a + b, S times eight.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ab: array<vec4f>;         // [2, 4]: a, b
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [L, 4]
@compute @workgroup_size(WG)
fn multiply(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let a = ab[0];
    let b = ab[1];
    var x0 = vec4f(f32(i % 16u) * 0.0625);
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    for (var s = 0u; s < p.steps; s++) {
        x0 = fma(x0, a, b); x1 = fma(x1, a, b); x2 = fma(x2, a, b); //*8
    }
    if i < p.lanes {
        y[i] = x0 + x1 + x2;
    }
}

//@ sum
// Lane i sums x[i], x[i + L], x[i + 2 L], …
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [S, 4 L]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [L, 4]
@compute @workgroup_size(WG)
fn sum(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i < p.lanes {
        var all = vec4f(0.0);
        for (var s = 0u; s < p.steps; s++) {
            all += x[s * p.lanes + i];
        }
        y[i] = all;
    }
}

//@ copy
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [L, 4]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [L, 4]
@compute @workgroup_size(WG)
fn copy(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.lanes); i += WG) {
        y[i] = x[i];
        break; //*ONCE
    }
}
