// What both have whose values are steps of their scale.
fn scales_at(group: u32, col: u32, ld4: u32) -> u32 {
    return group * ld4 + col;
}
fn steps_of(q: vec4u) -> vec4f {
    return vec4f(q);
}
