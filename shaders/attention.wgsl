// Attention over the token forest: row i sees row j exactly when j <= i < end[j] (and pos[i] - pos[j] < window). A lane
// holds one query row (or, for dK and dV, one key row); what the other side brings is at addresses that are uniform over
// the workgroup. Where a whole subtree ends before the block of queries begins, the loop jumps over it: the cost follows
// the visible area. Online softmax (FlashAttention, arXiv 2205.14135); nothing of size [T, T] exists.
// qkv holds [q heads | k heads | v heads], each head D4 vec4 wide. A line that ends in //*NAME stands NAME times.
struct Params {
    rows: u32,      // T
    heads: u32,     // H
    kv_heads: u32,  // KV
    ld4: u32,       // (H + 2 KV) D4
    scale: f32,
    window: u32,
    head0: u32,     // first head of this dispatch
}
fn visible(i: u32, j: u32, e: u32, distance: u32) -> bool {
    return j <= i && i < e && distance < p.window;
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> root: array<u32>;         // [T] first row of the row's tree
@group(0) @binding(4) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(5) var<storage, read_write> o: array<vec4f>;    // [T, H, D4]
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;    // [T, H]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i0 = g.x * WG;
    let h = g.y + p.head0;
    let last = min(i0 + WG, p.rows) - 1u;
    let i = min(i0 + lane, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 + h * D4;
    let q$ = qkv[qi + $u] * p.scale; //*D4
    var c$ = vec4f(); //*D4
    var top = -3.0e38;
    var sum = 0.0;
    var j = root[i0];
    while j <= last {
        let e = end[j];
        if e <= i0 {
            j = e;
            continue;
        }
        let ki = j * p.ld4 + kv * D4;
        let vi = ki + p.kv_heads * D4;
        var dots = vec4f();
        dots = fma(q$, qkv[ki + $u], dots); //*D4
        let seen = visible(i, j, e, pos[i] - pos[j]);
        let s = select(-3.0e38, dots.x + dots.y + dots.z + dots.w, seen);
        let higher = max(top, s);
        let keep = exp(top - higher);
        let w = select(0.0, exp(s - higher), seen);
        sum = sum * keep + w;
        c$ = fma(c$, vec4f(keep), qkv[vi + $u] * w); //*D4
        top = higher;
        j++;
    }
    if i0 + lane < p.rows {
        let oi = (i * p.heads + h) * D4;
        o[oi + $u] = c$ / sum; //*D4
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
    for (var d = 0u; d < D4; d++) {
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
@compute @workgroup_size(WG)
fn backward_q(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i0 = g.x * WG;
    let h = g.y + p.head0;
    let last = min(i0 + WG, p.rows) - 1u;
    let i = min(i0 + lane, last);
    let kv = p.heads + h / (p.heads / p.kv_heads);
    let qi = i * p.ld4 + h * D4;
    let oi = (i * p.heads + h) * D4;
    let q$ = qkv[qi + $u] * p.scale; //*D4
    let g$ = d_o[oi + $u]; //*D4
    var c$ = vec4f(); //*D4
    let l = lse[i * p.heads + h];
    let d = delta[i * p.heads + h];
    var j = root[i0];
    while j <= last {
        let e = end[j];
        if e <= i0 {
            j = e;
            continue;
        }
        let ki = j * p.ld4 + kv * D4;
        let vi = ki + p.kv_heads * D4;
        var dots = vec4f();
        var dp = vec4f();
        dots = fma(q$, qkv[ki + $u], dots); //*D4
        dp = fma(g$, qkv[vi + $u], dp); //*D4
        let w = select(0.0, exp(min(dots.x + dots.y + dots.z + dots.w - l, 0.0)), visible(i, j, e, pos[i] - pos[j]));
        let ds = vec4f(w * (dp.x + dp.y + dp.z + dp.w - d) * p.scale);
        c$ = fma(ds, qkv[ki + $u], c$); //*D4
        j++;
    }
    if i0 + lane < p.rows {
        dqkv[qi + $u] = c$; //*D4
    }
}

//@ backward_kv
// dK and dV; overwrites the k and v parts of dqkv. The queries that see key j are exactly the rows j .. end[j].
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> end: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read> d_o: array<vec4f>;        // [T, H, D4]
@group(0) @binding(5) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(6) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(7) var<storage, read_write> dqkv: array<vec4f>; // [T, H + 2 KV, D4]
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
    let k$ = qkv[ki + $u] * p.scale; //*D4
    let v$ = qkv[vi + $u]; //*D4
    var x$ = vec4f(); //*D4
    var y$ = vec4f(); //*D4
    let group = p.heads / p.kv_heads;
    for (var h = kv * group; h < kv * group + group; h++) {
        for (var i = j0; i < stop; i++) {
            let qi = i * p.ld4 + h * D4;
            let oi = (i * p.heads + h) * D4;
            var dots = vec4f();
            var dp = vec4f();
            dots = fma(k$, qkv[qi + $u], dots); //*D4
            dp = fma(v$, d_o[oi + $u], dp); //*D4
            let at = i * p.heads + h;
            let w = select(0.0, exp(min(dots.x + dots.y + dots.z + dots.w - lse[at], 0.0)), visible(i, j, e, pos[i] - pos[j]));
            let ds = vec4f(w * (dp.x + dp.y + dp.z + dp.w - delta[at]) * p.scale);
            y$ = fma(vec4f(w), d_o[oi + $u], y$); //*D4
            x$ = fma(ds, qkv[qi + $u], x$); //*D4
        }
    }
    if j0 + lane < p.rows {
        dqkv[ki + $u] = x$; //*D4
        dqkv[vi + $u] = y$; //*D4
    }
}
