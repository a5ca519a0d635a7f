    let tile = p.tile0 + g.y;
    let e = expert[tile];
    // An expert of another launch, or none.
    if e - p.first >= p.count {
        return;
    }
    let tx = lane % 32u;
    let slice = lane / 32u;
    let col = g.x * 32u + tx;
    let at = (e - p.first) * p.n4 + min(col, p.n4 - 1u);
    let s$ = tile * MR + $u; //*MR
    let r$ = row[s$]; //*MR
    let from$ = select(select(s$, r$ / CHOSEN, GATHER == 1u), 0u, r$ == NONE) * p.lda4; //*MR
    var c$ = vec4f(); //*MR
    let length = (p.k4 + 7u) / 8u;
    for (var k = slice * length; k < min((slice + 1u) * length, p.k4); k++) {
        let b = fetch_four(k, at);
        let a$ = a[from$ + k]; //*MR
        c$ = fma(vec4f(a$.w), b[3], fma(vec4f(a$.z), b[2], fma(vec4f(a$.y), b[1], fma(vec4f(a$.x), b[0], c$)))); //*MR
    }
    var late = vec4f();
    if BIAS == 1u { late = bias[e * p.n4 + min(col, p.n4 - 1u)]; }
    part[lane] = c$; \
    workgroupBarrier(); \
    if lane < 32u && col < p.n4 { \
        var sum = late; \
        for (var i = 0u; i < 8u; i++) { sum += part[lane + 32u * i]; } \
        c[s$ * p.ldc4 + col] = select(sum, vec4f(), r$ == NONE); \
    } \
    workgroupBarrier(); //*MR
