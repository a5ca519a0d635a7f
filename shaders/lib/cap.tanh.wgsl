// The soft cap of scores and logits: y = cap tanh(x / cap) (arXiv 2408.00118). Near 0, where 1 - exp(-2 |x|) would lose
// digits, by tanh's series; a driver's own tanh overflows on some.
fn capped4(x: vec4f) -> vec4f {
    let u = x / p.cap;
    let z = u * u;
    let e = exp(-2.0 * abs(u));
    let far = (1.0 - e) / (1.0 + e) * sign(u);
    var series = fma(z, vec4f(0.0035921280365724810), vec4f(-0.0088632355299021966));
    series = fma(z, series, vec4f(0.021869488536155203));
    series = fma(z, series, vec4f(-0.053968253968253968));
    series = fma(z, series, vec4f(0.13333333333333333));
    series = fma(z, series, vec4f(-0.33333333333333333));
    let near = fma(u * z, series, u);
    return p.cap * select(far, near, abs(u) < vec4f(0.5));
}
fn capped(x: f32) -> f32 {
    return capped4(vec4f(x)).x;
}
// The gradient by x from d, that by y.
fn uncapped4(d: vec4f, y: vec4f) -> vec4f {
    let t = y / p.cap;
    return d * fma(-t, t, vec4f(1.0));
}
fn uncapped(d: f32, y: f32) -> f32 {
    return uncapped4(vec4f(d), vec4f(y)).x;
}
fn capped_above(product: f32, y: f32, scale: f32, base: f32) -> f32 {
    return y - base;
}
