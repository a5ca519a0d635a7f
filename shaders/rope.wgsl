// Rotary position embedding in the half-split form (channels i and i + ROT / 2 are a pair, those from ROT on stay; ROT
// is 0 in layers without positions) on the fused projection [q heads | k heads | v heads], each head padded to DP
// channels; v is copied. Where QK_NORM, each head of q and k is RMS-normalised first (Qwen3, Gemma 3), with gain OFFSET
// + gain. Angles come from a table: a GPU's own sine is too coarse at large positions. It may hold several sections;
// start says where a row's is. forward and backward overwrite; decode turns in place and fills the arena; backward_gain
// adds.
struct Params {
    rows: u32,      // T
    heads: u32,     // H
    kv_heads: u32,  // KV
    ld: u32,        // (H + 2 KV) DP
    eps: f32,
    pages: u32,     // row distance of the page table in decode
    beta: f32,      // with GROWS: queries are multiplied by 1 + beta ln(1 + floor(position / span))
    span: u32,
}

//@ forward rotate growth
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> raw: array<f32>;          // [T, (H + 2 KV) DP]
@group(0) @binding(2) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> start: array<u32>;        // [T]
@group(0) @binding(4) var<storage, read> angle: array<f32>;        // [sections x positions, cos ROT / 2 | sin ROT / 2]
@group(0) @binding(5) var<storage, read> gain: array<f32>;         // [q HD | k HD] where QK_NORM
@group(0) @binding(6) var<storage, read_write> y: array<f32>;      // [T, (H + 2 KV) DP]
@group(0) @binding(7) var<storage, read_write> inv: array<f32>;    // [T, H + KV] where QK_NORM
fn put(head: Head, d: u32, v: f32) {
    y[head.at + d] = v;
}
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let all = p.heads + 2u * p.kv_heads;
    let t = i / all;
    let h = i % all;
    if t >= p.rows {
        return;
    }
    let at = t * p.ld + h * DP;
    if h >= p.heads + p.kv_heads {
        for (var d = 0u; d < DP; d++) {
            y[at + d] = raw[at + d];
        }
        return;
    }
    let head = Head(t, at, h >= p.heads);
    let scale = factor(head);
    if QK_NORM == 1u {
        inv[t * (p.heads + p.kv_heads) + h] = scale;
    }
    rotate(head, scale);
}

//@ decode rotate growth operand
// Row b of a decoding step: q and k turn in place; k and v go to the row's own slot of the paged arena too.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> raw: array<f32>;    // [B, (H + 2 KV) DP]
@group(0) @binding(2) var<storage, read> pos: array<u32>;          // [B]
@group(0) @binding(3) var<storage, read> start: array<u32>;        // [B]
@group(0) @binding(4) var<storage, read> angle: array<f32>;        // [sections x positions, cos ROT / 2 | sin ROT / 2]
@group(0) @binding(5) var<storage, read> gain: array<f32>;         // [q HD | k HD] where QK_NORM
@group(0) @binding(6) var<storage, read> table: array<u32>;        // [B, pages]
@group(0) @binding(7) var<storage, read_write> keys: array<Operand>;   // [pages, KV, PAGE, DP / 4]
@group(0) @binding(8) var<storage, read_write> values: array<Operand>; // [pages, KV, PAGE, DP / 4]
fn put(head: Head, d: u32, v: f32) {
    raw[head.at + d] = v;
}
@compute @workgroup_size(WG)
fn decode(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let all = p.heads + 2u * p.kv_heads;
    let t = i / all;
    let h = i % all;
    if t >= p.rows {
        return;
    }
    let at = t * p.ld + h * DP;
    let is_value = h >= p.heads + p.kv_heads;
    if !is_value {
        let head = Head(t, at, h >= p.heads);
        rotate(head, factor(head));
    }
    if h < p.heads {
        return;
    }
    let to = row_in(table[t * p.pages + pos[t] / PAGE], p.kv_heads, (h - p.heads) % p.kv_heads, pos[t]) * (DP / 4u);
    for (var d = 0u; d < DP / 4u; d++) {
        let c = at + 4u * d;
        let x = as_kept(vec4f(raw[c], raw[c + 1u], raw[c + 2u], raw[c + 3u]));
        if is_value {
            values[to + d] = x;
        } else {
            keys[to + d] = x;
        }
    }
}

//@ backward growth
// The rotation's transpose, then the norm's derivative.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;           // [T, (H + 2 KV) DP]
@group(0) @binding(2) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> start: array<u32>;        // [T]
@group(0) @binding(4) var<storage, read> angle: array<f32>;        // [sections x positions, cos ROT / 2 | sin ROT / 2]
@group(0) @binding(5) var<storage, read> gain: array<f32>;         // [q HD | k HD] where QK_NORM
@group(0) @binding(6) var<storage, read> raw: array<f32>;          // [T, (H + 2 KV) DP] where QK_NORM
@group(0) @binding(7) var<storage, read> inv: array<f32>;          // [T, H + KV] where QK_NORM
@group(0) @binding(8) var<storage, read_write> dx: array<f32>;     // [T, (H + 2 KV) DP]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    let all = p.heads + 2u * p.kv_heads;
    let t = i / all;
    let h = i % all;
    if t >= p.rows {
        return;
    }
    let at = t * p.ld + h * DP;
    if h >= p.heads + p.kv_heads {
        for (var d = 0u; d < DP; d++) {
            dx[at + d] = dy[at + d];
        }
        return;
    }
    let which = select(0u, HD, h >= p.heads);
    let half = ROT / 2u;
    let turn = (start[t] + pos[t]) * LDA;
    let grow = growth(pos[t], h >= p.heads);
    var sum = 0.0;
    var scale = 1.0;
    if QK_NORM == 1u {
        scale = inv[t * (p.heads + p.kv_heads) + h];
    }
    for (var d = 0u; d < half; d++) {
        let c = angle[turn + d];
        let s = angle[turn + half + d];
        var a = grown(dy[at + d] * c + dy[at + d + half] * s, grow);
        var b = grown(dy[at + d + half] * c - dy[at + d] * s, grow);
        if QK_NORM == 1u {
            a *= f32(OFFSET) + gain[which + d];
            b *= f32(OFFSET) + gain[which + d + half];
            sum += a * raw[at + d] + b * raw[at + d + half];
        }
        dx[at + d] = a * scale;
        dx[at + d + half] = b * scale;
    }
    for (var d = ROT; d < HD; d++) {
        var v = grown(dy[at + d], grow);
        if QK_NORM == 1u {
            v *= f32(OFFSET) + gain[which + d];
            sum += v * raw[at + d];
        }
        dx[at + d] = v * scale;
    }
    if QK_NORM == 1u {
        let f = sum * scale * scale * scale / f32(HD);
        for (var d = 0u; d < HD; d++) {
            dx[at + d] -= f * raw[at + d];
        }
    }
    for (var d = HD; d < DP; d++) {
        dx[at + d] = 0.0;
    }
}

//@ backward_gain growth
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;           // [T, (H + 2 KV) DP]
@group(0) @binding(2) var<storage, read> pos: array<u32>;          // [T]
@group(0) @binding(3) var<storage, read> start: array<u32>;        // [T]
@group(0) @binding(4) var<storage, read> angle: array<f32>;        // [sections x positions, cos ROT / 2 | sin ROT / 2]
@group(0) @binding(5) var<storage, read> raw: array<f32>;          // [T, (H + 2 KV) DP]
@group(0) @binding(6) var<storage, read> inv: array<f32>;          // [T, H + KV]
@group(0) @binding(7) var<storage, read_write> dgain: array<f32>;  // [q HD | k HD]
@compute @workgroup_size(WG)
fn backward_gain(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = g.x * WG + lane;
    if i >= 2u * HD {
        return;
    }
    let d = i % HD;
    let half = ROT / 2u;
    let first = select(0u, p.heads, i >= HD);
    let count = select(p.heads, p.kv_heads, i >= HD);
    var sum = 0.0;
    for (var t = 0u; t < p.rows; t++) {
        let turn = (start[t] + pos[t]) * LDA;
        let grow = growth(pos[t], i >= HD);
        for (var h = first; h < first + count; h++) {
            let at = t * p.ld + h * DP;
            var turned = dy[at + d];
            if d < half {
                turned = turned * angle[turn + d] + dy[at + d + half] * angle[turn + half + d];
            } else if d < ROT {
                turned = turned * angle[turn + d - half] - dy[at + d - half] * angle[turn + d];
            }
            sum += grown(turned, grow) * raw[at + d] * inv[t * (p.heads + p.kv_heads) + h];
        }
    }
    dgain[i] += sum;
}
