// Four columns' scales and minima of a block of 32 values in f32.
struct Scales {
    scale: vec4f,
    minimum: vec4f,
}
fn scale_of(s: Scales) -> vec4f {
    return s.scale;
}
fn minimum_of(s: Scales) -> vec4f {
    return s.minimum;
}
