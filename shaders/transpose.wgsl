// y[c, r] = x[r, c] over the padded matrix, so that zeros between rows stay zeros.
struct Params {
    rows: u32,  // of x, a multiple of 4
    cols: u32,  // of x with padding
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [R, C]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [C, R]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let c4 = p.cols / 4u;
    let r4 = p.rows / 4u;
    let c = i % c4;
    let r = i / c4;
    if r >= r4 {
        return;
    }
    let source = r * 4u * c4 + c;
    let x0 = x[source];
    let x1 = x[source + c4];
    let x2 = x[source + 2u * c4];
    let x3 = x[source + 3u * c4];
    let to = c * 4u * r4 + r;
    y[to] = vec4f(x0.x, x1.x, x2.x, x3.x);
    y[to + r4] = vec4f(x0.y, x1.y, x2.y, x3.y);
    y[to + 2u * r4] = vec4f(x0.z, x1.z, x2.z, x3.z);
    y[to + 3u * r4] = vec4f(x0.w, x1.w, x2.w, x3.w);
}
