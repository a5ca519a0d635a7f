// Channels lie in fours.
alias Part = vec4f;
fn added(x: vec4f) -> f32 {
    return x.x + x.y + x.z + x.w;
}
fn onto(sum: f32, a: vec4f, b: vec4f) -> f32 {
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
