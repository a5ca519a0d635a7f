// RMSNorm over all heads of q together, and over all of k (OLMo 2), on the fused projection [q heads | k heads |
// v heads]: y = x / sqrt(mean(x^2) + eps) * (OFFSET + gain). Heads are padded to whole vec4 by zeros, which add nothing
// to the sums; v is copied. A workgroup or a lane (lib/reduce) has q or k of a row. forward and backward overwrite,
// backward_gain adds.
struct Params {
    rows: u32,  // T
    q4: u32,    // vec4 of q in a row
    k4: u32,    // vec4 of k, and of v
    q: u32,     // channels of q without padding
    k: u32,     // channels of k without padding
    eps: f32,
}
// q or k of a row.
struct Part {
    first: u32,  // its first vec4
    size: u32,   // how many it has
    gain: u32,   // its first gain
    count: f32,  // its channels without padding
}
fn part_of(item: u32) -> Part {
    let row = item / 2u * (p.q4 + 2u * p.k4);
    if item % 2u == 0u {
        return Part(row, p.q4, 0u, f32(p.q));
    }
    return Part(row + p.q4, p.k4, p.q4, f32(p.k));
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, q | k | v]
@group(0) @binding(2) var<storage, read> gain: array<vec4f>;       // [q | k]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;    // [T, q | k | v]
@group(0) @binding(4) var<storage, read_write> inv: array<f32>;    // [T, 2]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) l: u32) {
    let item = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if item >= 2u * p.rows {
        return;
    }
    let part = part_of(item);
    var sum = 0.0;
    for (var i = lane; i < part.size; i += LANES) {
        let v = x[part.first + i];
        sum += dot(v, v);
    }
    let scale = inverseSqrt(reduce_sum(sum, l) / part.count + p.eps);
    for (var i = lane; i < part.size; i += LANES) {
        y[part.first + i] = x[part.first + i] * scale * (f32(OFFSET) + gain[part.gain + i]);
    }
    if item % 2u == 1u {
        for (var i = lane; i < p.k4; i += LANES) {
            y[part.first + p.k4 + i] = x[part.first + p.k4 + i];
        }
    }
    if lane == 0u {
        inv[item] = scale;
    }
}

//@ backward
// dx = inv g dy - x inv^3 / count * sum(g dy x), g = OFFSET + gain
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, q | k | v]
@group(0) @binding(2) var<storage, read> gain: array<vec4f>;       // [q | k]
@group(0) @binding(3) var<storage, read> inv: array<f32>;          // [T, 2]
@group(0) @binding(4) var<storage, read> dy: array<vec4f>;         // [T, q | k | v]
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;   // [T, q | k | v]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) l: u32) {
    let item = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if item >= 2u * p.rows {
        return;
    }
    let part = part_of(item);
    var sum = 0.0;
    for (var i = lane; i < part.size; i += LANES) {
        sum += dot((f32(OFFSET) + gain[part.gain + i]) * dy[part.first + i], x[part.first + i]);
    }
    let r = inv[item];
    let c = reduce_sum(sum, l) * r * r * r / part.count;
    for (var i = lane; i < part.size; i += LANES) {
        let at = part.first + i;
        dx[at] = r * (f32(OFFSET) + gain[part.gain + i]) * dy[at] - c * x[at];
    }
    if item % 2u == 1u {
        for (var i = lane; i < p.k4; i += LANES) {
            dx[part.first + p.k4 + i] = dy[part.first + p.k4 + i];
        }
    }
}

//@ backward_gain
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, q | k | v]
@group(0) @binding(2) var<storage, read> inv: array<f32>;          // [T, 2]
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;         // [T, q | k | v]
@group(0) @binding(4) var<storage, read_write> dgain: array<vec4f>; // [q | k]
@compute @workgroup_size(WG)
fn backward_gain(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = g.x * WG + l;
    if i >= p.q4 + p.k4 {
        return;
    }
    let part = select(0u, 1u, i >= p.q4);
    var sum = vec4f();
    for (var t = 0u; t < p.rows; t++) {
        let at = t * (p.q4 + 2u * p.k4) + i;
        sum += dy[at] * x[at] * inv[2u * t + part];
    }
    dgain[i] += sum;
}
