// Where the parts of a gated delta net's rows lie: those of channels in vec4, those of heads in words.
const NONE: u32 = 0xffffffffu;
// Heads of values, in vec4 of them.
fn heads4() -> u32 {
    return (p.hv + 3u) / 4u;
}
// A row of queries, keys and values.
fn mixed_of(t: u32) -> u32 {
    return t * (2u * p.hk * p.k4 + p.hv * p.v4);
}
// The query of the head of values h: several of these share a head of keys.
fn query_of(t: u32, h: u32) -> u32 {
    return mixed_of(t) + h / (p.hv / p.hk) * p.k4;
}
fn key_of(t: u32, h: u32) -> u32 {
    return query_of(t, h) + p.hk * p.k4;
}
fn value_of(t: u32, h: u32) -> u32 {
    return mixed_of(t) + 2u * p.hk * p.k4 + h * p.v4;
}
// The logarithm of a row's decay (0), the strength of its update (1), the sum of the logarithms in its chunk (2).
fn gate_of(t: u32, h: u32, which: u32) -> u32 {
    return (t * 3u + which) * 4u * heads4() + h;
}
// A vec4 of a row [HV, V4].
fn cell_of(t: u32, h: u32, col: u32) -> u32 {
    return (t * p.hv + h) * p.v4 + col;
}
