// The products of the weights in memory with rows of q, k, v and dO.

//@ to_queries lanes
// dQ: of each query the sum over keys of dS k. The forward pass: that of P v, divided by the sum of P (SOFTMAX).
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;          // [2, heads here, tiles, 16, 16]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [T, KV, D4] by ldb4 and b0
@group(0) @binding(3) var<storage, read> list: array<u32>;         // [QB + 1 + tiles] key blocks by query block
@group(0) @binding(4) var<storage, read> sum: array<f32>;          // [T, H] where SOFTMAX
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;    // [T, H, D4] by ldc4 and c0
@group(0) @binding(6) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn to_queries(@builtin(workgroup_id) g: vec3u, lane: Lane) {
    let h = p.head0 + g.y;
    let kv = h / (p.heads / p.kv_heads);
    let block = p.block0 + g.x;
    let row = block * 16u;
    let blocks = (p.rows + 15u) / 16u;
    let channel = g.z * WG + lane.index;
    let d = min(channel, p.d4 - 1u);
    var c$_# = vec4f(); //*4*4
    for (var t = list[block]; t < list[block + 1u]; t++) {
        let at = p.from_w + tile_at(g.y, t);
        let first = list[blocks + 1u + t] * 16u;
        for (var j0 = 0u; j0 < 16u; j0 += LANES) {
            let w# = w[at + (j0 + own(lane)) * 4u + #u]; //*1*4
            for (var j = 0u; j < LANES; j++) {
                let x = b[min(first + j0 + j, p.rows - 1u) * p.ldb4 + p.b0 + kv * p.d4 + d];
                let s# = from_lane(w#, j); //*1*4
                c$_# = fma(vec4f(s#[$]), x, c$_#); //*4*4
            }
        }
    }
    atomicAdd(&work[2], select(0u, (list[block + 1u] - list[block]) * 256u, channel == 0u)); //*COUNT
    let i$_# = row + #u * 4u + $u; //*4*4
    if SOFTMAX == 1u {
        c$_# /= sum[min(i$_#, p.rows - 1u) * p.heads + h]; //*4*4
    }
    if i$_# < p.rows && channel < p.d4 { c[i$_# * p.ldc4 + p.c0 + h * p.d4 + d] = c$_#; } //*4*4
}

//@ to_keys lanes
// Of each key the sum over the queries and heads that see it: dV of P dO, dK of dS q.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;          // [2, heads here, tiles, 16, 16]
@group(0) @binding(2) var<storage, read> b: array<vec4f>;          // [T, H, D4] by ldb4 and b0
@group(0) @binding(3) var<storage, read> list: array<u32>;         // [KB + 1 + 2 tiles] tile, query block by key block
@group(0) @binding(4) var<storage, read_write> c: array<vec4f>;    // [T, KV, D4] by ldc4 and c0
@group(0) @binding(5) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn to_keys(@builtin(workgroup_id) g: vec3u, lane: Lane) {
    let group = p.heads / p.kv_heads;
    let block = g.x;
    let blocks = (p.rows + 15u) / 16u;
    let row = block * 16u;
    let channel = g.z * WG + lane.index;
    let d = min(channel, p.d4 - 1u);
    let last = p.rows - 1u;
    var c$_# = vec4f(); //*2*8
    var done = 0u; //*COUNT
    for (var n = list[block]; n < list[block + 1u]; n++) {
        let t = list[blocks + 1u + 2u * n];
        if t < p.tile0 || t >= p.tile0 + p.tiles {
            continue;
        }
        let first = list[blocks + 2u + 2u * n] * 16u;
        done += 256u * group; //*COUNT
        for (var h = g.y * group; h < g.y * group + group; h++) {
            let from_ = p.b0 + (p.head0 + h) * p.d4 + d;
            let at = p.from_w + tile_at(h, t);
            var v# = vec4f(); //*1*8
            if LANES == 8u {
                v# = w[at + #u * 8u + own(lane)]; //*1*8
            }
            for (var part = 0u; part < 4u; part++) {
                let i = first + part * 4u;
                let x# = b[min(i + #u, last) * p.ldb4 + from_]; //*1*4
                var w$_# = from_lane(v#, $u * 4u + part); //*2*8
                if LANES == 1u {
                    w$_# = w[at + #u * 8u + $u * 4u + part]; //*2*8
                }
                c$_# = fma(vec4f(w$_#.w), x3, fma(vec4f(w$_#.z), x2, \
                       fma(vec4f(w$_#.y), x1, fma(vec4f(w$_#.x), x0, c$_#)))); //*2*8
            }
        }
    }
    atomicAdd(&work[4], select(0u, done, channel == 0u)); //*COUNT
    let kv = p.head0 / group + g.y;
    let j$_# = row + #u * 2u + $u; //*2*8
    if j$_# < p.rows && channel < p.d4 { \
        let o = j$_# * p.ldc4 + p.c0 + kv * p.d4 + d; \
        if p.add == 1u { c[o] += c$_#; } else { c[o] = c$_#; } \
    } //*2*8
}
