// x[t] = factor * column token[t] of the table [D, V], which lies in blocks of columns: a launch serves the tokens of
// one block, `first .. first + count`.
struct Params {
    rows: u32,      // T, or the number of distinct tokens
    cols: u32,      // D
    ld: u32,        // of x
    table_ld4: u32, // row distance of the table in four elements
    first: u32,
    count: u32,
    factor: f32,
}

//@ forward
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> token: array<u32>;        // [T]
@group(0) @binding(2) var<storage, read> table: array<Operand>;    // [D, count]
@group(0) @binding(3) var<storage, read_write> x: array<f32>;      // [T, D]
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let begin = first_of(g, n, lane);
    for (var i = begin; i < end_of(begin, p.rows * p.ld); i += WG) {
        let t = i / p.ld;
        let d = i - t * p.ld;
        let v = token[t] - p.first;
        if v < p.count {
            let four = wide(table[min(d, p.cols - 1u) * p.table_ld4 + v / 4u]);
            x[i] = select(0.0, p.factor * four[v % 4u], d < p.cols);
        }
        break; //*ONCE
    }
}

//@ forward_q scales bits
// The table is quantised: words as `bits` has them down the channels, a scale and a minimum per GROUP of them.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> token: array<u32>;        // [T]
@group(0) @binding(2) var<storage, read> words: array<u32>;        // [D * BITS / 32, count]
@group(0) @binding(3) var<storage, read> scales: array<StoredScales>; // by group, as scales_at reads them
@group(0) @binding(4) var<storage, read_write> x: array<f32>;      // [T, D]
@compute @workgroup_size(WG)
fn forward_q(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
             @builtin(local_invocation_index) lane: u32) {
    let begin = first_of(g, n, lane);
    for (var i = begin; i < end_of(begin, p.rows * p.ld); i += WG) {
        let t = i / p.ld;
        let d = min(i - t * p.ld, p.cols - 1u);
        let v = token[t] - p.first;
        if v < p.count {
            let ld = p.table_ld4 * 4u;
            let q = words[lower_row(d) * ld + v] >> lower_shift(d);
            var above = 0u;
            if ABOVE > 0u { above = words[above_row(d / GROUP) * ld + v] >> (d % GROUP * ABOVE); }
            let s = scales_at(d / GROUP, v / 4u, p.table_ld4);
            let value = steps_of(bits_of(vec4u(q), vec4u(above))).x * s.scale[v % 4u] + s.minimum[v % 4u];
            x[i] = select(0.0, p.factor * value, i - t * p.ld < p.cols);
        }
        break; //*ONCE
    }
}

//@ backward
// dtable[v] += factor * sum of dx over the rows that hold token v; rows are listed by token, so nothing is added
// atomically.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> distinct: array<u32>;     // [U]
@group(0) @binding(2) var<storage, read> start: array<u32>;        // [U + 1]
@group(0) @binding(3) var<storage, read> row: array<u32>;          // [T]
@group(0) @binding(4) var<storage, read> dx: array<f32>;           // [T, D]
@group(0) @binding(5) var<storage, read_write> dtable: array<f32>; // [D, count]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let begin = first_of(g, n, lane);
    for (var i = begin; i < end_of(begin, p.rows * p.cols); i += WG) {
        let u = i / p.cols;
        let d = i - u * p.cols;
        let v = distinct[u] - p.first;
        if v < p.count {
            var sum = 0.0;
            for (var e = start[u]; e < start[u + 1u]; e++) {
                sum += dx[row[e] * p.ld + d];
            }
            dtable[d * p.table_ld4 * 4u + v] += p.factor * sum;
        }
        break; //*ONCE
    }
}
