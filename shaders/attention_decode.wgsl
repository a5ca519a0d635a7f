// Attention of single rows onto the paged KV arena: row b at position pos[b] sees positions 0 ..= pos[b] of its own
// page table (within the window). The positions are cut into chunks of CHUNK counted from position 0; `split` gives
// each chunk's softmax numerators and log-sum-exp, NB positions at a time, `merge` adds them up (Flash-Decoding); where
// there is one chunk, split gives its quotient at once (WHOLE), which has the bits that merge would give. So the order
// of every sum depends on the position alone, not on what else is decoded.
struct Params {
    rows: u32,      // B
    heads: u32,     // H
    kv_heads: u32,  // KV
    ld4: u32,       // row distance of qkv in vec4
    scale: f32,
    window: u32,
    chunks: u32,    // S
    pages: u32,     // row distance of the page table
    d4: u32,        // D4 again, unknown to the compiler
    eps: f32,       // of the QK-norm
    cap: f32,       // of the scores, with CAP
}

// Where a chunk's (maximum, sum) stands in part, behind all numerators.
fn norm_at(item: u32) -> u32 {
    return p.rows * p.heads * p.chunks * D4 + item;
}
// D4 as a loop bound: for wide heads a software adapter's compiler must not unroll (16 vec4 took it 20 s, and the code
// was slower), for narrow ones it should.
const HELD: u32 = select(max(D4, 33u), D4, D4 <= 4u);
fn bound() -> u32 {
    return select(p.d4, D4, D4 <= 4u);
}

//@ split cap
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [B, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> keys: array<Operand>;     // [pages, KV, PAGE, D4]
@group(0) @binding(3) var<storage, read> values: array<Operand>;   // [pages, KV, PAGE, D4]
@group(0) @binding(4) var<storage, read> table: array<u32>;        // [B, pages]
@group(0) @binding(5) var<storage, read> pos: array<u32>;          // [B]
@group(0) @binding(6) var<storage, read_write> part: array<vec4f>; // [B, H, S, D4] and [B, H, S], o where WHOLE
@compute @workgroup_size(WG)
fn split(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let at = flat(g, n) * WG + lane;
    let s = at % p.chunks;
    let h = (at / p.chunks) % p.heads;
    let b = at / (p.chunks * p.heads);
    if b >= p.rows {
        return;
    }
    let kv = h / (p.heads / p.kv_heads);
    let qi = b * p.ld4 + h * D4;
    var q: array<vec4f, HELD>;
    for (var d = 0u; d < bound(); d++) {
        q[d] = qkv[qi + d] * p.scale;
    }
    var c: array<vec4f, HELD>;
    var top = -3.0e38;
    var sum = 0.0;
    let len = pos[b] + 1u;
    let first = max(s * CHUNK, select(0u, len - p.window, len > p.window));
    let stop = min(len, (s + 1u) * CHUNK);
    for (var j = first; j < stop; j += NB) {
        let j# = min(j + #u, stop - 1u); //*1*NB
        let k# = row_in(table[b * p.pages + j# / PAGE], p.kv_heads, kv, j#) * D4; //*1*NB
        var dots# = vec4f(); //*1*NB
        for (var d = 0u; d < bound(); d++) {
            let x = q[d];
            dots# = fma(x, wide(keys[k# + d]), dots#); //*1*NB
        }
        let score# = select(-3.0e38, capped(dots#.x + dots#.y + dots#.z + dots#.w), j + #u < stop); //*1*NB
        var higher = top;
        higher = max(higher, score#); //*1*NB
        let keep = exp(top - higher);
        let w# = select(0.0, exp(score# - higher), j + #u < stop); //*1*NB
        var more = 0.0;
        more += w#; //*1*NB
        sum = fma(sum, keep, more);
        for (var d = 0u; d < bound(); d++) {
            var t = vec4f();
            t = fma(vec4f(w#), wide(values[k# + d]), t); //*1*NB
            c[d] = fma(c[d], vec4f(keep), t);
        }
        top = higher;
    }
    for (var d = 0u; d < bound(); d++) {
        if WHOLE == 1u {
            part[at * D4 + d] = c[d] / sum;
        } else {
            part[at * D4 + d] = c[d];
        }
    }
    if WHOLE == 0u {
        part[norm_at(at)] = vec4f(top, sum, 0.0, 0.0);
    }
}

//@ merge sink
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part: array<vec4f>;       // [B, H, S, D4] and [B, H, S]
@group(0) @binding(2) var<storage, read> sinks: array<f32>;        // [H] where SINK
@group(0) @binding(3) var<storage, read_write> o: array<vec4f>;    // [B, H, D4]
@compute @workgroup_size(WG)
fn merge(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let at = flat(g, n) * WG + lane;
    if at >= p.rows * p.heads * D4 {
        return;
    }
    let first = (at / D4) * p.chunks;
    var top = -3.0e38;
    var sum = 0.0;
    var c = vec4f();
    for (var s = first; s < first + p.chunks; s++) {
        let norm = part[norm_at(s)];
        let higher = max(top, norm.x);
        let keep = exp(top - higher);
        let w = exp(norm.x - higher);
        sum = fma(sum, keep, norm.y * w);
        c = fma(c, vec4f(keep), part[s * D4 + at % D4] * w);
        top = higher;
    }
    c = c / sum;
    if SINK == 1u {
        // As attention of scoring does it, of the log-sum.
        let lse = top + log(sum);
        c *= left_by(sinks[at / D4 % p.heads] - lse);
    }
    o[at] = c;
}
