// What lies above the lower bits of a group's elements, from the i-th of them on.
fn above_from(group: u32, i: u32, col: u32) -> vec4u {
    if ABOVE == 0u { return vec4u(); }
    return words[above_row(group) * p.ldb4 + col] >> vec4u(i * ABOVE);
}
// The four elements of a quantised B at a row and a vec4 column, dequantised.
fn fetch(row: u32, col: u32) -> vec4f {
    let group = row / GROUP;
    let q = words[lower_row(row) * p.ldb4 + col] >> vec4u(lower_shift(row));
    let s = scales_at(group, col, p.ldb4);
    return fma(steps_of(bits_of(q, above_from(group, row % GROUP, col))), s.scale, s.minimum);
}
// Those of four rows, the first of which is 4 row4: they share words and a group.
fn fetch_four(row4: u32, col: u32) -> mat4x4f {
    let group = row4 / (GROUP / 4u);
    let per = PER_WORD / 4u;
    // As lower_row of 4 row4, which takes an instruction more.
    let at = select(group * GROUP_WORDS + row4 % (GROUP / 4u) / per, row4 / per, ABOVE == 0u);
    let q = words[at * p.ldb4 + col] >> vec4u(row4 % per * 4u * LOWER);
    let above = above_from(group, row4 % (GROUP / 4u) * 4u, col);
    let q1 = bits_of(q >> vec4u(LOWER), above >> vec4u(ABOVE));
    let q2 = bits_of(q >> vec4u(2u * LOWER), above >> vec4u(2u * ABOVE));
    let q3 = bits_of(q >> vec4u(3u * LOWER), above >> vec4u(3u * ABOVE));
    let s = scales_at(group, col, p.ldb4);
    return mat4x4f(fma(steps_of(bits_of(q, above)), s.scale, s.minimum), fma(steps_of(q1), s.scale, s.minimum),
                   fma(steps_of(q2), s.scale, s.minimum), fma(steps_of(q3), s.scale, s.minimum));
}
