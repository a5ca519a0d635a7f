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
fn square_sum(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
              @builtin(local_invocation_index) l: u32) {
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
// Nothing moves where the norm is not finite: the last good weights stay. Weights in bf16 (HALF 1) are rounded
// stochastically: steps are mostly smaller than half their unit, 2^-8 of them, and rounding to the nearest would lose
// every one. The noise is a function of (seed, step, parameter, place), so a resume draws the same.
struct Params {
    n4: u32,
    ld4: u32,       // of grad
    ldw4: u32,      // of w
    first4: u32,    // where the block lies in rows of whole4
    whole4: u32,
    parameter: u32,
    step: u32,
    seed_low: u32,
    seed_high: u32,
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
@group(0) @binding(3) var<storage, read_write> w: array<Operand>;   // [n]
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;     // [n]
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;     // [n]
@compute @workgroup_size(WG)
fn step(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    // A NaN fails every comparison.
    if !(norm[0] <= 3.0e38) {
        return;
    }
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.n4); i += WG) {
        let x = grad[i] * norm[1];
        let m1 = p.beta1 * m[i] + (1.0 - p.beta1) * x;
        let v1 = p.beta2 * v[i] + (1.0 - p.beta2) * x * x;
        m[i] = m1;
        v[i] = v1;
        let bottom = sqrt(v1) / p.correction2 + p.eps;
        var at = i;
        var noise = vec4u();
        if HALF == 1u {
            let r = i / p.ld4;
            let c = i - r * p.ld4;
            at = r * p.ldw4 + c;
            noise = philox(vec4u(r * p.whole4 + p.first4 + c, 3u, p.parameter, p.step), vec2u(p.seed_low, p.seed_high));
        }
        w[at] = stored(wide(w[at]) * p.decay - (p.lr / p.correction1) * m1 / bottom, noise);
        break; //*ONCE
    }
}

//@ step8
// The update of `step` with both moments in 8 bits (arXiv 2110.02861): value = map[code] * scale, scale the largest
// |value| of a block. A block is BLOCK rows of one column, so an embedding's tokens, which are columns, never share a
// scale; and one lane owns four of them.
const BLOCK: u32 = 64u;
struct Params {
    rows: u32,
    cols4: u32,
    ldm: u32,       // words of a row of the moments
    ld4: u32,       // of grad
    ldw4: u32,      // of w
    first4: u32,    // where the block lies in rows of whole4
    whole4: u32,
    parameter: u32,
    step: u32,
    seed_low: u32,
    seed_high: u32,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    correction1: f32,
    correction2: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grad: array<vec4f>;        // [rows, cols4]
@group(0) @binding(2) var<storage, read> norm: array<f32>;          // [2]
@group(0) @binding(3) var<storage, read> map: array<f32>;           // [2, 2, 256] signed, unsigned; values, borders
@group(0) @binding(4) var<storage, read_write> w: array<Operand>;   // [rows, cols4]
@group(0) @binding(5) var<storage, read_write> m: array<u32>;       // [rows + 4 blocks, cols4] codes, then scales
@group(0) @binding(6) var<storage, read_write> v: array<u32>;       // [rows + 4 blocks, cols4]
const SIGNED: u32 = 0u;
const UNSIGNED: u32 = 512u;
fn looked_up(at: vec4u) -> vec4f {
    return vec4f(map[at.x], map[at.y], map[at.z], map[at.w]);
}
fn values(word: u32, table: u32, scale: vec4f) -> vec4f {
    return looked_up(table + ((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u))) * scale;
}
// The last codes whose lower border is not above x; borders are multiplied, since a division may round as it likes.
// Decade and place in it say between which two borders x lies, and one of them is too far away to be on the wrong side
// of it: the other one is read, where a search would read eight.
fn nearest(x: vec4f, table: u32, scale: vec4f) -> vec4u {
    let size = abs(x) / scale;
    var up = vec4f(1.0); // what lifts it into the highest decade
    var values = vec4f(select(64.0, 128.0, table == UNSIGNED)); // of the decade
    for (var decade = 0u; decade < 6u; decade++) {
        let below = size * up <= vec4f(0.1);
        up = select(up, 10.0 * up, below);
        values = select(values, 0.5 * values, below);
    }
    let place = (size * up - 0.1) / 0.9 * values;
    let whole = clamp(floor(place), vec4f(), values - 1.0);
    let behind_zero = vec4u(values + whole);
    let negative = x < vec4f();
    let signed_code = select(127u + behind_zero, 127u - behind_zero, negative);
    let code = select(signed_code, behind_zero - 1u, table == UNSIGNED);
    let upper = (place - whole >= vec4f(0.5)) != negative;
    let border = select(code + vec4u(upper), vec4u(255u), scale == vec4f());
    return border - vec4u(x < looked_up(table + 256u + border) * scale);
}
fn packed(q: vec4u) -> u32 {
    return q.x | (q.y << 8u) | (q.z << 16u) | (q.w << 24u);
}
struct Moved {
    m: vec4f,
    v: vec4f,
}
fn moved(x: vec4f, m0: vec4f, v0: vec4f) -> Moved {
    return Moved(p.beta1 * m0 + (1.0 - p.beta1) * x, p.beta2 * v0 + (1.0 - p.beta2) * x * x);
}
@compute @workgroup_size(WG)
fn step8(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let c = i % p.cols4;
    let first = i / p.cols4 * BLOCK;
    if first >= p.rows || !(norm[0] <= 3.0e38) {
        return;
    }
    let stop = min(first + BLOCK, p.rows);
    let at = (p.rows + 4u * (i / p.cols4)) * p.ldm + c;
    let places = at + vec4u(0u, 1u, 2u, 3u) * p.ldm;
    let scale_m = bitcast<vec4f>(vec4u(m[places.x], m[places.y], m[places.z], m[places.w]));
    let scale_v = bitcast<vec4f>(vec4u(v[places.x], v[places.y], v[places.z], v[places.w]));
    var most_m = vec4f();
    var most_v = vec4f();
    for (var r = first; r < stop; r++) {
        let word = r * p.ldm + c;
        let x = grad[r * p.ld4 + c] * norm[1];
        let next = moved(x, values(m[word], SIGNED, scale_m), values(v[word], UNSIGNED, scale_v));
        most_m = max(most_m, abs(next.m));
        most_v = max(most_v, next.v);
    }
    for (var r = first; r < stop; r++) {
        let word = r * p.ldm + c;
        let e = r * p.ld4 + c;
        let next = moved(grad[e] * norm[1], values(m[word], SIGNED, scale_m), values(v[word], UNSIGNED, scale_v));
        m[word] = packed(nearest(next.m, SIGNED, most_m));
        // A second moment that became 0 would let the first one be divided by eps.
        v[word] = packed(max(nearest(next.v, UNSIGNED, most_v), vec4u(next.v > vec4f())));
        let place = r * p.ldw4 + c;
        var noise = vec4u();
        if HALF == 1u {
            noise = philox(vec4u(r * p.whole4 + p.first4 + c, 3u, p.parameter, p.step), vec2u(p.seed_low, p.seed_high));
        }
        let bottom = sqrt(next.v) / p.correction2 + p.eps;
        w[place] = stored(wide(w[place]) * p.decay - (p.lr / p.correction1) * next.m / bottom, noise);
    }
    m[places.x] = bitcast<u32>(most_m.x);
    m[places.y] = bitcast<u32>(most_m.y);
    m[places.z] = bitcast<u32>(most_m.z);
    m[places.w] = bitcast<u32>(most_m.w);
    v[places.x] = bitcast<u32>(most_v.x);
    v[places.y] = bitcast<u32>(most_v.y);
    v[places.z] = bitcast<u32>(most_v.z);
    v[places.w] = bitcast<u32>(most_v.w);
}
