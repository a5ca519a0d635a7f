// One lane walks a whole row: on adapters that run on the CPU a barrier costs more than all the additions.
const LANES: u32 = 1u;
fn row_of(group: u32, lane: u32) -> u32 {
    return group * WG + lane;
}
fn lane_of(lane: u32) -> u32 {
    return 0u;
}
fn reduce_sum(x: f32, lane: u32) -> f32 {
    return x;
}
fn reduce_max(x: f32, lane: u32) -> f32 {
    return x;
}
// Sum over the lanes before this one.
fn before_sum(x: f32, lane: u32) -> f32 {
    return 0.0;
}
fn reduce_min_index(x: u32, lane: u32) -> u32 {
    return x;
}
