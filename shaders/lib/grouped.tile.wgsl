    let tile = p.tile0 + g.y;
    let e = expert[tile];
    // An expert of another launch, or none.
    if e - p.first >= p.count {
        return;
    }
    let tx = lane % 16u;
    let ty = lane / 16u;
    let col = g.x * 16u + tx;
    let at = (e - p.first) * p.n4 + col;
    // What a lane stages: vec4 ka of row r of A, its own column of rows ty and ty + 8 of B.
    let ka = lane % 4u;
    let r = lane / 4u;
    let s = tile * 32u + r;
    let own = row[s];
    let from_ = select(s, own / CHOSEN, GATHER == 1u) * p.lda4;
    var x$ = vec4f(); //*4
    for (var k = 0u; k < p.k4; k += 4u) {
        var v = vec4f();
        var w$ = vec4f(); //*2
        if own != NONE && k + ka < p.k4 { v = a[from_ + k + ka]; }
        if 4u * k + ty + 8u * $u < 4u * p.k4 && col < p.n4 { w$ = fetch(4u * k + ty + 8u * $u, at); } //*2
        as_[r * 5u + ka] = v;
        bs[lane + 128u * $u] = w$; //*2
        workgroupBarrier();
        for (var q = 0u; q < 4u; q++) {
            let a$ = as_[(ty + 8u * $u) * 5u + q]; //*4
            let u$ = bs[(q * 4u + $u) * 16u + tx]; //*4
            x$ = fma(vec4f(a$.w), u3, fma(vec4f(a$.z), u2, fma(vec4f(a$.y), u1, fma(vec4f(a$.x), u0, x$)))); //*4
        }
        workgroupBarrier();
    }
    if col < p.n4 {
        var late = vec4f();
        if BIAS == 1u { late = bias[e * p.n4 + col]; }
        let s$ = tile * 32u + ty + 8u * $u; //*4
        c[s$ * p.ldc4 + col] = select(x$ + late, vec4f(), row[s$] == NONE); //*4
    }
