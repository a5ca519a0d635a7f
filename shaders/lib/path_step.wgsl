// The sum over the next row t of a sequence and what slot[t] kept of those before it, added to `start`; the row's own u
// is kept in place of the oldest.
fn path_step(t: u32, c: u32, start: vec4f) -> vec4f {
    var newer = u_of(t, c);
    var sum = fma(taps[(TAPS - 1u) * p.d4 + c], newer, start);
    for (var k = TAPS - 1u; k > 0u; k--) {
        let here = (slot[t] * (TAPS - 1u) + k - 1u) * p.d4 + c;
        let u = past[here];
        sum = fma(taps[(k - 1u) * p.d4 + c], u, sum);
        past[here] = newer;
        newer = u;
    }
    return sum;
}
