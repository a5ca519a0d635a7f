// Elements of 8 and 16 bytes in words of 64 bits, the first component in the first word's low bits.
fn wide_load4u(x: vec2<u64>) -> vec4u {
    return vec4u(u32(x.x), u32(x.x >> 32u), u32(x.y), u32(x.y >> 32u));
}
fn wide_load4f(x: vec2<u64>) -> vec4f {
    return bitcast<vec4f>(wide_load4u(x));
}
fn wide_load2u(x: u64) -> vec2u {
    return vec2u(u32(x), u32(x >> 32u));
}
fn wide_load2f(x: u64) -> vec2f {
    return bitcast<vec2f>(wide_load2u(x));
}
fn wide_store2u(x: vec2u) -> u64 {
    return u64(x.x) | (u64(x.y) << 32u);
}
fn wide_store2f(x: vec2f) -> u64 {
    return wide_store2u(bitcast<vec2u>(x));
}
fn wide_store4u(x: vec4u) -> vec2<u64> {
    return vec2<u64>(wide_store2u(x.xy), wide_store2u(x.zw));
}
fn wide_store4f(x: vec4f) -> vec2<u64> {
    return wide_store4u(bitcast<vec4u>(x));
}
