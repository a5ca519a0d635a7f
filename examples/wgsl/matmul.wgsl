// A user's product C [M, N] = A [M, K] B [K, N] in tiles of 8 x 8, to be measured beside this crate's own:
// selfreward bench --wgsl examples/wgsl/matmul.wgsl
struct Sizes {
    m: u32,
    k: u32,
    n: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<storage, read> sizes: Sizes;

@compute @workgroup_size(8, 8)
fn product(@builtin(global_invocation_id) id: vec3u) {
    let row = id.y;
    let col = id.x;
    if row >= sizes.m || col >= sizes.n {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < sizes.k; i++) {
        sum += a[row * sizes.k + i] * b[i * sizes.n + col];
    }
    c[row * sizes.n + col] = sum;
}
