// The 16-bit copy of an f32 matrix, rounded to the nearest, ties to even.
struct Params {
    rows: u32,  // K
    cols4: u32, // N in four elements
    ldx4: u32,
    ldy4: u32,
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [K, N]
@group(0) @binding(2) var<storage, read_write> y: array<Operand>;  // [K, N]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.cols4); i += WG) {
        let r = i / p.cols4;
        let c = i - r * p.cols4;
        let v = x[r * p.ldx4 + c];
        y[r * p.ldy4 + c] = vec2u(rounded(v.x) | (rounded(v.y) << 16u), rounded(v.z) | (rounded(v.w) << 16u));
        break; //*ONCE
    }
}
