// Attention over the token forest and its gradients for adapters that run on the CPU, by tiles of 16 queries and 16
// keys: `weights` writes P, `scores` P and dS of one tile after the other, as 16 keys of 16 queries, and their products
// with rows of q, k, v and dO follow. A workgroup has 16 queries or 16 keys; of what all of its lanes need each loads a
// share (lib/lanes). Which tiles hold a visible pair is a list that the host makes; a list begins with where each
// block's part of it begins.
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
    cap: f32,       // of the scores, with CAP
}
// Weights of head h of those here in tile t, in vec4.
fn tile_at(h: u32, t: u32) -> u32 {
    return (h * p.tiles + t - p.tile0) * 64u;
}

// Whether row i sees row j, one of which may be none: they count on in a block's empty places.
fn sees(i: u32, j: u32, end: u32, distance: u32) -> bool {
    // No short circuit, which would be a branch.
    return (i < p.rows) & (j < p.rows) & (j <= i) & (i < end) & (distance < p.window);
}

//@ weights lanes cap
// The forward pass: P = exp(s - top) with top the largest score of a row, their sum, and lse = top + log(sum). Only
// where lanes load for each other: they hold different keys of a row.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read> list: array<u32>;         // [QB + 1 + tiles] key blocks by query block
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;    // [T, H]
@group(0) @binding(6) var<storage, read_write> sum: array<f32>;    // [T, H]
@group(0) @binding(7) var<storage, read_write> w: array<vec4f>;    // [heads here, tiles, 16, 16]
@group(0) @binding(8) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn weights(@builtin(workgroup_id) g: vec3u, lane: Lane) {
    let h = p.head0 + g.y;
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let block = p.block0 + g.x;
    let row = block * 16u;
    let i$ = min(row + $u, p.rows - 1u); //*16
    let blocks = (p.rows + 15u) / 16u;
    let past = list[block + 1u];
    var top$ = -3.0e38; //*16
    // Two tiles at a time, so that a lane has 4 keys. The last one may be there twice.
    for (var t = list[block]; t < past; t += 2u) {
        let t# = min(t + #u / 2u, past - 1u); //*1*4
        let key# = #u % 2u * 8u + lane.index; //*1*4
        let seen# = list[blocks + 1u + t#] * 16u + key#; //*1*4
        let j# = min(seen#, p.rows - 1u); //*1*4
        let end# = end[j#]; //*1*4
        let pos# = pos[j#]; //*1*4
        let k# = j# * p.ld4 + kv * p.d4; //*1*4
        var s$_# = 0.0; //*16*4
        for (var d0 = 0u; d0 < p.d4; d0 += LANES) {
            let d1 = min(d0 + own(lane), p.d4 - 1u);
            let here = min(LANES, p.d4 - d0);
            let q$ = qkv[i$ * p.ld4 + h * p.d4 + d1]; //*16
            for (var d = 0u; d < here; d++) {
                let y# = qkv[k# + d0 + d]; //*1*4
                let x$ = from_lane(q$, d); //*16
                s$_# = fma(x$.w, y#.w, fma(x$.z, y#.z, fma(x$.y, y#.y, fma(x$.x, y#.x, s$_#)))); //*16*4
            }
        }
        let sees$_# = sees(row + $u, seen#, end#, pos[i$] - pos#); //*16*4
        let e$_# = select(-3.0e38, capped(s$_# * p.scale), sees$_#); //*16*4
        top$ = max(top$, e$_#); //*16*4
        let at# = tile_at(g.y, t#) + key# * 4u; //*1*4
        w[at#] = vec4f(e0_#, e1_#, e2_#, e3_#); //*1*4
        w[at# + 1u] = vec4f(e4_#, e5_#, e6_#, e7_#); //*1*4
        w[at# + 2u] = vec4f(e8_#, e9_#, e10_#, e11_#); //*1*4
        w[at# + 3u] = vec4f(e12_#, e13_#, e14_#, e15_#); //*1*4
    }
    let most_0 = vec4f(top0, top1, top2, top3);
    let most_1 = vec4f(top4, top5, top6, top7);
    let most_2 = vec4f(top8, top9, top10, top11);
    let most_3 = vec4f(top12, top13, top14, top15);
    let top_$ = largest(most_$, lane); //*4
    var sum$ = vec4f(); //*4
    for (var t = list[block]; t < past; t++) {
        // A lane's two keys.
        let at# = tile_at(g.y, t) + (#u * 8u + lane.index) * 4u; //*1*2
        let e$_# = exp(w[at# + $u] - top_$); //*4*2
        w[at# + $u] = e$_#; //*4*2
        sum$ += e$_#; //*4*2
    }
    let sum_$ = total(sum$, lane); //*4
    let r$_# = row + $u * 4u + #u; //*4*4
    if lane.index == 0u && r$_# < p.rows { \
        sum[r$_# * p.heads + h] = sum_$[#]; \
        lse[r$_# * p.heads + h] = top_$[#] + log(sum_$[#]); \
    } //*4*4
    atomicAdd(&work[0], select(0u, (past - list[block]) * 256u, lane.index == 0u)); //*COUNT
}

//@ scores lanes cap
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
fn scores(@builtin(workgroup_id) g: vec3u, lane: Lane) {
    let h = p.head0 + g.y;
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let block = p.block0 + g.x;
    let row = block * 16u;
    let i$ = min(row + $u, p.rows - 1u); //*16
    let l$ = i$ * p.heads + h; //*16
    let blocks = (p.rows + 15u) / 16u;
    let past = list[block + 1u];
    // Two tiles at a time, so that a lane has 4 keys. The last one may be there twice.
    for (var t = list[block]; t < past; t += 2u) {
        let t# = min(t + #u / 2u, past - 1u); //*1*4
        let key# = #u % 2u * 8u + lane.index; //*1*4
        let seen# = list[blocks + 1u + t#] * 16u + key#; //*1*4
        let j# = min(seen#, p.rows - 1u); //*1*4
        let end# = end[j#]; //*1*4
        let pos# = pos[j#]; //*1*4
        let k# = j# * p.ld4 + kv * p.d4; //*1*4
        let v# = k# + p.kv_heads * p.d4; //*1*4
        var s$_# = 0.0; //*16*4
        var dp$_# = 0.0; //*16*4
        for (var d0 = 0u; d0 < p.d4; d0 += LANES) {
            let d1 = min(d0 + own(lane), p.d4 - 1u);
            let here = min(LANES, p.d4 - d0);
            let q$ = qkv[i$ * p.ld4 + h * p.d4 + d1]; //*16
            for (var d = 0u; d < here; d++) {
                let y# = qkv[k# + d0 + d]; //*1*4
                let x$ = from_lane(q$, d); //*16
                s$_# = fma(x$.w, y#.w, fma(x$.z, y#.z, fma(x$.y, y#.y, fma(x$.x, y#.x, s$_#)))); //*16*4
            }
            let o$ = d_o[l$ * p.d4 + d1]; //*16
            for (var d = 0u; d < here; d++) {
                let y# = qkv[v# + d0 + d]; //*1*4
                let x$ = from_lane(o$, d); //*16
                dp$_# = fma(x$.w, y#.w, fma(x$.z, y#.z, fma(x$.y, y#.y, fma(x$.x, y#.x, dp$_#)))); //*16*4
            }
        }
        let sees$_# = sees(row + $u, seen#, end#, pos[i$] - pos#); //*16*4
        let y$_# = capped(s$_# * p.scale); //*16*4
        let e$_# = select(0.0, exp(min(capped_above(s$_#, y$_#, p.scale, lse[l$]), 0.0)), sees$_#); //*16*4
        let ds$_# = uncapped(e$_# * (dp$_# - delta[l$]) * p.scale, y$_#); //*16*4
        let at# = tile_at(g.y, t#) + key# * 4u; //*1*4
        w[at#] = vec4f(e0_#, e1_#, e2_#, e3_#); //*1*4
        w[at# + 1u] = vec4f(e4_#, e5_#, e6_#, e7_#); //*1*4
        w[at# + 2u] = vec4f(e8_#, e9_#, e10_#, e11_#); //*1*4
        w[at# + 3u] = vec4f(e12_#, e13_#, e14_#, e15_#); //*1*4
        let to# = at# + p.heads_here * p.tiles * 64u; //*1*4
        w[to#] = vec4f(ds0_#, ds1_#, ds2_#, ds3_#); //*1*4
        w[to# + 1u] = vec4f(ds4_#, ds5_#, ds6_#, ds7_#); //*1*4
        w[to# + 2u] = vec4f(ds8_#, ds9_#, ds10_#, ds11_#); //*1*4
        w[to# + 3u] = vec4f(ds12_#, ds13_#, ds14_#, ds15_#); //*1*4
    }
}

