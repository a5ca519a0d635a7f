// Four columns' pairs in f16, one in a word, the scale in its low half.
fn halves(s: vec4u) -> Scales {
    let x = unpack2x16float(s.x);
    let y = unpack2x16float(s.y);
    let z = unpack2x16float(s.z);
    let w = unpack2x16float(s.w);
    return Scales(vec4f(x.x, y.x, z.x, w.x), vec4f(x.y, y.y, z.y, w.y));
}
