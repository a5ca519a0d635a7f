// Global gradient norm, clipping, AdamW (arXiv 1711.05101) as torch computes it.

//@ square_sum
// part[slot + group] = sum of squares of a slice of one gradient.
struct Params {
    n4: u32,
    slice4: u32,  // vec4 a group
    slot: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // [n]
@group(0) @binding(2) var<storage, read_write> part: array<f32>;    // [slots]
@compute @workgroup_size(WG)
fn square_sum(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) l: u32) {
    let r = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if r * p.slice4 >= p.n4 {
        return;
    }
    let stop = min((r + 1u) * p.slice4, p.n4);
    var sum = vec4f();
    for (var i = r * p.slice4 + lane; i < stop; i += LANES) {
        sum = fma(x[i], x[i], sum);
    }
    let all = reduce_sum((sum.x + sum.y) + (sum.z + sum.w), l);
    if lane == 0u {
        part[p.slot + r] = all;
    }
}

//@ clip
// norm = (global norm, factor). The factor is torch's: max / (norm + 1e-6), at most 1; 1 where max is 0.
struct Params {
    parts: u32,
    max_norm: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part: array<f32>;          // [parts]
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;    // [2]
@compute @workgroup_size(WG)
fn clip(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let lane = lane_of(l);
    if row_of(g.x, l) > 0u {
        return;
    }
    // Two levels, so that tens of thousands of parts do not pile up in one float.
    var sum = 0.0;
    var inner = 0.0;
    var count = 0u;
    for (var i = lane; i < p.parts; i += LANES) {
        inner += part[i];
        count++;
        if count % 64u == 0u {
            sum += inner;
            inner = 0.0;
        }
    }
    let all = sqrt(reduce_sum(sum + inner, l));
    if lane == 0u {
        norm[0] = all;
        norm[1] = select(min(1.0, p.max_norm / (all + 1e-6)), 1.0, p.max_norm == 0.0);
    }
}

//@ step
// Nothing moves where the norm is not finite: the last good weights stay.
struct Params {
    n4: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,       // 1 - lr * weight_decay
    correction1: f32, // 1 - beta1^t
    correction2: f32, // sqrt(1 - beta2^t)
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grad: array<vec4f>;        // [n]
@group(0) @binding(2) var<storage, read> norm: array<f32>;          // [2]
@group(0) @binding(3) var<storage, read_write> w: array<vec4f>;     // [n]
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;     // [n]
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;     // [n]
@compute @workgroup_size(WG)
fn step(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    // A NaN fails every comparison.
    if i >= p.n4 || !(norm[0] <= 3.0e38) {
        return;
    }
    let x = grad[i] * norm[1];
    let m1 = p.beta1 * m[i] + (1.0 - p.beta1) * x;
    let v1 = p.beta2 * v[i] + (1.0 - p.beta2) * x * x;
    m[i] = m1;
    v[i] = v1;
    let bottom = sqrt(v1) / p.correction2 + p.eps;
    w[i] = w[i] * p.decay - (p.lr / p.correction1) * m1 / bottom;
}
