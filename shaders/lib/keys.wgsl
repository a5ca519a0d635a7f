// Floats as words that sort as the floats do.
fn key(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    return select(b | 0x80000000u, ~b, b >= 0x80000000u);
}
fn unkey(k: u32) -> f32 {
    return bitcast<f32>(select(~k, k & 0x7fffffffu, k >= 0x80000000u));
}
// Bit of a key at which the search turns to the list: sign, exponent and two bits behind it are known.
const FINE: u32 = 18u;

// Adds a token to seven sums, of which sum i = 1 … 7 is over the tokens whose key is at least low + i * 2^bit: it
// counts them or adds up their weights. `four` holds the first four sums, `three` the others and a 0. Gives what the
// token counts, 0 below `low`.
fn tally(four: ptr<function, vec4f>, three: ptr<function, vec4f>, x: f32, low: u32, bit: u32,
         top: f32, counting: bool) -> f32 {
    let k = key(x);
    let w = select(select(exp(x - top), 1.0, counting), 0.0, k < low);
    let d = vec4u((k - low) >> bit);
    *four += select(vec4f(), vec4f(w), d > vec4u(0u, 1u, 2u, 3u));
    *three += select(vec4f(), vec4f(w), d > vec4u(4u, 5u, 6u, 7u));
    return w;
}

// How many of the seven sums reach `goal`.
fn reached(four: vec4f, three: vec4f, goal: f32, l: u32) -> u32 {
    let f$ = reduce_sum(four[$], l); //*4
    let t$ = reduce_sum(three[$], l); //*3
    var take = 0u;
    take += select(0u, 1u, f$ >= goal && f$ > 0.0); //*4
    take += select(0u, 1u, t$ >= goal && t$ > 0.0); //*3
    return take;
}
