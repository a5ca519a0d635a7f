
//@ group lanes beside cap
// What `split` gives, each key and value read once for HQ query heads.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [B, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> keys: array<Operand>;     // [pages, KV, PAGE, D4]
@group(0) @binding(3) var<storage, read> values: array<Operand>;   // [pages, KV, PAGE, D4]
@group(0) @binding(4) var<storage, read> table: array<u32>;        // [B, pages]
@group(0) @binding(5) var<storage, read> pos: array<u32>;          // [B]
@group(0) @binding(6) var<storage, read_write> part: array<vec4f>; // [B, H, S, D4] and [B, H, S], o where WHOLE
@compute @workgroup_size(WG)
fn group(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, lane: Lane) {
    let at = item((flat(g, n) * WG + lane.index) / LANES);
    if at.b >= p.rows {
        return;
    }
    let own = own(lane);
    c# = min(#u * LANES + own, D4 - 1u); //*1*SHARE
    let qi = at.b * p.ld4 + at.h * D4;
    q$_# = select(vec4f(), qkv[qi + $u * D4 + c#] * p.scale, inside(#u, own)); //*HQ*SHARE
    let len = pos[at.b] + 1u;
    let first = max(at.s * CHUNK, select(0u, len - p.window, len > p.window));
    walk(at, first, min(len, (at.s + 1u) * CHUNK), lane);
    put(at, lane);
}

//@ turned lanes beside cap
// What `group` gives, of the projection's own rows, each of a sequence of its own: what rope.decode does to them
// happens in registers, and k and v, which nobody else reads now, go to the arena.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;          // [B, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read_write> keys: array<Operand>; // [pages, KV, PAGE, D4]
@group(0) @binding(3) var<storage, read_write> values: array<Operand>; // [pages, KV, PAGE, D4]
@group(0) @binding(4) var<storage, read> table: array<u32>;          // [B, pages]
@group(0) @binding(5) var<storage, read> pos: array<u32>;            // [B]
@group(0) @binding(6) var<storage, read_write> part: array<vec4f>;   // [B, H, S, D4] and [B, H, S], o where WHOLE
@group(0) @binding(7) var<storage, read> angle: array<vec4f>;        // [positions, cos HALF4 | sin HALF4]
@group(0) @binding(8) var<storage, read> gain: array<vec4f>;         // [q D4 | k D4] where QK_NORM
var<private> cos#: vec4f; //*1*SHARE
var<private> sin#: vec4f; //*1*SHARE
var<private> far#: u32; //*1*SHARE
// The rotated head at `head`, of which the lane gets its vec4; `gains` is where its gains begin.
fn turn(head: u32, gains: u32, lane: Lane) -> array<vec4f, SHARE> {
    let own = own(lane);
    var near# = select(vec4f(), qkv[head + c#], inside(#u, own)); //*1*SHARE
    var other# = qkv[head + far#]; //*1*SHARE
    if QK_NORM == 1u {
        var squares = vec4f();
        squares = fma(near#, near#, squares); //*1*SHARE
        let mean = dot(total(squares, lane), vec4f(1.0)) / f32(4u * D4);
        let scale = inverseSqrt(mean + p.eps);
        near# *= scale * (f32(OFFSET) + gain[gains + c#]); //*1*SHARE
        other# *= scale * (f32(OFFSET) + gain[gains + far#]); //*1*SHARE
    }
    return array<vec4f, SHARE>(
        fma(near#, cos#, select(vec4f(), other# * sin#, inside(#u, own))), //*1*SHARE
    );
}
@compute @workgroup_size(WG)
fn turned(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, lane: Lane) {
    let at = item((flat(g, n) * WG + lane.index) / LANES);
    if at.b >= p.rows {
        return;
    }
    let own = own(lane);
    let here = pos[at.b];
    c# = min(#u * LANES + own, D4 - 1u); //*1*SHARE
    // A pair of channels lies HALF4 vec4 apart; those from 2 HALF4 on stay as they are.
    let turns# = c# < 2u * HALF4; //*1*SHARE
    far# = select(c#, (c# + HALF4) % (2u * HALF4), turns#); //*1*SHARE
    let row = here * 2u * HALF4;
    cos# = select(vec4f(1.0), angle[row + c# % HALF4], turns#); //*1*SHARE
    sin# = select(vec4f(), angle[row + HALF4 + c# % HALF4] * select(1.0, -1.0, c# < HALF4), turns#); //*1*SHARE
    let q$ = turn(at.b * p.ld4 + (at.h + $u) * D4, 0u, lane); //*HQ
    q$_# = q$[#] * p.scale; //*HQ*SHARE
    let first = max(at.s * CHUNK, select(0u, here + 1u - p.window, here >= p.window));
    if at.s == here / CHUNK {
        let ki = at.b * p.ld4 + (p.heads + at.kv) * D4;
        let key = turn(ki, D4, lane);
        // The row sees of its own position what the rows after it will see.
        let k# = as_kept(key[#]); //*1*SHARE
        let v# = as_kept(qkv[ki + p.kv_heads * D4 + c#]); //*1*SHARE
        var dots$ = vec4f(); //*HQ
        dots$ = fma(q$_#, wide(k#), dots$); //*HQ*SHARE
        top[$] = dots$.x + dots$.y + dots$.z + dots$.w; //*HQ
        top = capped4(total(top, lane));
        sum = vec4f(select(0.0, 1.0, own == 0u));
        o$_# = wide(v#); //*HQ*SHARE
        if at.h % (p.heads / p.kv_heads) == 0u {
            let to = row_in(table[at.b * p.pages + here / PAGE], p.kv_heads, at.kv, here) * D4;
            if inside(#u, own) { keys[to + c#] = k#; } //*1*SHARE
            if inside(#u, own) { values[to + c#] = v#; } //*1*SHARE
        }
    }
    walk(at, first, min(here, (at.s + 1u) * CHUNK), lane);
    put(at, lane);
}
