// Scales and minima in f32.
alias StoredScales = Scales;
fn scales_at(group: u32, col: u32, ld4: u32) -> Scales {
    return scales[group * ld4 + col];
}
