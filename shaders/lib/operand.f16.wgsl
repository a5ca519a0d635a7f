// Four neighbouring elements of a weight in f16; the first one lies lowest.
alias Operand = vec2u;
fn wide(x: Operand) -> vec4f {
    return vec4f(unpack2x16float(x.x), unpack2x16float(x.y));
}
// The nearest f16, ties to even, in the low bits; by hand, since pack2x16float may round as it likes.
fn rounded(x: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 16u) & 0x8000u;
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    // Below 2^-14 an addition to 0.5 leaves just the bits that a denormal f16 has.
    let small = bitcast<u32>(bitcast<f32>(bits) + 0.5) - 0x3f000000u;
    // Else the exponent's bias goes from 127 to 15, and 13 bits are rounded off.
    let normal = (bits - 0x37fff001u + ((bits >> 13u) & 1u)) >> 13u;
    return sign | select(select(normal, small, bits < 0x38800000u), 0x7c00u, bits >= 0x47800000u);
}
// What the arena keeps of keys and values: the nearest f16, and of a number beyond its range the largest one, since one
// infinity would spoil the sums of a whole head. What is no finite number stays none.
fn clamped(x: f32) -> u32 {
    let bits = rounded(x);
    let size = bitcast<u32>(x) & 0x7fffffffu;
    let beyond = (bits & 0x7fffu) == 0x7c00u && size < 0x7f800000u;
    return (bits - select(0u, 1u, beyond)) | select(0u, 0x0200u, size > 0x7f800000u);
}
fn as_kept(x: vec4f) -> Operand {
    return vec2u(clamped(x.x) | (clamped(x.y) << 16u), clamped(x.z) | (clamped(x.w) << 16u));
}
