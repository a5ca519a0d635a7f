// Scales and minima in f16.
alias StoredScales = vec4u;
fn scales_at(group: u32, col: u32, ld4: u32) -> Scales {
    return halves(scales[group * ld4 + col]);
}
