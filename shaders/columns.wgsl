// A range of columns of a wide matrix beside a narrow one that stands for it, times a factor.
struct Params {
    rows: u32,    // R
    wide4: u32,   // row of the wide matrix in vec4
    narrow4: u32,
    first4: u32,  // where the range begins
    scale: f32,
}

//@ take
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [R, W]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [R, N]
@compute @workgroup_size(WG)
fn take(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let begin = first_of(g, n, lane);
    for (var i = begin; i < end_of(begin, p.rows * p.narrow4); i += WG) {
        let r = i / p.narrow4;
        y[i] = p.scale * x[r * p.wide4 + p.first4 + (i - r * p.narrow4)];
        break; //*ONCE
    }
}

//@ add
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [R, N]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [R, W]
@compute @workgroup_size(WG)
fn add(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let begin = first_of(g, n, lane);
    for (var i = begin; i < end_of(begin, p.rows * p.narrow4); i += WG) {
        let r = i / p.narrow4;
        y[r * p.wide4 + p.first4 + (i - r * p.narrow4)] += p.scale * x[i];
        break; //*ONCE
    }
}

//@ put
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [R, N]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [R, W]
@compute @workgroup_size(WG)
fn put(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let begin = first_of(g, n, lane);
    for (var i = begin; i < end_of(begin, p.rows * p.narrow4); i += WG) {
        let r = i / p.narrow4;
        y[r * p.wide4 + p.first4 + (i - r * p.narrow4)] = p.scale * x[i];
        break; //*ONCE
    }
}
