// a = act(gate) * up; gate and up stand side by side in one row. All overwrite.
struct Params {
    rows: u32,  // T
    f4: u32,    // F in vec4
}
fn inner_slope(x: vec4f) -> vec4f {
    if ACT != 1u {
        return vec4f(select(1.0, 1.702, ACT == 2u));
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
        a[i] = gated(ACT, gu[at], gu[at + p.f4]);
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
        let up = gu[at + p.f4];
        let x = gate_of(ACT, gu[at]);
        let s = sigmoid(inner(ACT, x));
        // Beyond where a gate or an up is cut off it moves nothing.
        let cut = vec4<bool>(ACT == 2u) & (gu[at] > vec4f(7.0));
        let up_cut = vec4<bool>(ACT == 2u) & (abs(up) > vec4f(7.0));
        dgu[at] = select(da[i] * up_of(ACT, up) * s * (1.0 + x * (1.0 - s) * inner_slope(x)), vec4f(), cut);
        dgu[at + p.f4] = select(da[i] * x * s, vec4f(), up_cut);
        break; //*ONCE
    }
}
