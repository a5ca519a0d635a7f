// The preference losses of train/losses.rs (the arms are put in from that list) and what they pass back.

//@ sequence_sum
// logp[s] = sum of the log-probs of sequence s; its entries are listed.
struct Params {
    sequences: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> token_logp: array<f32>;   // [E]
@group(0) @binding(2) var<storage, read> start: array<u32>;        // [sequences + 1]
@group(0) @binding(3) var<storage, read> entry: array<u32>;        // [E]
@group(0) @binding(4) var<storage, read_write> logp: array<f32>;   // [sequences]
@compute @workgroup_size(WG)
fn sequence_sum(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let s = g.x * WG + lane;
    if s >= p.sequences {
        return;
    }
    var sum = 0.0;
    for (var e = start[s]; e < start[s + 1u]; e++) {
        sum += token_logp[entry[e]];
    }
    logp[s] = sum;
}

//@ forward
// Per pair: the loss and its derivatives by the two summed log-probs. loss and the derivatives overwrite.
struct Params {
    pairs: u32,
    loss: u32,       // row of LOSSES
    beta: f32,
    smoothing: f32,
    weight: f32,     // of this loss among several
    nll: f32,        // weight of the chosen answer's mean negative log-likelihood
    add: u32,        // 1: add to what an earlier loss left
}
fn log_sigmoid(x: f32) -> f32 {
    return min(x, 0.0) - log(1.0 + exp(-abs(x)));
}
fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logp: array<f32>;         // [sequences]
@group(0) @binding(2) var<storage, read> reference: array<vec2f>;  // [pairs] (chosen, rejected)
@group(0) @binding(3) var<storage, read> side: array<vec2u>;       // [pairs] sequence of (chosen, rejected)
@group(0) @binding(4) var<storage, read> tokens: array<vec2f>;     // [pairs] lengths of (chosen, rejected)
@group(0) @binding(5) var<storage, read_write> result: array<vec4f>; // [pairs] (loss, dchosen, drejected, 0)
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = g.x * WG + lane;
    if i >= p.pairs {
        return;
    }
    let policy = vec2f(logp[side[i].x], logp[side[i].y]);
    let c = policy.x - reference[i].x;
    let r = policy.y - reference[i].y;
    let nc = tokens[i].x;
    let nr = tokens[i].y;
    let beta = p.beta;
    let eps = p.smoothing;
    var loss = 0.0;
    var dc = 0.0;
    var dr = 0.0;
    switch p.loss {
//# arms
        default: {}
    }
    var out = vec4f(loss, dc, dr, 0.0) * p.weight;
    if p.nll != 0.0 {
        out += vec4f(-policy.x, -1.0, 0.0, 0.0) * (p.nll / nc);
    }
    if p.add == 1u {
        out += result[i];
    }
    result[i] = out;
}

//@ coefficients
// coef[s] = sum over the pairs in which sequence s stands of its derivative, times `scale` (1 / pairs of the batch).
struct Params {
    sequences: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> result: array<vec4f>;     // [pairs]
@group(0) @binding(2) var<storage, read> start: array<u32>;        // [sequences + 1]
@group(0) @binding(3) var<storage, read> use_of: array<u32>;       // [uses] 2 pair + (1 where rejected)
@group(0) @binding(4) var<storage, read_write> coef: array<f32>;   // [sequences]
@compute @workgroup_size(WG)
fn coefficients(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let s = g.x * WG + lane;
    if s >= p.sequences {
        return;
    }
    var sum = 0.0;
    for (var e = start[s]; e < start[s + 1u]; e++) {
        let d = result[use_of[e] / 2u];
        sum += select(d.y, d.z, use_of[e] % 2u == 1u);
    }
    coef[s] = sum * p.scale;
}
