// Which of up to four layers side by side a vec4 column belongs to.
fn layer(at: u32) -> u32 {
    return u32(at >= p.edges.x) + u32(at >= p.edges.y) + u32(at >= p.edges.z);
}
