// Four neighbouring elements of a weight in f32.
alias Operand = vec4f;
fn wide(x: Operand) -> vec4f {
    return x;
}
fn stored(x: vec4f, noise: vec4u) -> Operand {
    return x;
}
// What the arena keeps of keys and values: all of them, unchanged.
fn as_kept(x: vec4f) -> Operand {
    return x;
}
