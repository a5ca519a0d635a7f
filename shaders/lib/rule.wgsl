// u and o of row t; the columns of the state begin at `at`.
struct Moved {
    u: vec4f,
    o: vec4f,
}
fn moved(t: u32, h: u32, col: u32, at: u32) -> Moved {
    let decay = exp(gates[gate_of(t, h, 0u)]);
    var sum = vec4f();
    for (var kk = 0u; kk < p.k4; kk++) {
        let key = mixed[key_of(t, h) + kk];
        sum = fma(vec4f(key[$]), state[at + (4u * kk + $u) * p.v4], sum); //*4
    }
    let u = gates[gate_of(t, h, 1u)] * fma(vec4f(-decay), sum, mixed[value_of(t, h) + col]);
    var o = vec4f();
    for (var kk = 0u; kk < p.k4; kk++) {
        let key = mixed[key_of(t, h) + kk];
        let query = mixed[query_of(t, h) + kk];
        let s$ = fma(vec4f(key[$]), u, decay * state[at + (4u * kk + $u) * p.v4]); //*4
        state[at + (4u * kk + $u) * p.v4] = s$; //*4
        o = fma(vec4f(query[$]), s$, o); //*4
    }
    return Moved(u, o);
}
