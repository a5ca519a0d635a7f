// Philox 4x32-10 (Salmon et al., SC 2011): random numbers by counter, no state.
fn mul_wide(a: u32, b: u32) -> vec2u {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let mid = ah * bl + ((al * bl) >> 16u);
    let mid2 = al * bh + (mid & 0xffffu);
    return vec2u(a * b, ah * bh + (mid >> 16u) + (mid2 >> 16u));
}
fn philox(counter: vec4u, key: vec2u) -> vec4u {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        let x = mul_wide(0xD2511F53u, c.x);
        let z = mul_wide(0xCD9E8D57u, c.z);
        c = vec4u(z.y ^ c.y ^ k.x, z.x, x.y ^ c.w ^ k.y, x.x);
        k += vec2u(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}
// Uniform in [0, 1) with 24 bits.
fn unit(x: u32) -> f32 {
    return f32(x >> 8u) * 5.9604644775390625e-8;
}
