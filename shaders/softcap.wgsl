// The soft cap of logits, in place; their gradient is log_softmax.backward's.
struct Params {
    len4: u32,  // R V4
    cap: f32,
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;    // [R, V4]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.len4); i += WG) {
        x[i] = capped4(x[i]);
        break; //*ONCE
    }
}
