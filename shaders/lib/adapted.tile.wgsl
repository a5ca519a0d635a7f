    if LORA == 1u {
        // C = bias + g * (A B) + f * (u low) (lora.wgsl), of which each slice adds up a part.
        let o = p.c0 + col;
        c$ *= bias[p.ldf4 + o]; //*MR
        if slice == 0u {
            c$ += bias[o]; //*MR
        }
        for (var j = slice; j < p.rank4; j += 8u) {
            let b# = bias[2u * p.ldf4 + o] * low[(4u * j + #u) * p.ldl4 + o]; //*1*4
            let a$ = u[min(row + $u, p.m - 1u) * p.ldu4 + layer(o) * p.rank4 + j]; //*MR
            c$ = fma(vec4f(a$.w), b3, fma(vec4f(a$.z), b2, fma(vec4f(a$.y), b1, fma(vec4f(a$.x), b0, c$)))); //*MR
        }
    }
