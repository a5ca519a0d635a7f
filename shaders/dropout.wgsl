// Inverted dropout, forward and backward alike: y = x / (1 - p) where a uniform number reaches p, else 0. The numbers
// are counter-based (Philox), so a mask is never stored: it is drawn again wherever it is needed.
struct Params {
    rows: u32,   // T
    n4: u32,     // N in vec4
    key: vec2u,  // of the step and the site
    p: f32,      // share that is dropped
    scale: f32,  // 1 / (1 - p)
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, N]
@group(0) @binding(2) var<storage, read> row: array<vec4u>;        // [T, 3] node's key low, high, position
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;    // [T, N]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.n4); i += WG) {
        let t = i / p.n4;
        let u = philox(vec4u(i - t * p.n4, row[t].z, row[t].xy), p.key);
        let uniform4 = vec4f(unit(u.x), unit(u.y), unit(u.z), unit(u.w));
        y[i] = select(vec4f(), x[i] * p.scale, uniform4 >= vec4f(p.p));
        break; //*ONCE
    }
}
