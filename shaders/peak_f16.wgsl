// The multiply-adds of peak.wgsl, in f16.
enable f16;
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
    let a = vec4h(ab[0]);
    let b = vec4h(ab[1]);
    var x0 = vec4h(f16(i % 16u) * 0.0625h);
    var x1 = x0 + 1.0h;
    var x2 = x0 + 2.0h;
    for (var s = 0u; s < p.steps; s++) {
        x0 = fma(x0, a, b); x1 = fma(x1, a, b); x2 = fma(x2, a, b); //*8
    }
    if i < p.lanes {
        y[i] = vec4f(x0 + x1 + x2);
    }
}
