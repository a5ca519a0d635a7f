// Channels lie one by one, so that four times as many lanes can share a head.
alias Part = f32;
fn added(x: f32) -> f32 {
    return x;
}
fn onto(sum: f32, a: f32, b: f32) -> f32 {
    return fma(a, b, sum);
}
