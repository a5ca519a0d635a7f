// Powers of 2, the exponent of an f32 in each byte; there are no minima.
alias StoredScales = u32;
fn scales_at(group: u32, col: u32, ld4: u32) -> Scales {
    let s = vec4u(scales[group * ((ld4 + 3u) / 4u * 4u) + col]);
    return Scales(bitcast<vec4f>(((s >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u)) << vec4u(23u)), vec4f());
}
// Twice the numbers of a sign, two bits of exponent and one of mantissa (E2M1): 0, 1, 2, 3, 4, 6, 8, 12.
fn steps_of(q: vec4u) -> vec4f {
    let exponent = (q >> vec4u(1u)) & vec4u(3u);
    let one = min(exponent, vec4u(1u));
    let whole = ((q & vec4u(1u)) | (one << vec4u(1u))) << (exponent - one);
    return select(vec4f(whole), -vec4f(whole), q > vec4u(7u));
}
