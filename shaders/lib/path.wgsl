// The sum of a short convolution at row t: of the row and of those before it on its path.
fn path_sum(t: u32, c: u32) -> vec4f {
    var sum = vec4f();
    if BIAS == 1u { sum = bias[c]; }
    var row = t;
    for (var k = TAPS; k > 0u && row != NONE; k--) {
        sum = fma(taps[(k - 1u) * p.d4 + c], u_of(row, c), sum);
        row = links[row].x;
    }
    return sum;
}
