// A pair in f16 for 256 values along K, 1,024 times what it stands for, and below it a row for every two groups: in
// bytes how many of the scale and of the minimum the first group takes, and how many the second.
alias StoredScales = vec4u;
// A 1,024th of what the highest bytes count.
fn counts(bytes: vec4u) -> vec4f {
    return vec4f(bitcast<vec4i>(bytes) >> vec4u(24u)) * (1.0 / 1024.0);
}
fn scales_at(group: u32, col: u32, ld4: u32) -> Scales {
    let groups = 256u / GROUP;
    let base = group / groups * (1u + groups / 2u) * ld4 + col;
    let pair = halves(scales[base]);
    let bytes = scales[base + (1u + group % groups / 2u) * ld4] << vec4u(16u - group % 2u * 16u);
    return Scales(pair.scale * counts(bytes << vec4u(8u)), pair.minimum * counts(bytes));
}
