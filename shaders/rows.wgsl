// Picks rows out of a matrix and puts them back.
struct Params {
    rows: u32,  // R
    ld4: u32,
}

//@ gather
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, D]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [R]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;    // [R, D]
@compute @workgroup_size(WG)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.ld4); i += WG) {
        let r = i / p.ld4;
        y[i] = x[row[r] * p.ld4 + (i - r * p.ld4)];
        break; //*ONCE
    }
}

//@ scatter
// y[row[r]] = x[r]; rows are distinct.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [R, D]
@group(0) @binding(2) var<storage, read> row: array<u32>;          // [R]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;    // [T, D]
@compute @workgroup_size(WG)
fn scatter(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.ld4); i += WG) {
        let r = i / p.ld4;
        y[row[r] * p.ld4 + (i - r * p.ld4)] = x[i];
        break; //*ONCE
    }
}

//@ fill
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;    // [R, D]
@compute @workgroup_size(WG)
fn fill(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.ld4); i += WG) {
        y[i] = vec4f();
        break; //*ONCE
    }
}
