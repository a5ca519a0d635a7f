// Four columns' scales and minima of a block of 32 values in f16, the scale in a word's low half.
alias Scales = vec4u;
fn scale_of(s: Scales) -> vec4f {
    return vec4f(unpack2x16float(s.x).x, unpack2x16float(s.y).x, unpack2x16float(s.z).x, unpack2x16float(s.w).x);
}
fn minimum_of(s: Scales) -> vec4f {
    return vec4f(unpack2x16float(s.x).y, unpack2x16float(s.y).y, unpack2x16float(s.z).y, unpack2x16float(s.w).y);
}
