// Four columns' scales and minima of a block of 32 values in f32.
struct Scales {
    scale: vec4f,
    minimum: vec4f,
}
fn scales_at(group: u32, col: u32, ld4: u32) -> u32 {
    return group * ld4 + col;
}
fn steps_of(q: vec4u) -> vec4f {
    return vec4f(q);
}
fn scale_of(s: Scales) -> vec4f {
    return s.scale;
}
fn minimum_of(s: Scales) -> vec4f {
    return s.minimum;
}
