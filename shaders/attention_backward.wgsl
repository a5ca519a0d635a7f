// The gradients of attention over the token forest, by what the forward pass kept (FlashAttention, arXiv 2205.14135): a
// lane holds its share of one query row in HQ heads and reads NB keys at a time, or, for dK and dV, of one key row and
// reads QS queries; at most 4.

//@ row_delta
// delta = rowsum(dO * O), the term that all of a row's dS share.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> o: array<vec4f>;          // [T, H, D4]
@group(0) @binding(2) var<storage, read> d_o: array<vec4f>;        // [T, H, D4]
@group(0) @binding(3) var<storage, read_write> delta: array<f32>;  // [T, H]
@compute @workgroup_size(WG)
fn row_delta(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let i = (g.x + g.y * n.x) * WG + lane;
    if i >= p.rows * p.heads {
        return;
    }
    var sum = 0.0;
    for (var d = 0u; d < p.d4; d++) {
        sum += dot(o[i * D4 + d], d_o[i * D4 + d]);
    }
    delta[i] = sum;
}

//@ queries walk cap
// dQ; overwrites the q part of dqkv.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<Part>;         // [T, H + 2 KV, D]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> root: array<u32>;         // [T]
@group(0) @binding(4) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(5) var<storage, read> d_o: array<Part>;         // [T, H, D]
@group(0) @binding(6) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(7) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(8) var<storage, read_write> dqkv: array<Part>;  // [T, H + 2 KV, D]
@group(0) @binding(9) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn queries(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let part = lane % PARTS;
    let i0 = g.x * ROWS;
    let h = g.y * HQ + p.head0;
    let last = min(i0 + ROWS, p.rows) - 1u;
    let i = min(i0 + lane / PARTS, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 * UNIT + h * D;
    let oi = (i * p.heads + h) * D;
    var q$: array<Part, HELD>; //*HQ
    var dout$: array<Part, HELD>; //*HQ
    for (var d = 0u; d < share(); d++) {
        q$[d] = qkv[qi + $u * D + d * PARTS + part] * p.scale; //*HQ
        dout$[d] = d_o[oi + $u * D + d * PARTS + part]; //*HQ
    }
    var c$: array<Part, HELD>; //*HQ
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
        var dots$_# = 0.0; //*HQ*NB
        var dp$_# = 0.0; //*HQ*NB
        for (var d = 0u; d < share(); d++) {
            let key# = qkv[k# + d * PARTS + part]; //*1*NB
            let x$ = q$[d]; //*HQ
            dots$_# = onto(dots$_#, x$, key#); //*HQ*NB
            let value# = qkv[v# + d * PARTS + part]; //*1*NB
            let y$ = dout$[d]; //*HQ
            dp$_# = onto(dp$_#, y$, value#); //*HQ*NB
        }
        var score$ = vec4f(); //*HQ
        score$[#u] = dots$_#; //*HQ*NB
        score$ = across(score$, lane); //*HQ
        var product$ = vec4f(); //*HQ
        product$[#u] = dp$_#; //*HQ*NB
        product$ = across(product$, lane); //*HQ
        let seen# = (j + #u <= last) & visible(i, j#, e#, here - at#); //*1*NB
        let s$_# = capped(score$[#u]); //*HQ*NB
        let w$_# = select(0.0, exp(min(s$_# - l$, 0.0)), seen#); //*HQ*NB
        let ds$_# = Part(uncapped(w$_# * (product$[#u] - delta$) * p.scale, s$_#)); //*HQ*NB
        for (var d = 0u; d < share(); d++) {
            let key# = qkv[k# + d * PARTS + part]; //*1*NB
            var t$ = c$[d]; //*HQ
            t$ = fma(ds$_#, key#, t$); //*HQ*NB
            c$[d] = t$; //*HQ
        }
        j += NB;
    }
    atomicAdd(&work[2], select(0u, done.x, part == 0u)); //*COUNT
    atomicAdd(&work[3], select(0u, done.y, part == 0u)); //*COUNT
    if i0 + lane / PARTS < p.rows {
        for (var d = 0u; d < share(); d++) {
            dqkv[qi + $u * D + d * PARTS + part] = c$[d]; //*HQ
        }
    }
}

//@ keys cap
// dK and dV; overwrites the k and v parts of dqkv. The queries that see key j are exactly the rows j .. end[j];
// a row beyond all keys' windows is jumped over with all that continues it.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<Part>;         // [T, H + 2 KV, D]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read> d_o: array<Part>;         // [T, H, D]
@group(0) @binding(5) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(6) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(7) var<storage, read_write> dqkv: array<Part>;  // [T, H + 2 KV, D]
@group(0) @binding(8) var<storage, read_write> work: array<atomic<u32>>; // [6] pairs and jumps, by pass //*COUNT
@compute @workgroup_size(WG)
fn keys(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let part = lane % PARTS;
    let block = g.x * ROWS;
    let kv = g.y + p.head0;
    let last = min(block + ROWS, p.rows) - 1u;
    let j = min(block + lane / PARTS, last);
    let e = end[j];
    let here = pos[j];
    var stop = 0u;
    for (var r = block; r <= last; r++) {
        stop = max(stop, end[r]);
    }
    let ki = j * p.ld4 * UNIT + (p.heads + kv) * D;
    let vi = ki + p.kv_heads * D;
    var k: array<Part, HELD>;
    var v: array<Part, HELD>;
    for (var d = 0u; d < share(); d++) {
        k[d] = qkv[ki + d * PARTS + part] * p.scale;
        v[d] = qkv[vi + d * PARTS + part];
    }
    var x: array<Part, HELD>;
    var y: array<Part, HELD>;
    let group = p.heads / p.kv_heads;
    var done = vec2u(); //*COUNT
    for (var h = kv * group; h < kv * group + group; h++) {
        var high = 0u;
        var until = 0u;
        var i = block;
        while i < stop {
            let i# = min(i + #u, stop - 1u); //*1*QS
            let at# = pos[i#]; //*1*QS
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
                done.y += 1u; //*COUNT
                i = end[i];
                continue;
            }
            done.x += QS; //*COUNT
            let q# = i# * p.ld4 * UNIT + h * D; //*1*QS
            let o# = (i# * p.heads + h) * D; //*1*QS
            var dots# = 0.0; //*1*QS
            var dp# = 0.0; //*1*QS
            for (var d = 0u; d < share(); d++) {
                let a = k[d];
                let b = v[d];
                let query# = qkv[q# + d * PARTS + part]; //*1*QS
                let dout# = d_o[o# + d * PARTS + part]; //*1*QS
                dots# = onto(dots#, a, query#); //*1*QS
                dp# = onto(dp#, b, dout#); //*1*QS
            }
            let l# = lse[i# * p.heads + h]; //*1*QS
            let delta# = delta[i# * p.heads + h]; //*1*QS
            var score = vec4f();
            score[#u] = dots#; //*1*QS
            score = across(score, lane);
            var product = vec4f();
            product[#u] = dp#; //*1*QS
            product = across(product, lane);
            let seen# = (i + #u < stop) & visible(i#, j, e, at# - here); //*1*QS
            let s# = capped(score[#u]); //*1*QS
            let w# = select(0.0, exp(min(s# - l#, 0.0)), seen#); //*1*QS
            let ds# = Part(uncapped(w# * (product[#u] - delta#) * p.scale, s#)); //*1*QS
            for (var d = 0u; d < share(); d++) {
                var a = x[d];
                var b = y[d];
                let query# = qkv[q# + d * PARTS + part]; //*1*QS
                let dout# = d_o[o# + d * PARTS + part]; //*1*QS
                b = fma(Part(w#), dout#, b); //*1*QS
                a = fma(ds#, query#, a); //*1*QS
                x[d] = a;
                y[d] = b;
            }
            i += QS;
        }
    }
    atomicAdd(&work[4], select(0u, done.x, part == 0u)); //*COUNT
    atomicAdd(&work[5], select(0u, done.y, part == 0u)); //*COUNT
    if block + lane / PARTS < p.rows {
        for (var d = 0u; d < share(); d++) {
            dqkv[ki + d * PARTS + part] = x[d];
            dqkv[vi + d * PARTS + part] = y[d];
        }
    }
}
