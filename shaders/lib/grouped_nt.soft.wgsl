    let tile = p.tile0 + g.x;
    let e = expert[tile];
    let col = g.y * WG + lane;
    if e - p.first >= p.count || col >= p.k4 {
        return;
    }
    let at = (e - p.first) * p.n4;
    var c$_# = vec4f(); //*MR*4
    for (var n = 0u; n < p.n4; n++) {
        let b = fetch_four(col, at + n);
        let a$ = a[(tile * MR + $u) * p.lda4 + n]; //*MR
        c$_# = fma(a$, b[#], c$_#); //*MR*4
    }
    let one = vec4f(1.0);
    c[(tile * MR + $u) * p.ldc4 + col] = \
        vec4f(dot(c$_0, one), dot(c$_1, one), dot(c$_2, one), dot(c$_3, one)); //*MR
