// h = x + delta (where ADD is 1), y = h / sqrt(mean(h^2) + eps) * (OFFSET + gain), + delta where ADD is 2. RMSNorm:
// arXiv 1910.07467, eq. 4; OFFSET is 1 for Gemma, which stores the gain's distance from 1. forward overwrites; backward
// adds to dh where ADD and overwrites it elsewhere, backward_gain adds to dgain.
struct Params {
    rows: u32,  // T
    cols: u32,  // D
    ld4: u32,   // row distance in vec4
    eps: f32,
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, D]
@group(0) @binding(2) var<storage, read> delta: array<vec4f>;      // [T, D]
@group(0) @binding(3) var<storage, read> gain: array<vec4f>;       // [D]
@group(0) @binding(4) var<storage, read_write> h: array<vec4f>;    // [T, D]
@group(0) @binding(5) var<storage, read_write> y: array<vec4f>;    // [T, D]
@group(0) @binding(6) var<storage, read_write> inv: array<f32>;    // [T]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) l: u32) {
    let t = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if t >= p.rows {
        return;
    }
    var sum = 0.0;
    for (var i = lane; i < p.ld4; i += LANES) {
        var v = x[t * p.ld4 + i];
        if ADD == 1u {
            v += delta[t * p.ld4 + i];
            h[t * p.ld4 + i] = v;
        }
        sum += dot(v, v);
    }
    let scale = inverseSqrt(reduce_sum(sum, l) / f32(p.cols) + p.eps);
    for (var i = lane; i < p.ld4; i += LANES) {
        var v = x[t * p.ld4 + i];
        if ADD == 1u {
            v += delta[t * p.ld4 + i];
        }
        v = v * scale * (f32(OFFSET) + gain[i]);
        if ADD == 2u {
            v += delta[t * p.ld4 + i];
        }
        y[t * p.ld4 + i] = v;
    }
    if lane == 0u {
        inv[t] = scale;
    }
}

//@ backward
// dh += inv g dy - h inv^3 / D * sum(g dy h), g = OFFSET + gain
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> h: array<vec4f>;          // [T, D]
@group(0) @binding(2) var<storage, read> gain: array<vec4f>;       // [D]
@group(0) @binding(3) var<storage, read> inv: array<f32>;          // [T]
@group(0) @binding(4) var<storage, read> dy: array<vec4f>;         // [T, D]
@group(0) @binding(5) var<storage, read_write> dh: array<vec4f>;   // [T, D]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) l: u32) {
    let t = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if t >= p.rows {
        return;
    }
    var sum = 0.0;
    for (var i = lane; i < p.ld4; i += LANES) {
        let at = t * p.ld4 + i;
        sum += dot((f32(OFFSET) + gain[i]) * dy[at], h[at]);
    }
    let r = inv[t];
    let c = reduce_sum(sum, l) * r * r * r / f32(p.cols);
    for (var i = lane; i < p.ld4; i += LANES) {
        let at = t * p.ld4 + i;
        let d = r * (f32(OFFSET) + gain[i]) * dy[at] - c * h[at];
        if ADD == 1u {
            dh[at] += d;
        } else {
            dh[at] = d;
        }
    }
}

//@ backward_gain
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> h: array<vec4f>;          // [T, D]
@group(0) @binding(2) var<storage, read> inv: array<f32>;          // [T]
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;         // [T, D]
@group(0) @binding(4) var<storage, read_write> dgain: array<vec4f>; // [D]
@compute @workgroup_size(WG)
fn backward_gain(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) l: u32) {
    let i = g.x * WG + l;
    if i >= p.ld4 {
        return;
    }
    var sum = vec4f();
    for (var t = 0u; t < p.rows; t++) {
        sum += dy[t * p.ld4 + i] * h[t * p.ld4 + i] * inv[t];
    }
    dgain[i] += sum;
}
