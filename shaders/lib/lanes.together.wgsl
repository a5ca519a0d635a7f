// Lanes of one subgroup that load for each other: of what all of them need each loads one element in LANES, and hands
// it to the others by a shuffle. A software adapter makes of a shuffle one instruction, of a load a loop over the
// lanes, whether or not its address is uniform.
struct Lane {
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) own: u32,
}
// Which of LANES elements the lane loads.
fn own(lane: Lane) -> u32 {
    return lane.own;
}
// What lane i loaded.
fn from_lane(x: vec4f, i: u32) -> vec4f {
    return subgroupShuffle(x, i);
}
// The sum over the lanes, with the same bits in each.
fn total(x: vec4f, lane: Lane) -> vec4f {
    let pairs = x + subgroupShuffle(x, lane.own ^ 1u);
    let fours = pairs + subgroupShuffle(pairs, lane.own ^ 2u);
    return fours + subgroupShuffle(fours, lane.own ^ 4u);
}
// The largest of the lanes.
fn largest(x: vec4f, lane: Lane) -> vec4f {
    let pairs = max(x, subgroupShuffle(x, lane.own ^ 1u));
    let fours = max(pairs, subgroupShuffle(pairs, lane.own ^ 2u));
    return max(fours, subgroupShuffle(fours, lane.own ^ 4u));
}
// Of element i the sum over the lanes, in lane i: half as many elements at each step.
fn totals(x: array<vec4f, LANES>, lane: Lane) -> vec4f {
    let odd = (lane.own & 1u) == 1u;
    let pair# = select(x[2u * #u], x[2u * #u + 1u], odd) \
        + subgroupShuffle(select(x[2u * #u + 1u], x[2u * #u], odd), lane.own ^ 1u); //*1*4
    let second = (lane.own & 2u) == 2u;
    let low = select(pair0, pair1, second) + subgroupShuffle(select(pair1, pair0, second), lane.own ^ 2u);
    let high = select(pair2, pair3, second) + subgroupShuffle(select(pair3, pair2, second), lane.own ^ 2u);
    let fourth = (lane.own & 4u) == 4u;
    return select(low, high, fourth) + subgroupShuffle(select(high, low, fourth), lane.own ^ 4u);
}
