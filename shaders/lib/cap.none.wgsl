// Scores and logits as they are.
fn capped4(x: vec4f) -> vec4f {
    return x;
}
fn capped(x: f32) -> f32 {
    return x;
}
fn uncapped4(d: vec4f, y: vec4f) -> vec4f {
    return d;
}
fn uncapped(d: f32, y: f32) -> f32 {
    return d;
}
// The scaled product less what its row's scores are measured by, in one rounding.
fn capped_above(product: f32, y: f32, scale: f32, base: f32) -> f32 {
    return fma(product, scale, -base);
}
