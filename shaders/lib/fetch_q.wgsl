// The four elements of a quantised B at a row and a vec4 column, dequantised.
fn fetch(row: u32, col: u32) -> vec4f {
    let per = 32u / BITS;
    let q = words[row / per * p.ldb4 + col] >> vec4u(row % per * BITS);
    let s = scales_at(row / GROUP, col, p.ldb4);
    return fma(steps_of(q & vec4u((1u << BITS) - 1u)), s.scale, s.minimum);
}
// Those of four rows, the first of which is 4 row4: they share words and a group.
fn fetch_four(row4: u32, col: u32) -> mat4x4f {
    let per = 8u / BITS;
    let q = words[row4 / per * p.ldb4 + col] >> vec4u(row4 % per * 4u * BITS);
    let s = scales_at(row4 / (GROUP / 4u), col, p.ldb4);
    let mask = vec4u((1u << BITS) - 1u);
    return mat4x4f(fma(steps_of(q & mask), s.scale, s.minimum),
                   fma(steps_of((q >> vec4u(BITS)) & mask), s.scale, s.minimum),
                   fma(steps_of((q >> vec4u(2u * BITS)) & mask), s.scale, s.minimum),
                   fma(steps_of((q >> vec4u(3u * BITS)) & mask), s.scale, s.minimum));
}
