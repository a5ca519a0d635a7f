// Attention over the token forest: row i sees row j exactly when j <= i < end[j] (and pos[i] - pos[j] < window). A lane
// holds one query row in HQ heads of one key head (or, for dK and dV, KR key rows); the other side's rows come NB at a time, at
// addresses that are uniform over the workgroup. Where a whole subtree ends before the block of queries begins, the loop jumps over it: the cost follows
// the visible area. What lies before the windows of all rows that a key's node reaches is jumped over too: a
// position grows by at most 1 a row. With COUNT the pairs that are computed and the jumps are counted. Online softmax
// (FlashAttention, arXiv 2205.14135); nothing of size [T, T] exists.
// qkv holds [q heads | k heads | v heads], each head D4 vec4 wide.
struct Params {
    rows: u32,      // T
    heads: u32,     // H
    kv_heads: u32,  // KV
    ld4: u32,       // (H + 2 KV) D4
    scale: f32,
    window: u32,
    head0: u32,
    d4: u32,        // D4 again, unknown to the compiler
}
fn visible(i: u32, j: u32, e: u32, distance: u32) -> bool {
    // No short circuit, which would be a branch.
    return (j <= i) & (i < e) & (distance < p.window);
}

// D4 as a loop bound: for wide heads a software adapter's compiler must not unroll (16 vec4 took it 20 s, and the code
// was slower), for narrow ones it should.
const HELD: u32 = select(max(D4, 33u), D4, D4 <= 4u);
fn wide() -> u32 {
    return select(p.d4, D4, D4 <= 4u);
}

//@ forward
// With CHUNK > 0 the keys of each row's path are summed up in chunks of CHUNK positions counted from position 0, then the
// chunks in their order, as attention_decode does it: then a token's bits are the same in both.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> root: array<u32>;         // [T] first row of the row's tree
@group(0) @binding(4) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(5) var<storage, read_write> o: array<vec4f>;    // [T, H, D4]
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;    // [T, H]
@group(0) @binding(7) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i0 = g.x * WG;
    let h = g.y * HQ + p.head0;
    let last = min(i0 + WG, p.rows) - 1u;
    let i = min(i0 + lane, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 + h * D4;
    var q$: array<vec4f, HELD>; //*HQ
    for (var d = 0u; d < wide(); d++) {
        q$[d] = qkv[qi + $u * D4 + d] * p.scale; //*HQ
    }
    var c$: array<vec4f, HELD>; //*HQ
    var top$ = -3.0e38; //*HQ
    var sum$ = 0.0; //*HQ
    var chunk = 0u;
    var all$: array<vec4f, select(1u, HELD, CHUNK > 0u)>; //*HQ
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
            var low = pos[i0];
            for (var r = i0 + 1u; r < min(e0, last + 1u); r++) {
                low = min(low, pos[r]);
            }
            first = max(low, p.window - 1u) - (p.window - 1u);
        }
        let at# = pos[j#]; //*1*NB
        if at0 < first {
            done.y += HQ; //*COUNT
            j += first - at0;
            continue;
        }
        done.x += HQ * NB; //*COUNT
        let k# = j# * p.ld4 + kv * D4; //*1*NB
        let v# = k# + p.kv_heads * D4; //*1*NB
        var dots$_# = vec4f(); //*HQ*NB
        for (var d = 0u; d < wide(); d++) {
            let key# = qkv[k# + d]; //*1*NB
            let x$ = q$[d]; //*HQ
            dots$_# = fma(x$, key#, dots$_#); //*HQ*NB
        }
        let seen# = (j + #u <= last) & visible(i, j#, e#, here - at#); //*1*NB
        if CHUNK > 0u && seen0 && at0 / max(CHUNK, 1u) != chunk {
            let most$ = max(all_top$, top$); //*HQ
            let old$ = exp(all_top$ - most$); //*HQ
            let new$ = exp(top$ - most$); //*HQ
            all_sum$ = fma(all_sum$, old$, sum$ * new$); //*HQ
            for (var d = 0u; d < wide(); d++) {
                all$[d] = fma(all$[d], vec4f(old$), c$[d] * new$); //*HQ
                c$[d] = vec4f(); //*HQ
            }
            all_top$ = most$; //*HQ
            top$ = -3.0e38; //*HQ
            sum$ = 0.0; //*HQ
            chunk = at0 / max(CHUNK, 1u);
        }
        let s$_# = select(-3.0e38, dots$_#.x + dots$_#.y + dots$_#.z + dots$_#.w, seen#); //*HQ*NB
        var higher$ = top$; //*HQ
        higher$ = max(higher$, s$_#); //*HQ*NB
        let keep$ = exp(top$ - higher$); //*HQ
        let w$_# = select(0.0, exp(s$_# - higher$), seen#); //*HQ*NB
        var more$ = 0.0; //*HQ
        more$ += w$_#; //*HQ*NB
        sum$ = fma(sum$, keep$, more$); //*HQ
        for (var d = 0u; d < wide(); d++) {
            let value# = qkv[v# + d]; //*1*NB
            var t$ = vec4f(); //*HQ
            t$ = fma(vec4f(w$_#), value#, t$); //*HQ*NB
            c$[d] = fma(c$[d], vec4f(keep$), t$); //*HQ
        }
        top$ = higher$; //*HQ
        j += NB;
    }
    atomicAdd(&work[0], done.x); //*COUNT
    atomicAdd(&work[1], done.y); //*COUNT
    if CHUNK > 0u {
        let most$ = max(all_top$, top$); //*HQ
        let old$ = exp(all_top$ - most$); //*HQ
        let new$ = exp(top$ - most$); //*HQ
        sum$ = fma(all_sum$, old$, sum$ * new$); //*HQ
        for (var d = 0u; d < wide(); d++) {
            c$[d] = fma(all$[d], vec4f(old$), c$[d] * new$); //*HQ
        }
        top$ = most$; //*HQ
    }
    if i0 + lane < p.rows {
        let oi = (i * p.heads + h) * D4;
        for (var d = 0u; d < wide(); d++) {
            o[oi + $u * D4 + d] = c$[d] / sum$; //*HQ
        }
        lse[i * p.heads + h + $u] = top$ + log(sum$); //*HQ
    }
}

//@ backward_delta
// delta = rowsum(dO * O), the term that all of a row's dS share.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> o: array<vec4f>;          // [T, H, D4]
@group(0) @binding(2) var<storage, read> d_o: array<vec4f>;        // [T, H, D4]
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;  // [T, H]
@compute @workgroup_size(WG)
fn backward_delta(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = (g.x + g.y * n.x) * WG + lane;
    if i >= p.rows * p.heads {
        return;
    }
    var sum = 0.0;
    for (var d = 0u; d < wide(); d++) {
        sum += dot(o[i * D4 + d], d_o[i * D4 + d]);
    }
    delta[i] = sum;
}

//@ backward_q
// dQ; overwrites the q part of dqkv.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> root: array<u32>;         // [T]
@group(0) @binding(4) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(5) var<storage, read> d_o: array<vec4f>;        // [T, H, D4]
@group(0) @binding(6) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(7) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(8) var<storage, read_write> dqkv: array<vec4f>; // [T, H + 2 KV, D4]
@group(0) @binding(9) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn backward_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i0 = g.x * WG;
    let h = g.y * HQ + p.head0;
    let last = min(i0 + WG, p.rows) - 1u;
    let i = min(i0 + lane, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 + h * D4;
    let oi = (i * p.heads + h) * D4;
    var q$: array<vec4f, HELD>; //*HQ
    var dout$: array<vec4f, HELD>; //*HQ
    for (var d = 0u; d < wide(); d++) {
        q$[d] = qkv[qi + $u * D4 + d] * p.scale; //*HQ
        dout$[d] = d_o[oi + $u * D4 + d]; //*HQ
    }
    var c$: array<vec4f, HELD>; //*HQ
    let l$ = lse[i * p.heads + h + $u]; //*HQ
    let delta$ = delta[i * p.heads + h + $u]; //*HQ
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
            var low = pos[i0];
            for (var r = i0 + 1u; r < min(e0, last + 1u); r++) {
                low = min(low, pos[r]);
            }
            first = max(low, p.window - 1u) - (p.window - 1u);
        }
        let at# = pos[j#]; //*1*NB
        if at0 < first {
            done.y += HQ; //*COUNT
            j += first - at0;
            continue;
        }
        done.x += HQ * NB; //*COUNT
        let k# = j# * p.ld4 + kv * D4; //*1*NB
        let v# = k# + p.kv_heads * D4; //*1*NB
        var dots$_# = vec4f(); //*HQ*NB
        var dp$_# = vec4f(); //*HQ*NB
        for (var d = 0u; d < wide(); d++) {
            let key# = qkv[k# + d]; //*1*NB
            let x$ = q$[d]; //*HQ
            dots$_# = fma(x$, key#, dots$_#); //*HQ*NB
            let value# = qkv[v# + d]; //*1*NB
            let y$ = dout$[d]; //*HQ
            dp$_# = fma(y$, value#, dp$_#); //*HQ*NB
        }
        let seen# = (j + #u <= last) & visible(i, j#, e#, here - at#); //*1*NB
        let w$_# = select(0.0, exp(min(dots$_#.x + dots$_#.y + dots$_#.z + dots$_#.w - l$, 0.0)), seen#); //*HQ*NB
        let ds$_# = vec4f(w$_# * (dp$_#.x + dp$_#.y + dp$_#.z + dp$_#.w - delta$) * p.scale); //*HQ*NB
        for (var d = 0u; d < wide(); d++) {
            let key# = qkv[k# + d]; //*1*NB
            var t$ = c$[d]; //*HQ
            t$ = fma(ds$_#, key#, t$); //*HQ*NB
            c$[d] = t$; //*HQ
        }
        j += NB;
    }
    atomicAdd(&work[2], done.x); //*COUNT
    atomicAdd(&work[3], done.y); //*COUNT
    if i0 + lane < p.rows {
        for (var d = 0u; d < wide(); d++) {
            dqkv[qi + $u * D4 + d] = c$[d]; //*HQ
        }
    }
}

//@ backward_kv
// dK and dV; overwrites the k and v parts of dqkv. The queries that see key j are exactly the rows j .. end[j];
// a row beyond all keys' windows is jumped over with all that continues it.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read> d_o: array<vec4f>;        // [T, H, D4]
@group(0) @binding(5) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(6) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(7) var<storage, read_write> dqkv: array<vec4f>; // [T, H + 2 KV, D4]
@group(0) @binding(8) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn backward_kv(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let block = g.x * WG * KR;
    let kv = g.y + p.head0;
    let last = min(block + WG * KR, p.rows) - 1u;
    let j$ = min(block + $u * WG + lane, last); //*KR
    let e$ = end[j$]; //*KR
    let here$ = pos[j$]; //*KR
    var stop = 0u;
    for (var r = block; r <= last; r++) {
        stop = max(stop, end[r]);
    }
    let ki$ = j$ * p.ld4 + (p.heads + kv) * D4; //*KR
    let vi$ = ki$ + p.kv_heads * D4; //*KR
    var k$: array<vec4f, HELD>; //*KR
    var v$: array<vec4f, HELD>; //*KR
    for (var d = 0u; d < wide(); d++) {
        k$[d] = qkv[ki$ + d] * p.scale; //*KR
        v$[d] = qkv[vi$ + d]; //*KR
    }
    var x$: array<vec4f, HELD>; //*KR
    var y$: array<vec4f, HELD>; //*KR
    let group = p.heads / p.kv_heads;
    var done = vec2u(); //*COUNT
    for (var h = kv * group; h < kv * group + group; h++) {
        var high = 0u;
        var until = 0u;
        var i = block;
        while i < stop {
            let i# = min(i + #u, stop - 1u); //*1*NB
            let at# = pos[i#]; //*1*NB
            if i >= until {
                high = 0u;
                until = stop;
                for (var r = block; r <= last; r++) {
                    if end[r] > i {
                        high = max(high, pos[r]);
                        until = min(until, end[r]);
                    }
                }
            }
            if at0 > high && at0 - high >= p.window {
                done.y += KR; //*COUNT
                i = end[i];
                continue;
            }
            done.x += KR * NB; //*COUNT
            let q# = i# * p.ld4 + h * D4; //*1*NB
            let o# = (i# * p.heads + h) * D4; //*1*NB
            var dots$_# = vec4f(); //*KR*NB
            var dp$_# = vec4f(); //*KR*NB
            for (var d = 0u; d < wide(); d++) {
                let a$ = k$[d]; //*KR
                let b$ = v$[d]; //*KR
                let query# = qkv[q# + d]; //*1*NB
                let dout# = d_o[o# + d]; //*1*NB
                dots$_# = fma(a$, query#, dots$_#); //*KR*NB
                dp$_# = fma(b$, dout#, dp$_#); //*KR*NB
            }
            let l# = lse[i# * p.heads + h]; //*1*NB
            let delta# = delta[i# * p.heads + h]; //*1*NB
            let seen$_# = (i + #u < stop) & visible(i#, j$, e$, at# - here$); //*KR*NB
            let w$_# = select(0.0, exp(min(dots$_#.x + dots$_#.y + dots$_#.z + dots$_#.w - l#, 0.0)), seen$_#); //*KR*NB
            let ds$_# = vec4f(w$_# * (dp$_#.x + dp$_#.y + dp$_#.z + dp$_#.w - delta#) * p.scale); //*KR*NB
            for (var d = 0u; d < wide(); d++) {
                var a$ = x$[d]; //*KR
                var b$ = y$[d]; //*KR
                let query# = qkv[q# + d]; //*1*NB
                let dout# = d_o[o# + d]; //*1*NB
                b$ = fma(vec4f(w$_#), dout#, b$); //*KR*NB
                a$ = fma(ds$_#, query#, a$); //*KR*NB
                x$[d] = a$; //*KR
                y$[d] = b$; //*KR
            }
            i += NB;
        }
    }
    atomicAdd(&work[4], done.x); //*COUNT
    atomicAdd(&work[5], done.y); //*COUNT
    if block + $u * WG + lane < p.rows { for (var d = 0u; d < wide(); d++) { dqkv[ki$ + d] = x$[d]; dqkv[vi$ + d] = y$[d]; } } //*KR
}
