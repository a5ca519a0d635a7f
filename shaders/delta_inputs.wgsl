// What stands before the rule of a gated delta net (Gated DeltaNet, arXiv 2412.06464): a convolution of TAPS positions
// with SiLU over q, k and v, both q and k of length 1 (q divided by sqrt(channels) too), the decay
// g = -exp(A) softplus(a + dt) and the strength sigmoid(b). q | k | v | z | b | a stand side by side in one row.
struct Params {
    rows: u32,   // T, or entries, or rows of a step, or chunks
    width4: u32, // a projected row in vec4
    d4: u32,     // channels of the convolution in vec4
    hk: u32,     // heads of keys
    hv: u32,     // heads of values
    k4: u32,     // a head of keys in vec4
    v4: u32,     // a head of values in vec4
    scale: f32,  // the factor on q
}
fn silu(x: vec4f) -> vec4f {
    return x / (1.0 + exp(-x));
}
// Heads of q, of k and of v.
fn parts() -> u32 {
    return 2u * p.hk + p.hv;
}
// The first channel of a head, and how many it has, in vec4.
fn channels(part: u32) -> vec2u {
    let of_values = max(part, 2u * p.hk) - 2u * p.hk;
    return select(vec2u(2u * p.hk * p.k4 + of_values * p.v4, p.v4), vec2u(part * p.k4, p.k4), part < 2u * p.hk);
}
fn factor(part: u32) -> f32 {
    return select(1.0, p.scale, part < p.hk);
}

//@ forward path raw
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<vec4f>;        // [T, q | k | v | z | b | a]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> taps: array<vec4f>;       // [TAPS, q | k | v]
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [q | k | v] where BIAS
@group(0) @binding(5) var<storage, read_write> mixed: array<vec4f>; // [T, q | k | v]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / parts();
    if t >= p.rows {
        return;
    }
    let part = i - t * parts();
    let own = channels(part);
    var sum = 0.0;
    for (var c = own.x; c < own.x + own.y; c++) {
        let x = silu(path_sum(t, c));
        sum += dot(x, x);
        mixed[t * p.d4 + c] = x;
    }
    if part < 2u * p.hk {
        let scale = factor(part) * inverseSqrt(sum + 1e-6);
        for (var c = own.x; c < own.x + own.y; c++) {
            mixed[t * p.d4 + c] *= scale;
        }
    }
}

//@ backward path raw
// The gradient by the sums of the convolution.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<vec4f>;        // [T, q | k | v | z | b | a]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> taps: array<vec4f>;       // [TAPS, q | k | v]
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;       // [q | k | v] where BIAS
@group(0) @binding(5) var<storage, read> gates: array<f32>;        // [T, g | beta | sums of g, HV each]
@group(0) @binding(6) var<storage, read> dqk: array<vec4f>;        // [T, HV, dq | dk read | dk written]
@group(0) @binding(7) var<storage, read> dr: array<vec4f>;         // [T, HV, V4]
@group(0) @binding(8) var<storage, read_write> dsums: array<vec4f>; // [T, q | k | v]
// The gradient by what the rule reads: of a head of keys that by all heads of values that share it.
fn by_rule(t: u32, part: u32, c: u32) -> vec4f {
    if part >= 2u * p.hk {
        let h = part - 2u * p.hk;
        return gates[gate_of(t, h, 1u)] * dr[cell_of(t, h, c)];
    }
    let share = p.hv / p.hk;
    let first = part % p.hk * share;
    var sum = vec4f();
    for (var h = first; h < first + share; h++) {
        let at = (t * p.hv + h) * 3u * p.k4 + c;
        if part < p.hk {
            sum += dqk[at];
        } else {
            sum += dqk[at + p.k4] + dqk[at + 2u * p.k4];
        }
    }
    return sum;
}
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / parts();
    if t >= p.rows {
        return;
    }
    let part = i - t * parts();
    let own = channels(part);
    var square = 0.0;
    var along = 0.0;
    if part < 2u * p.hk {
        for (var c = 0u; c < own.y; c++) {
            let x = silu(path_sum(t, own.x + c));
            square += dot(x, x);
            along += dot(x, by_rule(t, part, c));
        }
    }
    let inv = inverseSqrt(square + 1e-6);
    for (var c = 0u; c < own.y; c++) {
        let m = path_sum(t, own.x + c);
        let s = 1.0 / (1.0 + exp(-m));
        var d = by_rule(t, part, c);
        if part < 2u * p.hk {
            d = factor(part) * inv * (d - m * s * (inv * inv * along));
        }
        dsums[t * p.d4 + own.x + c] = d * s * (1.0 + m * (1.0 - s));
    }
}

//@ backward_sums below
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(2) var<storage, read> taps: array<vec4f>;       // [TAPS, q | k | v]
@group(0) @binding(3) var<storage, read> dsums: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(4) var<storage, read_write> draw: array<vec4f>; // [T, q | k | v | z | b | a]
fn dsum(r: u32, c: u32) -> vec4f {
    return dsums[r * p.d4 + c];
}
@compute @workgroup_size(WG)
fn backward_sums(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
                 @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let c = i - t * p.d4;
        draw[t * p.width4 + c] = path_back(t, c);
        break; //*ONCE
    }
}

//@ backward_taps raw
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<vec4f>;        // [T, q | k | v | z | b | a]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> dsums: array<vec4f>;      // [T, q | k | v]
@group(0) @binding(4) var<storage, read_write> dtaps: array<vec4f>; // [TAPS, q | k | v]
@compute @workgroup_size(WG)
fn backward_taps(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let c = g.x * WG + lane;
    if c >= p.d4 {
        return;
    }
    var s$ = vec4f(); //*TAPS
    for (var t = 0u; t < p.rows; t++) {
        let d = dsums[t * p.d4 + c];
        var row = t;
        if row != NONE { \
            s$ = fma(d, u_of(row, c), s$); \
            row = links[row].x; \
        } //*TAPS
    }
    dtaps[(TAPS - 1u - $u) * p.d4 + c] += s$; //*TAPS
}

//@ keep raw path_keep
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<vec4f>;        // [T, q | k | v | z | b | a]
@group(0) @binding(2) var<storage, read> links: array<vec4u>;      // [T, parent | first child | sibling | 0]
@group(0) @binding(3) var<storage, read> row: array<u32>;          // [E]
@group(0) @binding(4) var<storage, read> slot: array<u32>;         // [E]
@group(0) @binding(5) var<storage, read_write> past: array<vec4f>; // [slots, TAPS - 1, q | k | v]
@compute @workgroup_size(WG)
fn keep(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let e = i / p.d4;
        let c = i - e * p.d4;
        keep_path(e, c);
        break; //*ONCE
    }
}

//@ step raw path_step
// One more row of each sequence.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<vec4f>;        // [N, q | k | v | z | b | a]
@group(0) @binding(2) var<storage, read> slot: array<u32>;         // [N]
@group(0) @binding(3) var<storage, read> taps: array<vec4f>;       // [TAPS, q | k | v]
@group(0) @binding(4) var<storage, read_write> past: array<vec4f>; // [slots, TAPS - 1, q | k | v]
@group(0) @binding(5) var<storage, read_write> mixed: array<vec4f>; // [N, q | k | v]
@compute @workgroup_size(WG)
fn step(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / parts();
    if t >= p.rows {
        return;
    }
    let part = i - t * parts();
    let own = channels(part);
    var square = 0.0;
    for (var c = own.x; c < own.x + own.y; c++) {
        let x = silu(path_step(t, c, vec4f()));
        square += dot(x, x);
        mixed[t * p.d4 + c] = x;
    }
    if part < 2u * p.hk {
        let scale = factor(part) * inverseSqrt(square + 1e-6);
        for (var c = own.x; c < own.x + own.y; c++) {
            mixed[t * p.d4 + c] *= scale;
        }
    }
}
