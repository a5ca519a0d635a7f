// A workgroup shares a row; its lanes add up in a tree.
const LANES: u32 = WG;
var<workgroup> partial: array<f32, WG>;
var<workgroup> partial_index: array<u32, WG>;
fn row_of(group: u32, lane: u32) -> u32 {
    return group;
}
fn lane_of(lane: u32) -> u32 {
    return lane;
}
fn reduce_sum(x: f32, lane: u32) -> f32 {
    partial[lane] = x;
    workgroupBarrier();
    for (var s = WG / 2u; s > 0u; s = s / 2u) {
        if lane < s {
            partial[lane] += partial[lane + s];
        }
        workgroupBarrier();
    }
    let all = partial[0];
    workgroupBarrier();
    return all;
}
fn reduce_max(x: f32, lane: u32) -> f32 {
    partial[lane] = x;
    workgroupBarrier();
    for (var s = WG / 2u; s > 0u; s = s / 2u) {
        if lane < s {
            partial[lane] = max(partial[lane], partial[lane + s]);
        }
        workgroupBarrier();
    }
    let all = partial[0];
    workgroupBarrier();
    return all;
}
// Sum over the lanes before this one, always added in lane order.
fn before_sum(x: f32, lane: u32) -> f32 {
    partial[lane] = x;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < lane; i++) {
        sum += partial[i];
    }
    workgroupBarrier();
    return sum;
}
fn reduce_min_index(x: u32, lane: u32) -> u32 {
    partial_index[lane] = x;
    workgroupBarrier();
    for (var s = WG / 2u; s > 0u; s = s / 2u) {
        if lane < s {
            partial_index[lane] = min(partial_index[lane], partial_index[lane + s]);
        }
        workgroupBarrier();
    }
    let all = partial_index[0];
    workgroupBarrier();
    return all;
}
