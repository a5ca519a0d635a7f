// Copies the k and v heads of a prompt's fused rows into the paged KV arena; those of a decoding step go there by
// rope.decode.
struct Params {
    rows: u32,      // entries; rows in settle
    ld4: u32,       // row distance of qkv in vec4
    k4: u32,        // where k begins in a row, in vec4
    kv_heads: u32,  // KV
    d4: u32,        // D4
}

//@ listed
// Entry e copies row[e] to slot[e] = page * PAGE + position in it; a prompt's last, partly filled page goes to every
// sequence that continues it.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;           // [T, H + 2 KV, D4]
@group(0) @binding(2) var<storage, read> row: array<u32>;             // [E]
@group(0) @binding(3) var<storage, read> slot: array<u32>;            // [E]
@group(0) @binding(4) var<storage, read_write> keys: array<Operand>;  // [pages, KV, PAGE, D4]
@group(0) @binding(5) var<storage, read_write> values: array<Operand>; // [pages, KV, PAGE, D4]
@compute @workgroup_size(WG)
fn listed(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let kv4 = p.kv_heads * p.d4;
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * kv4); i += WG) {
        let e = i / kv4;
        let d = i - e * kv4;
        let source = row[e] * p.ld4 + p.k4 + d;
        let to = row_in(slot[e] / PAGE, p.kv_heads, d / p.d4, slot[e]) * p.d4 + d % p.d4;
        keys[to] = as_kept(qkv[source]);
        values[to] = as_kept(qkv[source + kv4]);
        break; //*ONCE
    }
}

//@ settle
// Leaves of the k and v heads what the arena would keep, so that a prompt that runs as a forest sees the numbers that
// one sees which continues what is written.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<vec4f>;     // [T, H + 2 KV, D4]
@compute @workgroup_size(WG)
fn settle(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let width = 2u * p.kv_heads * p.d4;
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * width); i += WG) {
        let at = i / width * p.ld4 + p.k4 + i % width;
        qkv[at] = wide(as_kept(qkv[at]));
        break; //*ONCE
    }
}
