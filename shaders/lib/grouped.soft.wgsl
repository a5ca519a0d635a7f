    let tile = p.tile0 + g.x;
    let e = expert[tile];
    let col = g.y * WG + lane;
    // An expert of another launch, or none.
    if e - p.first >= p.count || col >= p.n4 {
        return;
    }
    let at = (e - p.first) * p.n4 + col;
    let s$ = tile * MR + $u; //*MR
    let r$ = row[s$]; //*MR
    let from$ = select(select(s$, r$ / CHOSEN, GATHER == 1u), 0u, r$ == NONE) * p.lda4; //*MR
    var c$ = vec4f(); //*MR
    for (var k = 0u; k < p.k4; k++) {
        let b = fetch_four(k, at);
        let a$ = a[from$ + k]; //*MR
        c$ = fma(vec4f(a$.w), b[3], fma(vec4f(a$.z), b[2], fma(vec4f(a$.y), b[1], fma(vec4f(a$.x), b[0], c$)))); //*MR
    }
    if BIAS == 1u { c$ += bias[e * p.n4 + col]; } //*MR
    c[s$ * p.ldc4 + col] = select(c$, vec4f(), r$ == NONE); //*MR
