// The four elements of a quantised B at a row and a vec4 column, dequantised.
fn fetch(row: u32, col: u32) -> vec4f {
    let per = 32u / BITS;
    let q = words[row / per * p.ldb4 + col] >> vec4u(row % per * BITS);
    let s = scales_at(row / GROUP, col, p.ldb4);
    return fma(steps_of(q & vec4u((1u << BITS) - 1u)), s.scale, s.minimum);
}
