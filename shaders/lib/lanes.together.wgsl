// Lanes of one subgroup that load for each other: of what all of them need each loads one element in LANES, and hands it to the others
// by a shuffle. A software adapter makes of a shuffle one instruction, of a load a loop over the lanes, whether or not its address is uniform.
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
