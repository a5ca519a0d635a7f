    // C = bias + g * (A B) + f * (u low), as in lora.wgsl. The lanes load u for each other: of one layer after the
    // other of those that the workgroup's columns belong to, mostly one.
    if LORA == 1u {
        let o# = p.c0 + col#; //*1*NC
        let e# = layer(p.c0 + min(begin + #u * step, p.n4 - 1u)); //*1*NC
        let z# = layer(p.c0 + min(begin + #u * step + WG - 1u, p.n4 - 1u)); //*1*NC
        c$_# = fma(c$_#, bias[p.ldf4 + o#], bias[o#]); //*MR*NC
        var others = 0u;
        others = max(others, z# - e#); //*1*NC
        for (var next = 0u; next <= others; next++) {
            let f# = select(vec4f(), bias[2u * p.ldf4 + o#], layer(o#) == e# + next); //*1*NC
            let l# = min(e# + next, z#) * p.rank4; //*1*NC
            for (var k = 0u; k < p.rank4; k += LANES) {
                let i = min(k + own(lane), p.rank4 - 1u);
                let h$_# = u[min(row + $u, p.m - 1u) * p.ldu4 + l# + i]; //*MR*NC
                for (var j = k; j < min(k + LANES, p.rank4); j++) {
                    let b$_# = f# * low[(4u * j + $u) * p.ldl4 + o#]; //*4*NC
                    let u$_# = from_lane(h$_#, j - k); //*MR*NC
                    c$_# = fma(vec4f(u$_#.w), b3_#, fma(vec4f(u$_#.z), b2_#, \
                           fma(vec4f(u$_#.y), b1_#, fma(vec4f(u$_#.x), b0_#, c$_#)))); //*MR*NC
                }
            }
        }
    }
