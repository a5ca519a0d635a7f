// sum[c] += sum over rows of x[r, c]: the gradient of a bias.
struct Params {
    rows: u32,
    ld4: u32,
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [R, C]
@group(0) @binding(2) var<storage, read_write> sum: array<vec4f>;  // [C]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = g.x * WG + lane;
    if c >= p.ld4 {
        return;
    }
    var s = vec4f();
    for (var r = 0u; r < p.rows; r++) {
        s += x[r * p.ld4 + c];
    }
    sum[c] += s;
}
