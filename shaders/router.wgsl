// The router of a mixture of experts: which experts a row goes to and with what weight, and the rows sorted by expert.
// What experts work on are places. A row has CHOSEN of them, one for each of its experts; those of an expert stand
// together, in the rows' order, and begin at a multiple of MR, so that MR neighbours (a tile) have one expert.
struct Params {
    rows: u32,      // T
    experts: u32,   // E
    ld: u32,        // row of logits
    tiles: u32,     // S / MR
    d4: u32,        // D in vec4
}
// No row, no place, no expert.
const NONE: u32 = 0xffffffffu;
// Row distance of what has CHOSEN columns.
const LDC: u32 = (CHOSEN + 3u) / 4u * 4u;

//@ choose
// The largest logits of a row, the first one first among equals. Their weights are their softmax, or with ALL the
// probabilities under all experts.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [T, E]
@group(0) @binding(2) var<storage, read_write> chosen: array<u32>;  // [T, CHOSEN]
@group(0) @binding(3) var<storage, read_write> weight: array<f32>;  // [T, CHOSEN]
@compute @workgroup_size(WG)
fn choose(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let t = flat(g, n) * WG + lane;
    if t >= p.rows {
        return;
    }
    let base = t * p.ld;
    var most = 0.0;
    var last = 0.0;
    var at = 0u;
    var sum = 0.0;
    for (var j = 0u; j < CHOSEN; j++) {
        // The best of those behind the last one: with a lower logit, or the same one at a later place.
        var best = NONE;
        var value = 0.0;
        for (var e = 0u; e < p.experts; e++) {
            let l = logits[base + e];
            let behind = j == 0u || l < last || (l == last && e > at);
            if behind && (best == NONE || l > value) {
                best = e;
                value = l;
            }
        }
        // Logits that are no numbers choose the first experts.
        at = select(best, j, best == NONE);
        last = value;
        most = select(most, value, j == 0u);
        let w = exp(value - most);
        sum += w;
        chosen[t * LDC + j] = at;
        weight[t * LDC + j] = w;
    }
    if ALL == 1u {
        sum = 0.0;
        for (var e = 0u; e < p.experts; e++) {
            sum += exp(logits[base + e] - most);
        }
    }
    for (var j = 0u; j < CHOSEN; j++) {
        weight[t * LDC + j] /= sum;
    }
}

//@ count
// How many rows an expert has; a lane for each expert.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chosen: array<u32>;        // [T, CHOSEN]
@group(0) @binding(2) var<storage, read_write> ranges: array<vec2u>; // [E, first place | rows]
@compute @workgroup_size(WG)
fn count(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let e = g.x * WG + lane;
    if e >= p.experts {
        return;
    }
    var rows = 0u;
    for (var t = 0u; t < p.rows; t++) {
        rows += select(0u, 1u, chosen[t * LDC + $u] == e); //*CHOSEN
    }
    ranges[e] = vec2u(0u, rows);
}

//@ place
// Where the rows of an expert lie; a lane for each expert. The last one says of the tiles behind all places that they
// have none.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chosen: array<u32>;        // [T, CHOSEN]
@group(0) @binding(2) var<storage, read> counted: array<vec2u>;     // [E, 0 | rows]
@group(0) @binding(3) var<storage, read_write> ranges: array<vec2u>; // [E, first place | rows]
@group(0) @binding(4) var<storage, read_write> expert: array<u32>;  // [S / MR]
@group(0) @binding(5) var<storage, read_write> row: array<u32>;     // [S], row CHOSEN + which of its experts
@group(0) @binding(6) var<storage, read_write> places: array<u32>;  // [T, CHOSEN]
@compute @workgroup_size(WG)
fn place(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_index) lane: u32) {
    let e = g.x * WG + lane;
    if e >= p.experts {
        return;
    }
    var tile = 0u;
    for (var other = 0u; other < e; other++) {
        tile += (counted[other].y + MR - 1u) / MR;
    }
    var at = tile * MR;
    ranges[e] = vec2u(at, counted[e].y);
    let end = tile + (counted[e].y + MR - 1u) / MR;
    for (; tile < end; tile++) {
        expert[tile] = e;
    }
    for (var t = 0u; t < p.rows; t++) {
        if chosen[t * LDC + $u] == e { \
            row[at] = t * CHOSEN + $u; \
            places[t * LDC + $u] = at; \
            at++; \
        } //*CHOSEN
    }
    for (; at < end * MR; at++) {
        row[at] = NONE;
    }
    if e + 1u < p.experts {
        return;
    }
    for (; tile < p.tiles; tile++) {
        expert[tile] = NONE;
    }
}

//@ gather
// What experts made of a row, weighed and added up in the order of its experts. Without WEIGHED all weigh 1; with ADD
// it is added to what is there.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // [S, D]
@group(0) @binding(2) var<storage, read> places: array<u32>;        // [T, CHOSEN]
@group(0) @binding(3) var<storage, read> weight: array<f32>;        // [T, CHOSEN] where WEIGHED
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>;     // [T, D]
@compute @workgroup_size(WG)
fn gather(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.rows * p.d4); i += WG) {
        let t = i / p.d4;
        let c = i - t * p.d4;
        var sum = vec4f();
        for (var j = 0u; j < CHOSEN; j++) {
            let v = x[places[t * LDC + j] * p.d4 + c];
            if WEIGHED == 1u { sum = fma(vec4f(weight[t * LDC + j]), v, sum); } else { sum += v; }
        }
        if ADD == 1u { y[i] += sum; } else { y[i] = sum; }
        break; //*ONCE
    }
}

//@ spread
// The gradient by what experts made: that of the row times the weight; zeros where no row is.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;          // [T, D]
@group(0) @binding(2) var<storage, read> row: array<u32>;           // [S]
@group(0) @binding(3) var<storage, read> weight: array<f32>;        // [T, CHOSEN]
@group(0) @binding(4) var<storage, read> expert: array<u32>;        // [S / MR]
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;    // [S, D]
@compute @workgroup_size(WG)
fn spread(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let first = first_of(g, n, lane);
    for (var i = first; i < end_of(first, p.tiles * MR * p.d4); i += WG) {
        let s = i / p.d4;
        var v = vec4f();
        // Behind the last tile with an expert nothing says of a place whose row it is.
        if expert[s / MR] != NONE && row[s] != NONE {
            let t = row[s] / CHOSEN;
            v = weight[t * LDC + row[s] % CHOSEN] * dy[t * p.d4 + (i - s * p.d4)];
        }
        dx[i] = v;
        break; //*ONCE
    }
}

//@ weigh
// The gradient by the weights: what each expert made times the row's gradient.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;           // [S, D]
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;          // [T, D]
@group(0) @binding(3) var<storage, read> places: array<u32>;        // [T, CHOSEN]
@group(0) @binding(4) var<storage, read_write> dweight: array<f32>; // [T, CHOSEN]
@compute @workgroup_size(WG)
fn weigh(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = flat(g, n) * WG + lane;
    if i >= p.rows * CHOSEN {
        return;
    }
    let t = i / CHOSEN;
    let at = t * LDC + i % CHOSEN;
    let from_ = places[at] * p.d4;
    var sum = vec4f();
    for (var c = 0u; c < p.d4; c++) {
        sum = fma(x[from_ + c], dy[t * p.d4 + c], sum);
    }
    dweight[at] = dot(sum, vec4f(1.0));
}

//@ backward
// The gradient by the logits from that by the weights w = softmax: w_e (dw_e - sum of w dw), where an expert that is
// not chosen has dw = 0, and without ALL w = 0 too.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;        // [T, E]
@group(0) @binding(2) var<storage, read> chosen: array<u32>;        // [T, CHOSEN]
@group(0) @binding(3) var<storage, read> weight: array<f32>;        // [T, CHOSEN]
@group(0) @binding(4) var<storage, read> dweight: array<f32>;       // [T, CHOSEN]
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>; // [T, E]
@compute @workgroup_size(WG)
fn backward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32) {
    let t = flat(g, n) * WG + lane;
    if t >= p.rows {
        return;
    }
    let base = t * p.ld;
    var mean = 0.0;
    mean = fma(weight[t * LDC + $u], dweight[t * LDC + $u], mean); //*CHOSEN
    // The first one chosen has the largest logit, and any one tells the sum.
    let top = logits[base + chosen[t * LDC]];
    let share = select(0.0, weight[t * LDC], ALL == 1u);
    for (var e = 0u; e < p.ld; e++) {
        dlogits[base + e] = select(0.0, -mean * share * exp(logits[base + e] - top), e < p.experts);
    }
    for (var j = 0u; j < CHOSEN; j++) {
        let at = base + chosen[t * LDC + j];
        // The difference first: where one expert has all the weight it is 0, and both parts may be large.
        dlogits[at] = weight[t * LDC + j] * (dweight[t * LDC + j] - mean);
    }
}
