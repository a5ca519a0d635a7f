
//@ chunk reduce cap
// What `split` gives, for GPUs: a workgroup a chunk, a lane a position for the scores, then lanes side by side over the
// channels of neighbouring positions. The sums' order depends on the channels of a head, so where a row's bits must be
// those of scoring, `split` runs.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;        // [B, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> keys: array<Operand>;     // [pages, KV, PAGE, D4]
@group(0) @binding(3) var<storage, read> values: array<Operand>;   // [pages, KV, PAGE, D4]
@group(0) @binding(4) var<storage, read> table: array<u32>;        // [B, pages]
@group(0) @binding(5) var<storage, read> pos: array<u32>;          // [B]
@group(0) @binding(6) var<storage, read_write> part: array<vec4f>; // [B, H, S, D4] and [B, H, S], o where WHOLE
var<workgroup> query: array<vec4f, D4>;     // [D4]
var<workgroup> row: array<u32, CHUNK>;      // [CHUNK], where each position's vec4 begin
var<workgroup> weight: array<f32, CHUNK>;   // [CHUNK]
var<workgroup> sums: array<vec4f, CHUNK>;   // [CHUNK / D4, D4]
@compute @workgroup_size(WG)
fn chunk(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let at = flat(g, n);
    let s = at % p.chunks;
    let h = (at / p.chunks) % p.heads;
    let b = at / (p.chunks * p.heads);
    if b >= p.rows {
        return;
    }
    let kv = h / (p.heads / p.kv_heads);
    if lane < D4 {
        query[lane] = qkv[b * p.ld4 + h * D4 + lane] * p.scale;
    }
    let len = pos[b] + 1u;
    let first = max(s * CHUNK, select(0u, len - p.window, len > p.window));
    let stop = min(len, (s + 1u) * CHUNK);
    let j = s * CHUNK + lane;
    let seen = j >= first && j < stop;
    workgroupBarrier();
    var score = -3.0e38;
    if seen {
        row[lane] = row_in(table[b * p.pages + j / PAGE], p.kv_heads, kv, j) * D4;
        var dots = vec4f();
        for (var d = 0u; d < D4; d++) {
            dots = fma(query[d], wide(keys[row[lane] + d]), dots);
        }
        score = capped(dot(dots, vec4f(1.0)));
    }
    let top = reduce_max(score, lane);
    let w = select(0.0, exp(score - top), seen);
    weight[lane] = w;
    let sum = reduce_sum(w, lane);
    let groups = CHUNK / D4;
    var c = vec4f();
    if lane < groups * D4 {
        for (var i = first + lane / D4; i < stop; i += groups) {
            let k = i - s * CHUNK;
            c = fma(wide(values[row[k] + lane % D4]), vec4f(weight[k]), c);
        }
    }
    sums[lane] = c;
    workgroupBarrier();
    if lane < D4 {
        for (var i = 1u; i < groups; i++) {
            c += sums[i * D4 + lane];
        }
        if WHOLE == 1u {
            c = c / sum;
        }
        part[at * D4 + lane] = c;
    }
    if lane == 0u && WHOLE == 0u {
        part[norm_at(at)] = vec4f(top, sum, 0.0, 0.0);
    }
}
