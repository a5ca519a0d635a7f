// The weight of those listed tokens that the prefix (edge, ties) keeps: all above `edge`, and the first `ties` of those
// equal to it.
fn kept_mass(b: u32, at: u32, own: u32, end: u32, edge: u32, ties: u32, top: f32, l: u32) -> f32 {
    var above = 0.0;
    var equal = 0.0;
    for (var i = own; i < end; i++) {
        let x = value(b, at, list[i]);
        above += select(0.0, exp(x - top), key(x) > edge);
        equal += select(0.0, 1.0, key(x) == edge);
    }
    let e = min(reduce_sum(equal, l), f32(ties));
    return reduce_sum(above, l) + select(0.0, e * exp(unkey(edge) - top), e > 0.0);
}

// The largest key K from `low` on with: number (counting) or weight of listed tokens whose key is at least K reaches
// `goal`. Three bits a pass, from `high` down. Nothing counts below `low`, at which the prefix reaches the goal
// (rounding aside).
fn search(b: u32, at: u32, own: u32, end: u32, low: u32, high: u32, top: f32, goal: f32,
          counting: bool, l: u32) -> u32 {
    var found = low;
    for (var bit = high; bit <= high; bit -= 3u) {
        var four = vec4f();
        var three = vec4f();
        for (var i = own; i < end; i++) {
            _ = tally(&four, &three, value(b, at, list[i]), found, bit, top, counting);
        }
        found += reached(four, three, goal, l) << bit;
    }
    return found;
}
