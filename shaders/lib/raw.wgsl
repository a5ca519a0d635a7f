// What the sums of a delta net's convolution are over: the projected rows themselves.
fn u_of(row: u32, c: u32) -> vec4f {
    return raw[row * p.width4 + c];
}
