// Row and vec4 column of B as it is stored.
fn fetch(row: u32, col: u32) -> vec4f {
    return wide(b[row * p.ldb4 + col]);
}
