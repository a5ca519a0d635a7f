// a = act(gate) * up; gate and up stand side by side in one row. All overwrite.
struct Params {
    rows: u32,  // T
    f4: u32,    // F in vec4
}
fn inner_slope(x: vec4f) -> vec4f {
    if GELU == 0u {
        return vec4f(1.0);
    }
    let v = clamp(x, vec4f(-30.0), vec4f(30.0));
    return 1.5957691216057308 * (1.0 + 0.134145 * v * v);
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gu: array<vec4f>;         // [T, gate F | up F]
@group(0) @binding(2) var<storage, read_write> a: array<vec4f>;    // [T, F]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.f4); i += WG) {
        // Row t's gate begins behind t rows of gates and ups.
        let at = i + i / p.f4 * p.f4;
        a[i] = gated(GELU, gu[at], gu[at + p.f4]);
        break; //*ONCE
    }
}

//@ backward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gu: array<vec4f>;         // [T, gate F | up F]
@group(0) @binding(2) var<storage, read> da: array<vec4f>;         // [T, F]
@group(0) @binding(3) var<storage, read_write> dgu: array<vec4f>;  // [T, gate F | up F]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.f4); i += WG) {
        let at = i + i / p.f4 * p.f4;
        let x = gu[at];
        let s = sigmoid(inner(GELU, x));
        dgu[at] = da[i] * gu[at + p.f4] * s * (1.0 + x * (1.0 - s) * inner_slope(x));
        dgu[at + p.f4] = da[i] * x * s;
        break; //*ONCE
    }
}
