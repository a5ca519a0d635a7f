// The four elements of B at a row and a vec4 column.
fn fetch(row: u32, col: u32) -> vec4f {
    return wide(b[row * p.ldb4 + col]);
}
// Those of four rows, the first of which is 4 row4.
fn fetch_four(row4: u32, col: u32) -> mat4x4f {
    let row = 4u * row4;
    return mat4x4f(fetch(row, col), fetch(row + 1u, col), fetch(row + 2u, col), fetch(row + 3u, col));
}
