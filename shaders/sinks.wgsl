// Sinks: one logit a head, which is learned, joins the sum of the softmax and reads nothing (StreamingLLM, arXiv
// 2309.17453, section 3.3). Attention is computed without it; then its output shrinks to what the sink leaves, and the
// log-sum grows, so that attention's gradients hold with both as they then are. A lane for each head of a row.
struct Params {
    rows: u32,   // T
    heads: u32,  // H
    d4: u32,     // a head of the output in vec4
}

//@ forward sink
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sinks: array<f32>;        // [H]
@group(0) @binding(2) var<storage, read_write> o: array<vec4f>;    // [T, H, D4]
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;    // [T, H]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= p.rows * p.heads {
        return;
    }
    let above = sinks[i % p.heads] - lse[i];
    let left = left_by(above);
    for (var d = 0u; d < p.d4; d++) {
        o[i * p.d4 + d] *= left;
    }
    // log(1 + exp(above)); the larger one of both comes first.
    lse[i] += max(above, 0.0) + log(1.0 + exp(-abs(above)));
}

//@ backward
// What is added to the gradient by the sinks: of each the sum over rows of -P delta, P = exp(sink - lse) being what it
// takes of the softmax and delta = rowsum(dO * O). A lane for each head.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sinks: array<f32>;        // [H]
@group(0) @binding(2) var<storage, read> lse: array<f32>;          // [T, H]
@group(0) @binding(3) var<storage, read> delta: array<f32>;        // [T, H]
@group(0) @binding(4) var<storage, read_write> dsinks: array<f32>; // [H]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let h = g.x * WG + lane;
    if h >= p.heads {
        return;
    }
    var sum = 0.0;
    for (var t = 0u; t < p.rows; t++) {
        let i = t * p.heads + h;
        sum = fma(exp(min(sinks[h] - lse[i], 0.0)), delta[i], sum);
    }
    dsinks[h] -= sum;
}
