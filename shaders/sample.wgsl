// Draws the next token of every row and moves the row on: repetition penalty, temperature, top-k, top-p (the crossing
// token stays), min-p; equal logits rank by the lower id. Nothing is sorted: all three cuts keep a prefix of one order
// (logit down, id up), so a search for the last logit kept, seven thresholds a pass, finds each. After a few passes
// over the vocabulary what can still be kept is listed, and all others go through the list.
struct Params {
    rows: u32,        // B
    cols: u32,        // V
    ld: u32,
    seen_ld: u32,     // words of `seen` a row
    out_ld: u32,
    identity: u32,    // 1: row b has logits b; 0: logits info[b].z
    stops: u32,
    top_k: u32,       // 0 off
    penalty: f32,     // 1 off
    temperature: f32, // 0 greedy
    top_p: f32,       // 1 off
    min_p: f32,       // 0 off
    seed: vec2u,
    cuts: u32,        // 1: top-k, top-p or min-p leaves a part of the vocabulary, and `list` has room
    pad: u32,
    stop: array<vec4u, 4>,
}

//@ forward kept
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;         // [R, V]
@group(0) @binding(2) var<storage, read> info: array<vec4u>;         // [B] id low, high, logits row, most tokens
@group(0) @binding(3) var<storage, read_write> seen: array<u32>;     // [B, V / 32] bits of tokens in prompt and answer
@group(0) @binding(4) var<storage, read_write> token: array<u32>;    // [B]
@group(0) @binding(5) var<storage, read_write> pos: array<u32>;      // [B]
@group(0) @binding(6) var<storage, read_write> state: array<vec2u>;  // [B] (tokens written, 1 while running)
@group(0) @binding(7) var<storage, read_write> out: array<u32>;      // [B, most tokens]
@group(0) @binding(8) var<storage, read_write> list: array<u32>;     // [B, V] ids, or [1] where nothing is cut

// The logit of token v after penalty and temperature.
fn value(b: u32, at: u32, v: u32) -> f32 {
    var x = logits[at + v];
    if p.penalty != 1.0 && ((seen[b * p.seen_ld + v / 32u] >> (v % 32u)) & 1u) == 1u {
        x = select(x * p.penalty, x / p.penalty, x > 0.0);
    }
    return select(x / p.temperature, x, p.temperature == 0.0);
}

// Where the row's next draw falls, in [0, 1).
fn drawn(b: u32) -> f32 {
    return unit(philox(vec4u(state[b].x, 0u, info[b].xy), p.seed).x);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
           @builtin(local_invocation_index) l: u32) {
    let b = row_of(flat(g, n), l);
    let lane = lane_of(l);
    if b >= p.rows {
        return;
    }
    let at = select(info[b].z, b, p.identity == 1u) * p.ld;
    // Lanes own neighbouring ids, so that sums in id order need only the lanes before.
    let share = (p.cols + LANES - 1u) / LANES;
    let first = min(lane * share, p.cols);
    let stop = min(first + share, p.cols);
    var top = -3.4e38;
    for (var v = first; v < stop; v++) {
        top = max(top, value(b, at, v));
    }
    top = reduce_max(top, l);
    var chosen = p.cols;
    if p.temperature == 0.0 {
        for (var v = stop; v > first; v--) {
            chosen = select(chosen, v - 1u, value(b, at, v - 1u) >= top);
        }
        // Where every logit is NaN none is the largest.
        chosen = min(reduce_min_index(chosen, l), p.cols - 1u);
    } else if p.cuts == 0u {
        var weight = 0.0;
        for (var v = first; v < stop; v++) {
            weight += exp(value(b, at, v) - top);
        }
        var sum = before_sum(weight, l);
        let draw = drawn(b) * reduce_sum(weight, l);
        for (var v = first; v < stop; v++) {
            sum += exp(value(b, at, v) - top);
            chosen = select(chosen, v, chosen == p.cols && draw < sum);
        }
        // Rounding can leave the point just past the last weight.
        chosen = min(reduce_min_index(chosen, l), p.cols - 1u);
    } else {
        // The kept prefix: logits above `edge`, and the first `ties` of those equal to it.
        var edge = 0u;
        var ties = p.cols;
        let by_rank = p.top_k > 0u && p.top_k < p.cols;
        let by_mass = p.top_p < 1.0;
        var all = 0.0;
        var low = 0u;
        if by_rank || by_mass {
            for (var bit = 30u; bit > FINE; bit -= 3u) {
                var four = vec4f();
                var three = vec4f();
                var sum = 0.0;
                for (var v = first; v < stop; v++) {
                    sum += tally(&four, &three, value(b, at, v), low, bit, top, by_rank);
                }
                if bit == 30u {
                    all = reduce_sum(sum, l);
                }
                low += reached(four, three, select(p.top_p * all, f32(p.top_k), by_rank), l) << bit;
            }
        } else if p.min_p > 0.0 {
            low = key(top + log(p.min_p));
        }
        let own = b * p.ld + first;
        var end = own;
        for (var v = first; v < stop; v++) {
            if key(value(b, at, v)) >= low {
                list[end] = v;
                end++;
            }
        }
        if by_rank {
            edge = search(b, at, own, end, low, FINE, top, f32(p.top_k), true, l);
            var above = 0.0;
            for (var i = own; i < end; i++) {
                above += select(0.0, 1.0, key(value(b, at, list[i])) > edge);
            }
            ties = p.top_k - u32(reduce_sum(above, l));
            low = edge;
        }
        if by_mass {
            if by_rank {
                all = kept_mass(b, at, own, end, edge, ties, top, l);
            }
            let goal = p.top_p * all;
            let cut = search(b, at, own, end, low, select(FINE, 30u, by_rank), top, goal, false, l);
            var above = 0.0;
            for (var i = own; i < end; i++) {
                let x = value(b, at, list[i]);
                above += select(0.0, exp(x - top), key(x) > cut);
            }
            let missing = max(goal - reduce_sum(above, l), 0.0);
            let need = max(u32(ceil(missing / exp(unkey(cut) - top))), 1u);
            ties = select(need, min(need, ties), cut == edge);
            edge = cut;
        }
        if p.min_p > 0.0 {
            let cut = key(top + log(p.min_p));
            if cut > edge {
                edge = cut;
                ties = p.cols;
            }
        }
        // Weights in id order; the lane whose share holds the drawn point walks it.
        var weight = 0.0;
        var equal = 0.0;
        for (var i = own; i < end; i++) {
            equal += select(0.0, 1.0, key(value(b, at, list[i])) == edge);
        }
        var rank = u32(before_sum(equal, l));
        let rank0 = rank;
        for (var i = own; i < end; i++) {
            let x = value(b, at, list[i]);
            let k = key(x);
            let keep = k > edge || (k == edge && rank < ties);
            rank += select(0u, 1u, k == edge);
            weight += select(0.0, exp(x - top), keep);
        }
        let before = before_sum(weight, l);
        let draw = drawn(b) * reduce_sum(weight, l);
        var sum = before;
        var last = 0u;
        rank = rank0;
        for (var i = own; i < end; i++) {
            let v = list[i];
            let x = value(b, at, v);
            let k = key(x);
            if k > edge || (k == edge && rank < ties) {
                sum += exp(x - top);
                last = v + 1u;
                if chosen == p.cols && draw < sum {
                    chosen = v;
                }
            }
            rank += select(0u, 1u, k == edge);
        }
        chosen = reduce_min_index(chosen, l);
        let final_one = u32(reduce_max(f32(last), l));
        if chosen >= p.cols {
            chosen = max(final_one, 1u) - 1u;
        }
    }
    if lane == 0u && state[b].y == 1u {
        let count = state[b].x;
        token[b] = chosen;
        pos[b] += 1u;
        out[b * p.out_ld + count] = chosen;
        seen[b * p.seen_ld + chosen / 32u] |= 1u << (chosen % 32u);
        var running = select(0u, 1u, count + 1u < info[b].w);
        for (var i = 0u; i < p.stops; i++) {
            running = select(running, 0u, p.stop[i / 4u][i % 4u] == chosen);
        }
        state[b] = vec2u(count + 1u, running);
    }
}

//@ choose
// Answers of a fixed form: token number i is the likelier of choice[i] (the first on a tie); p is its share.
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // [R, V]
@group(0) @binding(2) var<storage, read> info: array<vec4u>;           // [B] id low, high, logits row, most tokens
@group(0) @binding(3) var<storage, read> choice: array<vec2u>;         // [most tokens]
@group(0) @binding(4) var<storage, read_write> token: array<u32>;      // [B]
@group(0) @binding(5) var<storage, read_write> pos: array<u32>;        // [B]
@group(0) @binding(6) var<storage, read_write> state: array<vec2u>;    // [B] (tokens written, 1 while running)
@group(0) @binding(7) var<storage, read_write> out: array<u32>;        // [B, most tokens]
@group(0) @binding(8) var<storage, read_write> share: array<f32>;      // [B, most tokens] p(first)
@compute @workgroup_size(WG)
fn choose(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
          @builtin(local_invocation_index) lane: u32) {
    let b = flat(g, n) * WG + lane;
    if b >= p.rows || state[b].y == 0u {
        return;
    }
    let at = select(info[b].z, b, p.identity == 1u) * p.ld;
    let count = state[b].x;
    let pair = choice[count];
    let gap = logits[at + pair.y] - logits[at + pair.x];
    let chosen = select(pair.x, pair.y, gap > 0.0);
    token[b] = chosen;
    pos[b] += 1u;
    out[b * p.out_ld + count] = chosen;
    share[b * p.out_ld + count] = 1.0 / (1.0 + exp(gap));
    state[b] = vec2u(count + 1u, select(0u, 1u, count + 1u < info[b].w));
}
