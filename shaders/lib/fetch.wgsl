// The four elements of B at a row and a vec4 column.
fn fetch(row: u32, col: u32) -> vec4f {
    return wide(b[row * p.ldb4 + col]);
}
