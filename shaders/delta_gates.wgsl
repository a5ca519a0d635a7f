// The gates of a gated delta net (Gated DeltaNet, arXiv 2412.06464): the logarithm of a row's decay
// g = -exp(A) softplus(a + dt), the strength of its update sigmoid(b), and the sums of g within each chunk. A lane has
// four heads.
struct Params {
    rows: u32,   // T, or chunks
    width4: u32, // a projected row in vec4
    b4: u32,     // where b begins in it; a follows
    hk: u32,     // heads of keys
    hv: u32,     // heads of values
    k4: u32,     // a head of keys in vec4
    v4: u32,     // a head of values in vec4
}
// log(1 + exp(x)), by its series where 1 + exp(x) would lose what exp(x) says.
fn softplus(x: vec4f) -> vec4f {
    let e = exp(min(x, vec4f(20.0)));
    let small = e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - e * (0.25 - 0.2 * e))));
    return select(select(log(1.0 + e), small, e < vec4f(0.03)), x, x > vec4f(20.0));
}
fn sigmoid(x: vec4f) -> vec4f {
    return 1.0 / (1.0 + exp(-x));
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<vec4f>;        // [T, q | k | v | z | b | a]
@group(0) @binding(2) var<storage, read> decays: array<vec4f>;     // [A | dt, HV each]
@group(0) @binding(3) var<storage, read_write> gates: array<vec4f>; // [T, g | beta | sums of g, HV each]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let t = i / heads4();
    if t >= p.rows {
        return;
    }
    let h = i - t * heads4();
    let at = t * p.width4 + p.b4 + h;
    gates[gate_of(t, 0u, 0u) / 4u + h] = -exp(decays[h]) * softplus(raw[at + heads4()] + decays[heads4() + h]);
    gates[gate_of(t, 0u, 1u) / 4u + h] = sigmoid(raw[at]);
}

//@ sums
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read_write> gates: array<vec4f>; // [T, g | beta | sums of g, HV each]
@compute @workgroup_size(WG)
fn sums(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let c = i / heads4();
    if c >= p.rows {
        return;
    }
    let h = i - c * heads4();
    let own = chunks[2u * c];
    var sum = vec4f();
    for (var t = own.x; t < own.x + own.y; t++) {
        sum += gates[gate_of(t, 0u, 0u) / 4u + h];
        gates[gate_of(t, 0u, 2u) / 4u + h] = sum;
    }
}

//@ backward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunks: array<vec4u>;     // [chunks, 2]
@group(0) @binding(2) var<storage, read> raw: array<vec4f>;        // [T, q | k | v | z | b | a]
@group(0) @binding(3) var<storage, read> decays: array<vec4f>;     // [A | dt, HV each]
@group(0) @binding(4) var<storage, read> gates: array<vec4f>;      // [T, g | beta | sums of g, HV each]
@group(0) @binding(5) var<storage, read> dgates: array<vec4f>;     // [T, by the sums | by b, HV each]
@group(0) @binding(6) var<storage, read> ends: array<vec4f>;       // [chunks, 4 K4, HV]
@group(0) @binding(7) var<storage, read_write> draw: array<vec4f>; // [T, q | k | v | z | b | a]
@group(0) @binding(8) var<storage, read_write> ddecays: array<vec4f>; // [T, A | dt, HV each]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let c = i / heads4();
    if c >= p.rows {
        return;
    }
    let h = i - c * heads4();
    let own = chunks[2u * c];
    // What the state behind the chunk gives to its last sum.
    var dg = vec4f();
    for (var kk = 0u; kk < 4u * p.k4; kk++) {
        dg += ends[(c * 4u * p.k4 + kk) * heads4() + h];
    }
    let rate = exp(decays[h]);
    for (var t = own.x + own.y; t > own.x; t--) {
        let row = t - 1u;
        dg += dgates[row * 2u * heads4() + h];
        let at = row * p.width4 + p.b4 + h;
        let da = -dg * rate * sigmoid(raw[at + heads4()] + decays[heads4() + h]);
        draw[at] = dgates[(row * 2u + 1u) * heads4() + h];
        draw[at + heads4()] = da;
        ddecays[row * 2u * heads4() + h] = dg * gates[gate_of(row, 0u, 0u) / 4u + h];
        ddecays[(row * 2u + 1u) * heads4() + h] = da;
    }
}
