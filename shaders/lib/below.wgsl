// The gradient by what row t gives to the sums of a short convolution: those of the row and of the rows that follow it
// on any path, so its subtree is walked TAPS - 1 levels deep. `dsum` is the gradient by a row's sum.
fn path_back(t: u32, c: u32) -> vec4f {
    var du = taps[(TAPS - 1u) * p.d4 + c] * dsum(t, c);
    var row = select(NONE, links[t].y, TAPS > 1u);
    var depth = 0u;
    while row != NONE {
        du = fma(taps[(TAPS - 2u - depth) * p.d4 + c], dsum(row, c), du);
        let below = select(NONE, links[row].y, depth + 2u < TAPS);
        if below != NONE {
            row = below;
            depth++;
            continue;
        }
        // Up to the nearest row with a sibling, which is next, or back to t.
        while depth > 0u && links[row].z == NONE {
            row = links[row].x;
            depth--;
        }
        row = links[row].z;
    }
    return du;
}
