// Blocks of 64 x 64 of a product, B by `fetch`.
// 5 vec4 a row instead of 4, so that the rows written together fall on different banks.
var<workgroup> as_: array<vec4f, 320>; // [64, 16]
var<workgroup> bs: array<vec4f, 256>;  // [16, 64]
fn blocks(g: vec3u, lane: u32) {
    let tx = lane % 16u;
    let ty = lane / 16u;
    let row0 = p.row0 + g.y * 64u;
    let col0 = g.x * 16u;
    let cx = col0 + tx;
    // What a lane stages: vec4 ka of rows r and r + 32 of A, its own column of rows ty and ty + 8 of B.
    let r = lane / 4u;
    let ka = lane % 4u;
    var x$ = vec4f(); //*8
    for (var k = p.k0; k < p.k; k += 16u) {
        var v$ = vec4f(); //*2
        var w$ = vec4f(); //*2
        if row0 + r + 32u * $u < p.m && k + ka * 4u < p.k { \
            v$ = a[(row0 + r + 32u * $u) * p.lda4 + p.a0 + k / 4u + ka]; \
        } //*2
        if k + ty + 8u * $u < p.k && cx < p.n4 { w$ = fetch(k + ty + 8u * $u, cx); } //*2
        as_[(r + 32u * $u) * 5u + ka] = v$; //*2
        bs[lane + 128u * $u] = w$; //*2
        workgroupBarrier();
        for (var q = 0u; q < 4u; q++) {
            let a$ = as_[(ty + 8u * $u) * 5u + q]; //*8
            let u$ = bs[(q * 4u + $u) * 16u + tx]; //*4
            x$ = fma(vec4f(a$.w), u3, fma(vec4f(a$.z), u2, fma(vec4f(a$.y), u1, fma(vec4f(a$.x), u0, x$)))); //*8
        }
        workgroupBarrier();
    }
    if BIAS == 1u {
        let add_x = bias[p.c0 + min(cx, p.n4 - 1u)];
        x$ += add_x; //*8
    }
    store(row0 + ty + 8u * $u, cx, x$); //*8
}
