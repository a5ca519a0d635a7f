// What row[e] and those before it on its path leave for a sequence that goes on: slot[e] gets them, the oldest first;
// zeros stand for what was before the path began.
fn keep_path(e: u32, c: u32) {
    var at_row = row[e];
    for (var k = TAPS - 1u; k > 0u; k--) {
        var u = vec4f();
        if at_row != NONE {
            u = u_of(at_row, c);
            at_row = links[at_row].x;
        }
        past[(slot[e] * (TAPS - 1u) + k - 1u) * p.d4 + c] = u;
    }
}
