// Attention over the token forest. A lane holds its share of one query row in HQ heads of one key head; keys and values
// come NB rows at a time, at addresses that are uniform over the rows of a workgroup. Where a whole subtree ends before
// the block of queries begins, the loop jumps over it: the cost follows the visible area. What lies before the windows
// of all rows that a key's node reaches is jumped over too: a position grows by at most 1 a row. With COUNT the pairs
// that are computed and the jumps are counted. Online softmax (FlashAttention, arXiv 2205.14135); nothing of size [T,
// T] exists.

//@ forward walk cap
// With CHUNK > 0 the keys of each row's path are summed up in chunks of CHUNK positions counted from position 0, then
// the chunks in their order, as attention_decode does it: then a token's bits are the same in both.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<Part>;         // [T, H + 2 KV, D]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> root: array<u32>;         // [T] first row of the row's tree
@group(0) @binding(4) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(5) var<storage, read_write> o: array<Part>;     // [T, H, D]
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;    // [T, H]
@group(0) @binding(7) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let part = lane % PARTS;
    let row = lane / PARTS % ROWS;
    let beside = lane / PARTS / ROWS;
    let i0 = g.x * ROWS;
    let h = (g.y * ABREAST + beside % ABREAST) * HQ + p.head0;
    let last = min(i0 + ROWS, p.rows) - 1u;
    let i = min(i0 + row, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 * UNIT + h * D;
    var q$: array<Part, HELD>; //*HQ
    for (var d = 0u; d < share(); d++) {
        q$[d] = qkv[qi + $u * D + d * PARTS + part] * p.scale; //*HQ
    }
    var c$: array<Part, HELD>; //*HQ
    var top$ = -3.0e38; //*HQ
    var sum$ = 0.0; //*HQ
    var chunk = 0u;
    var all$: array<Part, select(1u, HELD, CHUNK > 0u)>; //*HQ
    var all_top$ = -3.0e38; //*HQ
    var all_sum$ = 0.0; //*HQ
    let here = pos[i];
    var j = root[i0];
    var under = 0u;
    var first = 0u;
    var done = vec2u(); //*COUNT
    while j <= last {
        let j# = min(j + #u, last); //*1*NB
        let e# = end[j#]; //*1*NB
        if e0 <= i0 {
            done.y += HQ; //*COUNT
            j = e0;
            continue;
        }
        if e0 != under {
            under = e0;
            first = first_seen(i0, min(e0, last + 1u));
        }
        let at# = pos[j#]; //*1*NB
        if at0 < first {
            done.y += HQ; //*COUNT
            j += first - at0;
            continue;
        }
        done.x += HQ * NB; //*COUNT
        let k# = j# * p.ld4 * UNIT + kv * D; //*1*NB
        let v# = k# + p.kv_heads * D; //*1*NB
        var dots$_# = Part(0.0); //*HQ*NB
        for (var d = 0u; d < share(); d++) {
            let key# = qkv[k# + d * PARTS + part]; //*1*NB
            let x$ = q$[d]; //*HQ
            dots$_# = fma(x$, key#, dots$_#); //*HQ*NB
        }
        // Of up to 8 keys; where lanes share a row, of up to 4.
        var score$ = vec4f(); //*HQ
        var more_scores$ = vec4f(); //*HQ
        let sum$_# = added(dots$_#); //*HQ*NB
        if #u < 4u { score$[#u % 4u] = sum$_#; } else { more_scores$[#u % 4u] = sum$_#; } //*HQ*NB
        score$ = across(score$, lane); //*HQ
        let seen# = (j + #u <= last) & visible(i, j#, e#, here - at#); //*1*NB
        if CHUNK > 0u && seen0 && at0 / max(CHUNK, 1u) != chunk {
            let most$ = max(all_top$, top$); //*HQ
            let old$ = exp(all_top$ - most$); //*HQ
            let new$ = exp(top$ - most$); //*HQ
            all_sum$ = fma(all_sum$, old$, sum$ * new$); //*HQ
            for (var d = 0u; d < share(); d++) {
                all$[d] = fma(all$[d], Part(old$), c$[d] * new$); //*HQ
                c$[d] = Part(0.0); //*HQ
            }
            all_top$ = most$; //*HQ
            top$ = -3.0e38; //*HQ
            sum$ = 0.0; //*HQ
            chunk = at0 / max(CHUNK, 1u);
        }
        let s$_# = select(-3.0e38, capped(select(more_scores$[#u % 4u], score$[#u % 4u], #u < 4u)), seen#); //*HQ*NB
        var higher$ = top$; //*HQ
        higher$ = max(higher$, s$_#); //*HQ*NB
        let keep$ = exp(top$ - higher$); //*HQ
        let w$_# = select(0.0, exp(s$_# - higher$), seen#); //*HQ*NB
        var more$ = 0.0; //*HQ
        more$ += w$_#; //*HQ*NB
        sum$ = fma(sum$, keep$, more$); //*HQ
        for (var d = 0u; d < share(); d++) {
            let value# = qkv[v# + d * PARTS + part]; //*1*NB
            var t$ = Part(0.0); //*HQ
            t$ = fma(Part(w$_#), value#, t$); //*HQ*NB
            c$[d] = fma(c$[d], Part(keep$), t$); //*HQ
        }
        top$ = higher$; //*HQ
        j += NB;
    }
    atomicAdd(&work[0], select(0u, done.x, part == 0u)); //*COUNT
    atomicAdd(&work[1], select(0u, done.y, part == 0u)); //*COUNT
    if CHUNK > 0u {
        let most$ = max(all_top$, top$); //*HQ
        let old$ = exp(all_top$ - most$); //*HQ
        let new$ = exp(top$ - most$); //*HQ
        sum$ = fma(all_sum$, old$, sum$ * new$); //*HQ
        for (var d = 0u; d < share(); d++) {
            c$[d] = fma(all$[d], Part(old$), c$[d] * new$); //*HQ
        }
        top$ = most$; //*HQ
    }
    if beside < ABREAST && i0 + row < p.rows {
        let oi = (i * p.heads + h) * D;
        for (var d = 0u; d < share(); d++) {
            o[oi + $u * D + d * PARTS + part] = c$[d] / sum$; //*HQ
        }
        if part == 0u {
            lse[i * p.heads + h + $u] = top$ + log(sum$); //*HQ
        }
    }
}
