// Queries grow with their position: by 1 + beta ln(1 + floor(position / span)).
fn growth(position: u32, is_key: bool) -> f32 {
    return select(fma(p.beta, log(f32(1u + position / p.span)), 1.0), 1.0, is_key);
}
fn grown(x: f32, factor: f32) -> f32 {
    return x * factor;
}
