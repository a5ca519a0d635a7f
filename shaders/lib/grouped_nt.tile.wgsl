    let tile = p.tile0 + g.y;
    let e = expert[tile];
    if e - p.first >= p.count {
        return;
    }
    let tx = lane % 16u;
    let ty = lane / 16u;
    let at = (e - p.first) * p.n4;
    // What a lane stages: vec4 na of row r of A, the same of rows r and r + 32 of B.
    let na = lane % 4u;
    let r = lane / 4u;
    var x$ = vec4f(); //*4
    for (var n = 0u; n < p.n4; n += 4u) {
        var v = vec4f();
        var w$ = vec4f(); //*2
        let there = n + na < p.n4;
        if there { v = a[(tile * 32u + r) * p.lda4 + n + na]; }
        if there && g.x * 64u + r + 32u * $u < 4u * p.k4 { \
            w$ = fetch(g.x * 64u + r + 32u * $u, at + n + na); \
        } //*2
        as_[r * 5u + na] = v;
        bs[na * 256u + r + 32u * $u] = w$.x; //*2
        bs[na * 256u + 64u + r + 32u * $u] = w$.y; //*2
        bs[na * 256u + 128u + r + 32u * $u] = w$.z; //*2
        bs[na * 256u + 192u + r + 32u * $u] = w$.w; //*2
        workgroupBarrier();
        for (var q = 0u; q < 4u; q++) {
            let a$ = as_[(ty + 8u * $u) * 5u + q]; //*4
            let i$ = (q * 4u + $u) * 64u + tx * 4u; //*4
            let u$ = vec4f(bs[i$], bs[i$ + 1u], bs[i$ + 2u], bs[i$ + 3u]); //*4
            x$ = fma(vec4f(a$.w), u3, fma(vec4f(a$.z), u2, fma(vec4f(a$.y), u1, fma(vec4f(a$.x), u0, x$)))); //*4
        }
        workgroupBarrier();
    }
    let col = g.x * 16u + tx;
    if col < p.k4 { c[(tile * 32u + ty + 8u * $u) * p.ldc4 + col] = x$; } //*4
