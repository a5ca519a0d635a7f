// a = act(gate) * up (arXiv 2002.05202); gate and up stand side by side in one row. All overwrite. act is x sigmoid(x), or
// where GELU its tanh form x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) (arXiv 1606.08415).
struct Params {
    rows: u32,  // T
    f4: u32,    // F in vec4
}
fn sigmoid(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-x));
}
// What the sigmoid is taken of. Beyond 30 it is 0 or 1 anyway, and x^3 would overflow.
fn inner(x: vec4f) -> vec4f {
    if GELU == 0u {
        return x;
    }
    let v = clamp(x, vec4f(-30.0), vec4f(30.0));
    return 1.5957691216057308 * v * (1.0 + 0.044715 * v * v);
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
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / p.f4;
    let d = i % p.f4;
    if t >= p.rows {
        return;
    }
    let x = gu[t * 2u * p.f4 + d];
    a[i] = x * sigmoid(inner(x)) * gu[t * 2u * p.f4 + p.f4 + d];
}

//@ backward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gu: array<vec4f>;         // [T, gate F | up F]
@group(0) @binding(2) var<storage, read> da: array<vec4f>;         // [T, F]
@group(0) @binding(3) var<storage, read_write> dgu: array<vec4f>;  // [T, gate F | up F]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / p.f4;
    let d = i % p.f4;
    if t >= p.rows {
        return;
    }
    let at = t * 2u * p.f4 + d;
    let x = gu[at];
    let s = sigmoid(inner(x));
    dgu[at] = da[i] * gu[at + p.f4] * s * (1.0 + x * (1.0 - s) * inner_slope(x));
    dgu[at + p.f4] = da[i] * x * s;
}
