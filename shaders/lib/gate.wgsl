// The gated MLP's activation (arXiv 2002.05202): act(x) * up, act being by ACT
//   0  x sigmoid(x)
//   1  GELU's tanh form, x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) (arXiv 1606.08415)
//   2  x sigmoid(1.702 x), where x counts as at most 7, and up as from -7 to 7 with 1 added to it (gpt-oss)
fn sigmoid(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-x));
}
// What the sigmoid is taken of. In the tanh form it is 0 or 1 beyond 30 anyway, and x^3 would overflow.
fn inner(act: u32, x: vec4f) -> vec4f {
    if act == 0u {
        return x;
    }
    if act == 2u {
        return 1.702 * x;
    }
    let v = clamp(x, vec4f(-30.0), vec4f(30.0));
    return 1.5957691216057308 * v * (1.0 + 0.044715 * v * v);
}
// What a gate and an up count as.
fn gate_of(act: u32, x: vec4f) -> vec4f {
    return select(x, min(x, vec4f(7.0)), act == 2u);
}
fn up_of(act: u32, up: vec4f) -> vec4f {
    return select(up, clamp(up, vec4f(-7.0), vec4f(7.0)) + 1.0, act == 2u);
}
fn gated(act: u32, x: vec4f, up: vec4f) -> vec4f {
    let v = gate_of(act, x);
    return v * sigmoid(inner(act, v)) * up_of(act, up);
}
