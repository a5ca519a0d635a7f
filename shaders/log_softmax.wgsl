// Log-probs of listed targets from one chunk of logits, and the gradient that flows back into the chunk, in place.
// Row r has the targets start[row0 + r] .. start[row0 + r + 1]: the prompt's last row predicts the first token of every
// answer. Each target belongs to a sequence, and the loss moves it through coef[sequence] = dloss / dlogp.
struct Params {
    rows: u32,   // C, rows of the chunk
    cols: u32,   // V
    ld: u32,
    row0: u32,   // first row of the chunk in the lists
    cap: f32,    // of the logits, with CAP
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;          // [C, V]
@group(0) @binding(2) var<storage, read> start: array<u32>;           // [R + 1]
@group(0) @binding(3) var<storage, read> target_id: array<u32>;       // [E]
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;       // [R]
@group(0) @binding(5) var<storage, read_write> logp: array<f32>;      // [E]
@group(0) @binding(6) var<storage, read_write> square: array<f32>;    // [E] log sum p^2 over the vocabulary
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) l: u32) {
    let r = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if r >= p.rows {
        return;
    }
    var top = -3.0e38;
    for (var v = lane; v < p.cols; v += LANES) {
        top = max(top, logits[r * p.ld + v]);
    }
    top = reduce_max(top, l);
    // Terms that are small beside their sum would be lost in it, and over a large vocabulary they add up: so four sums,
    // each of parts of 64 terms.
    var s4 = vec4f();
    var q4 = vec4f();
    for (var part = lane; part < p.cols; part += 256u * LANES) {
        var s = vec4f();
        var q = vec4f();
        for (var v = part; v < min(part + 256u * LANES, p.cols); v += 4u * LANES) {
            let at = vec4u(v, v + LANES, v + 2u * LANES, v + 3u * LANES);
            let i = vec4u(r * p.ld) + min(at, vec4u(p.cols - 1u));
            let x = vec4f(logits[i.x], logits[i.y], logits[i.z], logits[i.w]) - top;
            let e = select(vec4f(), exp(x), at < vec4u(p.cols));
            s += e;
            q += e * e;
        }
        s4 += s;
        q4 += q;
    }
    let sum = reduce_sum((s4.x + s4.y) + (s4.z + s4.w), l);
    let squares = reduce_sum((q4.x + q4.y) + (q4.z + q4.w), l);
    if lane == 0u {
        let log_sum = log(sum);
        lse[p.row0 + r] = top + log_sum;
        for (var e = start[p.row0 + r]; e < start[p.row0 + r + 1u]; e++) {
            // The difference first: top cancels exactly.
            logp[e] = (logits[r * p.ld + target_id[e]] - top) - log_sum;
            square[e] = log(squares) - 2.0 * log_sum;
        }
    }
}

//@ backward cap
// dlogits[v] = sum over the row's targets of coef (1[v = target] - softmax[v]), of capped logits then the gradient by
// what they were capped from; padding becomes zero.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> start: array<u32>;           // [R + 1]
@group(0) @binding(2) var<storage, read> target_id: array<u32>;       // [E]
@group(0) @binding(3) var<storage, read> sequence: array<u32>;        // [E]
@group(0) @binding(4) var<storage, read> coef: array<f32>;            // [sequences]
@group(0) @binding(5) var<storage, read> lse: array<f32>;             // [R]
@group(0) @binding(6) var<storage, read> logp: array<f32>;             // [E]
@group(0) @binding(7) var<storage, read_write> logits: array<vec4f>;  // [C, V]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) l: u32) {
    let r = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if r >= p.rows {
        return;
    }
    let first = start[p.row0 + r];
    let last = start[p.row0 + r + 1u];
    var all = 0.0;
    for (var e = first; e < last; e++) {
        all += coef[sequence[e]];
    }
    let shift = lse[p.row0 + r];
    let from4 = r * (p.ld / 4u);
    for (var v4 = lane; v4 < p.ld / 4u; v4 += LANES) {
        let y = logits[from4 + v4];
        let soft = exp(min(y - shift, vec4f()));
        let at = vec4u(4u * v4) + vec4u(0u, 1u, 2u, 3u);
        logits[from4 + v4] = select(vec4f(), uncapped4(-all * soft, y), at < vec4u(p.cols));
    }
    // Each lane to what it wrote itself.
    for (var e = first; e < last; e++) {
        let t = target_id[e];
        if (t / 4u) % LANES == lane {
            // The target's logit, which its gradient has taken the place of, is its log-prob plus the row's log-sum.
            logits[from4 + t / 4u][t % 4u] += uncapped(coef[sequence[e]], logp[e] + shift);
        }
    }
}
