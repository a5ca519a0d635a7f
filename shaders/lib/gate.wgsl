// The gated MLP's activation (arXiv 2002.05202): act(x) * up, act being x sigmoid(x), or with gelu 1 its tanh form
// x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3) (arXiv 1606.08415).
fn sigmoid(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-x));
}
// What the sigmoid is taken of. Beyond 30 it is 0 or 1 anyway, and x^3 would overflow.
fn inner(gelu: u32, x: vec4f) -> vec4f {
    if gelu == 0u {
        return x;
    }
    let v = clamp(x, vec4f(-30.0), vec4f(30.0));
    return 1.5957691216057308 * v * (1.0 + 0.044715 * v * v);
}
fn gated(gelu: u32, x: vec4f, up: vec4f) -> vec4f {
    return x * sigmoid(inner(gelu, x)) * up;
}
