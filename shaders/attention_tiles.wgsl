// The gradients of attention over the token forest for adapters that run on the CPU, by tiles of 16 queries and 16 keys: `scores`
// writes P and dS of one tile after the other, as 16 keys of 16 queries, and their products with rows of q, k and dO follow. Which
// tiles hold a visible pair is a list that the host makes; a list begins with where each block's part of it begins.
// A line that ends in //*ROWS*COLUMNS stands for every pair, $ and # being the two.
struct Params {
    rows: u32,      // T
    heads: u32,     // H
    kv_heads: u32,  // KV
    ld4: u32,       // of qkv: (H + 2 KV) D4
    d4: u32,        // D4
    scale: f32,
    window: u32,
    head0: u32,     // first query head of this dispatch
    heads_here: u32,
    block0: u32,    // first block of 16 queries of this dispatch
    tile0: u32,     // its first tile
    tiles: u32,     // its tiles
    ldb4: u32,      // of a product's rows
    b0: u32,        // vec4 before the first head of these
    ldc4: u32,      // of its results
    c0: u32,
    add: u32,       // whether the results are added to what is there
    from_w: u32,    // vec4 before the weights that it takes
}
// Weights of head h of those here in tile t, in vec4.
fn tile_at(h: u32, t: u32) -> u32 {
    return (h * p.tiles + t - p.tile0) * 64u;
}

//@ scores
// P = exp(s - lse), and behind it dS = P (dP - delta) scale.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> d_o: array<vec4f>;        // [T, H, D4]
@group(0) @binding(3) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(5) var<storage, read> list: array<u32>;         // [QB + 1 + tiles] key blocks by query block
@group(0) @binding(6) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(7) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(8) var<storage, read_write> w: array<vec4f>;    // [2, heads here, tiles, 16, 16]
@compute @workgroup_size(WG)
fn scores(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let h = p.head0 + g.y;
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let row = p.block0 * 16u + g.x * 8u;
    let block = row / 16u;
    let i$ = min(row + $u, p.rows - 1u); //*8
    let l$ = i$ * p.heads + h; //*8
    let blocks = (p.rows + 15u) / 16u;
    let past = list[block + 1u];
    // Two tiles at a time, so that 8 queries and 4 keys of a lane share 12 loads. The last one may be there twice.
    for (var t = list[block]; t < past; t += 2u) {
        let t# = min(t + #u / 2u, past - 1u); //*1*4
        let key# = #u % 2u * 8u + lane; //*1*4
        let seen# = list[blocks + 1u + t#] * 16u + key#; //*1*4
        let j# = min(seen#, p.rows - 1u); //*1*4
        let end# = end[j#]; //*1*4
        let pos# = pos[j#]; //*1*4
        var k# = j# * p.ld4 + kv * p.d4; //*1*4
        var q$ = i$ * p.ld4 + h * p.d4; //*8
        var s$_# = 0.0; //*8*4
        for (var d = 0u; d < p.d4; d++) {
            let y# = qkv[k# + d]; //*1*4
            let x$ = qkv[q$ + d]; //*8
            s$_# = fma(x$.w, y#.w, fma(x$.z, y#.z, fma(x$.y, y#.y, fma(x$.x, y#.x, s$_#)))); //*8*4
        }
        k# += p.kv_heads * p.d4; //*1*4
        q$ = l$ * p.d4; //*8
        var dp$_# = 0.0; //*8*4
        for (var d = 0u; d < p.d4; d++) {
            let y# = qkv[k# + d]; //*1*4
            let x$ = d_o[q$ + d]; //*8
            dp$_# = fma(x$.w, y#.w, fma(x$.z, y#.z, fma(x$.y, y#.y, fma(x$.x, y#.x, dp$_#)))); //*8*4
        }
        // No short circuit, which would be a branch.
        let sees$_# = (row + $u < p.rows) & (seen# < p.rows) & (j# <= i$) & (i$ < end#) & (pos[i$] - pos# < p.window); //*8*4
        let e$_# = select(0.0, exp(min(fma(s$_#, p.scale, -lse[l$]), 0.0)), sees$_#); //*8*4
        let ds$_# = e$_# * (dp$_# - delta[l$]) * p.scale; //*8*4
        let at# = tile_at(g.y, t#) + key# * 4u + g.x % 2u * 2u; //*1*4
        w[at#] = vec4f(e0_#, e1_#, e2_#, e3_#); //*1*4
        w[at# + 1u] = vec4f(e4_#, e5_#, e6_#, e7_#); //*1*4
        let to# = at# + p.heads_here * p.tiles * 64u; //*1*4
        w[to#] = vec4f(ds0_#, ds1_#, ds2_#, ds3_#); //*1*4
        w[to# + 1u] = vec4f(ds4_#, ds5_#, ds6_#, ds7_#); //*1*4
    }
}

//@ to_queries
// dQ: of each query the sum over keys of dS k.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;          // [2, heads here, tiles, 16, 16]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [T, KV, D4] by ldb4 and b0
@group(0) @binding(3) var<storage, read> list: array<u32>;         // [QB + 1 + tiles] key blocks by query block
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [T, H, D4] by ldc4 and c0
@group(0) @binding(5) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn to_queries(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let h = p.head0 + g.y;
    let kv = h / (p.heads / p.kv_heads);
    let row = p.block0 * 16u + g.x * 8u;
    let block = row / 16u;
    let blocks = (p.rows + 15u) / 16u;
    let d = g.z * WG + lane;
    if d >= p.d4 {
        return;
    }
    var c$ = vec4f(); //*8
    for (var t = list[block]; t < list[block + 1u]; t++) {
        var at = p.from_w + tile_at(g.y, t) + g.x % 2u * 2u;
        let first = list[blocks + 1u + t] * 16u;
        for (var j = first; j < first + 16u; j++) {
            let x = b[min(j, p.rows - 1u) * p.ldb4 + p.b0 + kv * p.d4 + d];
            let low = w[at];
            let high = w[at + 1u];
            c0 = fma(vec4f(low.x), x, c0);
            c1 = fma(vec4f(low.y), x, c1);
            c2 = fma(vec4f(low.z), x, c2);
            c3 = fma(vec4f(low.w), x, c3);
            c4 = fma(vec4f(high.x), x, c4);
            c5 = fma(vec4f(high.y), x, c5);
            c6 = fma(vec4f(high.z), x, c6);
            c7 = fma(vec4f(high.w), x, c7);
            at += 4u;
        }
    }
    atomicAdd(&work[2], select(0u, (list[block + 1u] - list[block]) * 128u, d == 0u)); //*COUNT
    if row + $u < p.rows { c[(row + $u) * p.ldc4 + p.c0 + h * p.d4 + d] = c$; } //*8
}

//@ to_keys
// Of each key the sum over the queries and heads that see it: dV of P dO, dK of dS q.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;          // [2, heads here, tiles, 16, 16]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [T, H, D4] by ldb4 and b0
@group(0) @binding(3) var<storage, read> list: array<u32>;         // [KB + 1 + 2 tiles] tiles and query blocks by key block
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [T, KV, D4] by ldc4 and c0
@group(0) @binding(5) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn to_keys(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let group = p.heads / p.kv_heads;
    let block = g.x / 2u;
    let blocks = (p.rows + 15u) / 16u;
    let row = g.x * 8u;
    let d = g.z * WG + lane;
    if d >= p.d4 {
        return;
    }
    let last = p.rows - 1u;
    var c$ = vec4f(); //*8
    var done = 0u; //*COUNT
    for (var n = list[block]; n < list[block + 1u]; n++) {
        let t = list[blocks + 1u + 2u * n];
        if t < p.tile0 || t >= p.tile0 + p.tiles {
            continue;
        }
        let first = list[blocks + 2u + 2u * n] * 16u;
        done += 128u * group; //*COUNT
        for (var h = g.y * group; h < g.y * group + group; h++) {
            let from_ = p.b0 + (p.head0 + h) * p.d4 + d;
            let at = p.from_w + tile_at(h, t) + g.x % 2u * 32u;
            for (var part = 0u; part < 4u; part++) {
                let i = first + part * 4u;
                let x# = b[min(i + #u, last) * p.ldb4 + from_]; //*1*4
                let w$ = w[at + part + $u * 4u]; //*8
                c$ = fma(vec4f(w$.w), x3, fma(vec4f(w$.z), x2, fma(vec4f(w$.y), x1, fma(vec4f(w$.x), x0, c$)))); //*8
            }
        }
    }
    atomicAdd(&work[4], select(0u, done, d == 0u)); //*COUNT
    let kv = p.head0 / group + g.y;
    if row + $u < p.rows { let o = (row + $u) * p.ldc4 + p.c0 + kv * p.d4 + d; if p.add == 1u { c[o] += c$; } else { c[o] = c$; } } //*8
}
