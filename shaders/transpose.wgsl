// y[c, r] = x[r, first + c] over the padded matrix, so that zeros between rows stay zeros.
struct Params {
    rows: u32,    // of x, a multiple of 4
    cols: u32,    // of y, rounded up to a multiple of 4
    ldb4: u32,    // row distance of x in four elements
    first4: u32,  // the first column of x in four elements
}
fn store(c: u32, r: u32, x0: vec4f, x1: vec4f, x2: vec4f, x3: vec4f) {
    let r4 = p.rows / 4u;
    let to = c * 4u * r4 + r;
    y[to] = vec4f(x0.x, x1.x, x2.x, x3.x);
    y[to + r4] = vec4f(x0.y, x1.y, x2.y, x3.y);
    y[to + 2u * r4] = vec4f(x0.z, x1.z, x2.z, x3.z);
    y[to + 3u * r4] = vec4f(x0.w, x1.w, x2.w, x3.w);
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Operand>;        // [R, C]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [n, R]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows / 4u * (p.cols / 4u)); i += WG) {
        let r = i / (p.cols / 4u);
        let c = i - r * (p.cols / 4u);
        let at = r * 4u * p.ldb4 + p.first4 + c;
        store(c, r, wide(x[at]), wide(x[at + p.ldb4]), wide(x[at + 2u * p.ldb4]), wide(x[at + 3u * p.ldb4]));
        break; //*ONCE
    }
}

//@ forward_q scales bits fetch_q
// x in groups of GROUP along R: words as `bits` has them, a scale and a minimum per group.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> words: array<vec4u>;      // [R * BITS / 32, C]
@group(0) @binding(2) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;    // [n, R]
@compute @workgroup_size(WG)
fn forward_q(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows / 4u * (p.cols / 4u)); i += WG) {
        let r = i / (p.cols / 4u);
        let c = i - r * (p.cols / 4u);
        let x = fetch_four(r, p.first4 + c);
        store(c, r, x[0], x[1], x[2], x[3]);
        break; //*ONCE
    }
}
