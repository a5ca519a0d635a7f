// The QK-norm and the rotation of one head of q or k, which the entry point takes from `raw` and puts where `put` says.
struct Head {
    row: u32,     // T
    at: u32,      // its first channel in raw
    is_key: bool,
}
// The factor that normalises the head: 1 / RMS where QK_NORM.
fn factor(head: Head) -> f32 {
    if QK_NORM == 0u {
        return 1.0;
    }
    var sum = 0.0;
    for (var d = 0u; d < HD; d++) {
        sum += raw[head.at + d] * raw[head.at + d];
    }
    return inverseSqrt(sum / f32(HD) + p.eps);
}
fn normed(head: Head, scale: f32, d: u32) -> f32 {
    if QK_NORM == 0u {
        return raw[head.at + d];
    }
    return raw[head.at + d] * (scale * (f32(OFFSET) + gain[select(0u, HD, head.is_key) + d]));
}
fn rotate(head: Head, scale: f32) {
    let half = ROT / 2u;
    let turn = (start[head.row] + pos[head.row]) * LDA;
    let grow = growth(pos[head.row], head.is_key);
    for (var d = 0u; d < half; d++) {
        let a = normed(head, scale, d);
        let b = normed(head, scale, d + half);
        let c = angle[turn + d];
        let s = angle[turn + half + d];
        put(head, d, grown(a * c - b * s, grow));
        put(head, d + half, grown(b * c + a * s, grow));
    }
    for (var d = ROT; d < HD; d++) {
        put(head, d, grown(normed(head, scale, d), grow));
    }
    for (var d = HD; d < DP; d++) {
        put(head, d, 0.0);
    }
}
