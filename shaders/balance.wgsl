// The auxiliary loss by which a router spreads rows over its experts: what it adds up of the rows of a block, and its
// gradient. A row counts as often as there are sequences in which it stands.
struct Params {
    rows: u32,      // T
    experts: u32,   // E
    ld: u32,        // row of logits
}
// Row distance of what has CHOSEN columns.
const LDC: u32 = (CHOSEN + 3u) / 4u * 4u;

//@ count
// Of each row the experts' probabilities and, beside them, 1 for those that are chosen, both times how often the row
// counts.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [T, E]
@group(0) @binding(2) var<storage, read> chosen: array<u32>;        // [T, CHOSEN]
@group(0) @binding(3) var<storage, read> often: array<f32>;         // [T]
@group(0) @binding(4) var<storage, read_write> counted: array<f32>; // [T, 2 ld]
@compute @workgroup_size(WG)
fn count(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let t = flat(g, n) * WG + lane;
    if t >= p.rows {
        return;
    }
    let base = t * p.ld;
    // The first one chosen has the largest logit.
    let top = logits[base + chosen[t * LDC]];
    var sum = 0.0;
    for (var e = 0u; e < p.experts; e++) {
        sum += exp(logits[base + e] - top);
    }
    let factor = often[t] / sum;
    for (var e = 0u; e < p.ld; e++) {
        counted[2u * base + e] = select(0.0, factor * exp(logits[base + e] - top), e < p.experts);
        counted[2u * base + p.ld + e] = 0.0;
    }
    for (var j = 0u; j < CHOSEN; j++) {
        counted[2u * base + p.ld + chosen[t * LDC + j]] = often[t];
    }
}

//@ backward
// Adds the gradient by the logits from that by the sums s of the probabilities q: how often the row counts, times
// q_e (ds_e - sum of q ds).
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [T, E]
@group(0) @binding(2) var<storage, read> chosen: array<u32>;        // [T, CHOSEN]
@group(0) @binding(3) var<storage, read> often: array<f32>;         // [T]
@group(0) @binding(4) var<storage, read> slope: array<f32>;         // [E]
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>; // [T, E]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let t = flat(g, n) * WG + lane;
    if t >= p.rows {
        return;
    }
    let base = t * p.ld;
    let top = logits[base + chosen[t * LDC]];
    var sum = 0.0;
    var mean = 0.0;
    for (var e = 0u; e < p.experts; e++) {
        let part = exp(logits[base + e] - top);
        sum += part;
        mean = fma(part, slope[e], mean);
    }
    mean /= sum;
    for (var e = 0u; e < p.experts; e++) {
        let q = often[t] * exp(logits[base + e] - top) / sum;
        dlogits[base + e] = fma(q, slope[e] - mean, dlogits[base + e]);
    }
}
