// For workgroups of 256 lanes that hold 8 slices of K of one row, 32 columns in vec4.
var<workgroup> part: array<vec4f, 256>; // [8 slices, 32 columns]
var<workgroup> square: array<f32, 8>; // of a row's slices, where NORM
// Adds up the 8 slices of K and stores. NORM: A's rows are RMS-normalised on the way, x / sqrt(mean(x^2) + eps) *
// (OFFSET + gain), and late is added after the row's factor. GATED: B is [gate | up], of each 16 columns; C = act(A
// gate) * (A up).
fn finish(row: u32, group: u32, lane: u32, v: vec4f, squares: vec4f, late: vec4f) {
    part[lane] = v;
    if NORM == 1u && lane % 32u == 0u {
        square[lane / 32u] = dot(squares, vec4f(1.0));
    }
    workgroupBarrier();
    if lane < 32u {
        var sum = v;
        sum += part[lane + 32u * ($u + 1u)]; //*7
        if NORM == 1u {
            var all = 0.0;
            all += square[$u]; //*8
            sum = sum * inverseSqrt(all / f32(p.channels) + p.eps) + late;
        }
        if GATED == 1u {
            part[lane] = sum;
        } else {
            store(row, group * 32u + lane, sum);
        }
    }
    workgroupBarrier();
    if GATED == 1u {
        if lane < 16u && group * 16u + lane < p.n4 / 2u {
            store(row, group * 16u + lane, gated(ACT, part[lane], part[lane + 16u]));
        }
        workgroupBarrier();
    }
}
// The column of B that lane tx of 32 takes.
fn column(group: u32, tx: u32) -> u32 {
    if GATED == 1u {
        return min(group * 16u + tx % 16u, p.n4 / 2u - 1u) + tx / 16u * (p.n4 / 2u);
    }
    return min(group * 32u + tx, p.n4 - 1u);
}
