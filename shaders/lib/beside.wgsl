// Lanes that load for each other, side by side over the channels of one key head: HQ of its query heads onto the
// positions of a chunk. What each head has of its own stands in the four components of a vec4.
struct Item {
    b: u32,  // row
    h: u32,  // first of the query heads
    kv: u32, // their key head
    s: u32,  // chunk
}
fn item(at: u32) -> Item {
    let h = (at / p.chunks) % (p.heads / HQ) * HQ;
    return Item(at / (p.chunks * (p.heads / HQ)), h, h / (p.heads / p.kv_heads), at % p.chunks);
}
// Where a lane's vec4 of a head lie. One behind the last counts as the last; its query has to be zero.
var<private> c#: u32; //*1*SHARE
var<private> q$_#: vec4f; //*HQ*SHARE
// Numerators, maximum and sum of the softmax; the sum is the lane's own part.
var<private> o$_#: vec4f; //*HQ*SHARE
var<private> top: vec4f = vec4f(-3.0e38);
var<private> sum: vec4f;
fn inside(i: u32, own: u32) -> bool {
    return i * LANES + own < D4;
}
// What the lane's channels add to the scores by the key at k.
fn partial(k: u32) -> vec4f {
    let key# = wide(keys[k + c#]); //*1*SHARE
    var dots$ = vec4f(); //*HQ
    dots$ = fma(q$_#, key#, dots$); //*HQ*SHARE
    var all = vec4f();
    all[$] = dots$.x + dots$.y + dots$.z + dots$.w; //*HQ
    return all;
}
// Positions first .. stop, LANES at a time, which lie in one page: each lane then has the weight of one of them.
fn walk(at: Item, first: u32, stop: u32, lane: Lane) {
    let own = own(lane);
    for (var j = first / LANES * LANES; j < stop; j += LANES) {
        let page = table[at.b * p.pages + j / PAGE];
        let k# = row_in(page, p.kv_heads, at.kv, clamp(j + #u, first, stop - 1u)) * D4; //*1*AT_ONCE
        let part# = partial(k#); //*1*AT_ONCE
        let seen = (j + own >= first) & (j + own < stop);
        let score = select(vec4f(-3.0e38), capped4(totals(array<vec4f, LANES>(
            part#, //*1*AT_ONCE
        ), lane)), seen);
        let higher = max(top, largest(score, lane));
        let keep = exp(top - higher);
        let w = select(vec4f(), exp(score - higher), seen);
        sum = fma(sum, keep, w);
        o$_# *= keep[$]; //*HQ*SHARE
        for (var i = 0u; i < LANES; i++) {
            let v = row_in(page, p.kv_heads, at.kv, clamp(j + i, first, stop - 1u)) * D4;
            let weight = from_lane(w, i);
            let value# = wide(values[v + c#]); //*1*SHARE
            o$_# = fma(value#, vec4f(weight[$]), o$_#); //*HQ*SHARE
        }
        top = higher;
    }
}
fn put(at: Item, lane: Lane) {
    let own = own(lane);
    let all = total(sum, lane);
    let to = (at.b * p.heads + at.h) * p.chunks + at.s;
    if WHOLE == 1u {
        o$_# /= all[$]; //*HQ*SHARE
    } else if own == 0u {
        part[norm_at(to + $u * p.chunks)] = vec4f(top[$], all[$], 0.0, 0.0); //*HQ
    }
    if inside(#u, own) { part[(to + $u * p.chunks) * D4 + c#] = o$_#; } //*HQ*SHARE
}
