// y = x sigmoid(gate) (gated attention, arXiv 2505.06708); the gate is a part of wider rows, and its gradient goes to
// that part. All overwrite.
struct Params {
    rows: u32,   // T
    d4: u32,     // a row of x in vec4
    width4: u32, // a row that holds the gate, in vec4
    first4: u32, // where the gate begins in it
}
fn sigmoid(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-x));
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, D4]
@group(0) @binding(2) var<storage, read> wide: array<vec4f>;       // [T, W4]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;    // [T, D4]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        y[i] = x[i] * sigmoid(wide[t * p.width4 + p.first4 + i - t * p.d4]);
        break; //*ONCE
    }
}

//@ backward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, D4]
@group(0) @binding(2) var<storage, read> wide: array<vec4f>;       // [T, W4]
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;         // [T, D4]
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;   // [T, D4]
@group(0) @binding(5) var<storage, read_write> dwide: array<vec4f>; // [T, W4]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let at = t * p.width4 + p.first4 + i - t * p.d4;
        let s = sigmoid(wide[at]);
        dx[i] = dy[i] * s;
        dwide[at] = dy[i] * x[i] * s * (1.0 - s);
        break; //*ONCE
    }
}
