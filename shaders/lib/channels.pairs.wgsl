// Channels lie in pairs, so that twice as many lanes can share a head.
alias Part = vec2f;
fn added(x: vec2f) -> f32 {
    return x.x + x.y;
}
fn onto(sum: f32, a: vec2f, b: vec2f) -> f32 {
    return fma(a.y, b.y, fma(a.x, b.x, sum));
}
