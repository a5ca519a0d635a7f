// y = x / sqrt(mean(x^2) + eps) * gain * silu(z) of each head (Gated DeltaNet, arXiv 2412.06464); z is a part of wider
// rows, and its gradient goes to that part. All overwrite.
struct Params {
    rows: u32,   // T
    heads: u32,  // H
    d4: u32,     // a head in vec4
    cols: u32,   // channels of a head, without padding
    width4: u32, // a row that holds z, in vec4
    first4: u32, // where z begins in it
    eps: f32,
}
fn silu(x: vec4f) -> vec4f {
    return x / (1.0 + exp(-x));
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, H, D4]
@group(0) @binding(2) var<storage, read> wide: array<vec4f>;       // [T, W4]
@group(0) @binding(3) var<storage, read> gain: array<vec4f>;       // [D4]
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;    // [T, H, D4]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / p.heads;
    if t >= p.rows {
        return;
    }
    let z = t * p.width4 + p.first4 + (i - t * p.heads) * p.d4;
    var sum = 0.0;
    for (var c = 0u; c < p.d4; c++) {
        let v = x[i * p.d4 + c];
        sum += dot(v, v);
    }
    let inv = inverseSqrt(sum / f32(p.cols) + p.eps);
    for (var c = 0u; c < p.d4; c++) {
        y[i * p.d4 + c] = x[i * p.d4 + c] * inv * gain[c] * silu(wide[z + c]);
    }
}

//@ backward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, H, D4]
@group(0) @binding(2) var<storage, read> wide: array<vec4f>;       // [T, W4]
@group(0) @binding(3) var<storage, read> gain: array<vec4f>;       // [D4]
@group(0) @binding(4) var<storage, read> dy: array<vec4f>;         // [T, H, D4]
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;   // [T, H, D4]
@group(0) @binding(6) var<storage, read_write> dwide: array<vec4f>; // [T, W4]
@group(0) @binding(7) var<storage, read_write> invs: array<f32>;   // [T H]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / p.heads;
    if t >= p.rows {
        return;
    }
    let z = t * p.width4 + p.first4 + (i - t * p.heads) * p.d4;
    var sum = 0.0;
    var along = 0.0;
    for (var c = 0u; c < p.d4; c++) {
        let v = x[i * p.d4 + c];
        sum += dot(v, v);
        along += dot(v, dy[i * p.d4 + c] * gain[c] * silu(wide[z + c]));
    }
    let inv = inverseSqrt(sum / f32(p.cols) + p.eps);
    let back = along * inv * inv * inv / f32(p.cols);
    for (var c = 0u; c < p.d4; c++) {
        let v = x[i * p.d4 + c];
        let d = dy[i * p.d4 + c] * gain[c];
        let gate = wide[z + c];
        let s = 1.0 / (1.0 + exp(-gate));
        dx[i * p.d4 + c] = inv * d * (gate * s) - back * v;
        dwide[z + c] = d * v * inv * s * (1.0 + gate * (1.0 - s));
    }
    invs[i] = inv;
}

//@ backward_gain
// What each row gives to the gradient by the gain.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;          // [T, H, D4]
@group(0) @binding(2) var<storage, read> wide: array<vec4f>;       // [T, W4]
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;         // [T, H, D4]
@group(0) @binding(4) var<storage, read> invs: array<f32>;         // [T H]
@group(0) @binding(5) var<storage, read_write> part: array<vec4f>; // [T, D4]
@compute @workgroup_size(WG)
fn backward_gain(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let c = i - t * p.d4;
        var sum = vec4f();
        for (var h = 0u; h < p.heads; h++) {
            let at = (t * p.heads + h) * p.d4 + c;
            sum += dy[at] * x[at] * invs[t * p.heads + h] * silu(wide[t * p.width4 + p.first4 + h * p.d4 + c]);
        }
        part[i] = sum;
        break; //*ONCE
    }
}
