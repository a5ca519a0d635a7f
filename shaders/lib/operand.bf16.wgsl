// Four neighbouring elements of a weight in bf16, the upper half of an f32; the first one lies lowest.
alias Operand = vec2u;
fn wide(x: Operand) -> vec4f {
    return bitcast<vec4f>(vec4u(x.x << 16u, x.x & 0xffff0000u, x.y << 16u, x.y & 0xffff0000u));
}
// The nearest bf16, ties to even, in the low bits.
fn rounded(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
// Rounded away from 0 with the probability of what is cut off: the result is x on the mean. 16 random bits of noise an
// element.
fn stored(x: vec4f, noise: vec4u) -> Operand {
    let b = (bitcast<vec4u>(x) + (noise & vec4u(0xffffu))) >> vec4u(16u);
    return vec2u(b.x | (b.y << 16u), b.z | (b.w << 16u));
}
