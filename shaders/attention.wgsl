// Attention over the token forest: row i sees row j exactly when j <= i < end[j] (and pos[i] - pos[j] < window). A lane
// holds one query row (or, for dK and dV, one key row); what the other side brings is at addresses that are uniform over
// the workgroup. Where a whole subtree ends before the block of queries begins, the loop jumps over it: the cost follows
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
    return j <= i && i < e && distance < p.window;
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
    let h = g.y + p.head0;
    let last = min(i0 + WG, p.rows) - 1u;
    let i = min(i0 + lane, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 + h * D4;
    var q: array<vec4f, HELD>;
    for (var d = 0u; d < wide(); d++) {
        q[d] = qkv[qi + d] * p.scale;
    }
    var c: array<vec4f, HELD>;
    var top = -3.0e38;
    var sum = 0.0;
    var chunk = 0u;
    var all: array<vec4f, select(1u, HELD, CHUNK > 0u)>;
    var all_top = -3.0e38;
    var all_sum = 0.0;
    var j = root[i0];
    var under = 0u;
    var first = 0u;
    var done = vec2u(); //*COUNT
    while j <= last {
        let e = end[j];
        if e <= i0 {
            done.y++; //*COUNT
            j = e;
            continue;
        }
        if e != under {
            under = e;
            var low = pos[i0];
            for (var r = i0 + 1u; r < min(e, last + 1u); r++) {
                low = min(low, pos[r]);
            }
            first = max(low, p.window - 1u) - (p.window - 1u);
        }
        if pos[j] < first {
            done.y++; //*COUNT
            j += first - pos[j];
            continue;
        }
        done.x++; //*COUNT
        let ki = j * p.ld4 + kv * D4;
        let vi = ki + p.kv_heads * D4;
        var dots = vec4f();
        for (var d = 0u; d < wide(); d++) {
            dots = fma(q[d], qkv[ki + d], dots);
        }
        let seen = visible(i, j, e, pos[i] - pos[j]);
        if CHUNK > 0u && seen && pos[j] / max(CHUNK, 1u) != chunk {
            let higher = max(all_top, top);
            let keep = exp(all_top - higher);
            let w = exp(top - higher);
            all_sum = fma(all_sum, keep, sum * w);
            for (var d = 0u; d < wide(); d++) {
                all[d] = fma(all[d], vec4f(keep), c[d] * w);
                c[d] = vec4f();
            }
            all_top = higher;
            top = -3.0e38;
            sum = 0.0;
            chunk = pos[j] / max(CHUNK, 1u);
        }
        let s = select(-3.0e38, dots.x + dots.y + dots.z + dots.w, seen);
        let higher = max(top, s);
        let keep = exp(top - higher);
        let w = select(0.0, exp(s - higher), seen);
        sum = fma(sum, keep, w);
        for (var d = 0u; d < wide(); d++) {
            c[d] = fma(c[d], vec4f(keep), qkv[vi + d] * w);
        }
        top = higher;
        j++;
    }
    atomicAdd(&work[0], done.x); //*COUNT
    atomicAdd(&work[1], done.y); //*COUNT
    if CHUNK > 0u {
        let higher = max(all_top, top);
        let keep = exp(all_top - higher);
        let w = exp(top - higher);
        sum = fma(all_sum, keep, sum * w);
        for (var d = 0u; d < wide(); d++) {
            c[d] = fma(all[d], vec4f(keep), c[d] * w);
        }
        top = higher;
    }
    if i0 + lane < p.rows {
        let oi = (i * p.heads + h) * D4;
        for (var d = 0u; d < wide(); d++) {
            o[oi + d] = c[d] / sum;
        }
        lse[i * p.heads + h] = top + log(sum);
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
    let h = g.y + p.head0;
    let last = min(i0 + WG, p.rows) - 1u;
    let i = min(i0 + lane, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 + h * D4;
    let oi = (i * p.heads + h) * D4;
    var q: array<vec4f, HELD>;
    for (var d = 0u; d < wide(); d++) {
        q[d] = qkv[qi + d] * p.scale;
    }
    var dout: array<vec4f, HELD>;
    for (var d = 0u; d < wide(); d++) {
        dout[d] = d_o[oi + d];
    }
    var c: array<vec4f, HELD>;
    let l = lse[i * p.heads + h];
    let d = delta[i * p.heads + h];
    var j = root[i0];
    var under = 0u;
    var first = 0u;
    var done = vec2u(); //*COUNT
    while j <= last {
        let e = end[j];
        if e <= i0 {
            done.y++; //*COUNT
            j = e;
            continue;
        }
        if e != under {
            under = e;
            var low = pos[i0];
            for (var r = i0 + 1u; r < min(e, last + 1u); r++) {
                low = min(low, pos[r]);
            }
            first = max(low, p.window - 1u) - (p.window - 1u);
        }
        if pos[j] < first {
            done.y++; //*COUNT
            j += first - pos[j];
            continue;
        }
        done.x++; //*COUNT
        let ki = j * p.ld4 + kv * D4;
        let vi = ki + p.kv_heads * D4;
        var dots = vec4f();
        var dp = vec4f();
        for (var d = 0u; d < wide(); d++) {
            dots = fma(q[d], qkv[ki + d], dots);
            dp = fma(dout[d], qkv[vi + d], dp);
        }
        let w = select(0.0, exp(min(dots.x + dots.y + dots.z + dots.w - l, 0.0)), visible(i, j, e, pos[i] - pos[j]));
        let ds = vec4f(w * (dp.x + dp.y + dp.z + dp.w - d) * p.scale);
        for (var d = 0u; d < wide(); d++) {
            c[d] = fma(ds, qkv[ki + d], c[d]);
        }
        j++;
    }
    atomicAdd(&work[2], done.x); //*COUNT
    atomicAdd(&work[3], done.y); //*COUNT
    if i0 + lane < p.rows {
        for (var d = 0u; d < wide(); d++) {
            dqkv[qi + d] = c[d];
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
    let j0 = g.x * WG;
    let kv = g.y + p.head0;
    let last = min(j0 + WG, p.rows) - 1u;
    let j = min(j0 + lane, last);
    let e = end[j];
    var stop = 0u;
    for (var r = j0; r <= last; r++) {
        stop = max(stop, end[r]);
    }
    let ki = j * p.ld4 + (p.heads + kv) * D4;
    let vi = ki + p.kv_heads * D4;
    var k: array<vec4f, HELD>;
    for (var d = 0u; d < wide(); d++) {
        k[d] = qkv[ki + d] * p.scale;
    }
    var v: array<vec4f, HELD>;
    for (var d = 0u; d < wide(); d++) {
        v[d] = qkv[vi + d];
    }
    var x: array<vec4f, HELD>;
    var y: array<vec4f, HELD>;
    let group = p.heads / p.kv_heads;
    var done = vec2u(); //*COUNT
    for (var h = kv * group; h < kv * group + group; h++) {
        var high = 0u;
        var until = 0u;
        var i = j0;
        while i < stop {
            if i >= until {
                high = 0u;
                until = stop;
                for (var r = j0; r <= last; r++) {
                    if end[r] > i {
                        high = max(high, pos[r]);
                        until = min(until, end[r]);
                    }
                }
            }
            if pos[i] > high && pos[i] - high >= p.window {
                done.y++; //*COUNT
                i = end[i];
                continue;
            }
            done.x++; //*COUNT
            let qi = i * p.ld4 + h * D4;
            let oi = (i * p.heads + h) * D4;
            var dots = vec4f();
            var dp = vec4f();
            for (var d = 0u; d < wide(); d++) {
                dots = fma(k[d], qkv[qi + d], dots);
                dp = fma(v[d], d_o[oi + d], dp);
            }
            let at = i * p.heads + h;
            let w = select(0.0, exp(min(dots.x + dots.y + dots.z + dots.w - lse[at], 0.0)), visible(i, j, e, pos[i] - pos[j]));
            let ds = vec4f(w * (dp.x + dp.y + dp.z + dp.w - delta[at]) * p.scale);
            for (var d = 0u; d < wide(); d++) {
                y[d] = fma(vec4f(w), d_o[oi + d], y[d]);
                x[d] = fma(ds, qkv[qi + d], x[d]);
            }
            i++;
        }
    }
    atomicAdd(&work[4], done.x); //*COUNT
    atomicAdd(&work[5], done.y); //*COUNT
    if j0 + lane < p.rows {
        for (var d = 0u; d < wide(); d++) {
            dqkv[ki + d] = x[d];
            dqkv[vi + d] = y[d];
        }
    }
}
