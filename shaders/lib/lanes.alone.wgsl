// A lane that loads for itself whatever it needs.
const LANES: u32 = 1u;
struct Lane {
    @builtin(local_invocation_index) index: u32,
}
fn own(lane: Lane) -> u32 {
    return 0u;
}
fn from_lane(x: vec4f, i: u32) -> vec4f {
    return x;
}
fn total(x: vec4f, lane: Lane) -> vec4f {
    return x;
}
fn largest(x: vec4f, lane: Lane) -> vec4f {
    return x;
}
fn totals(x: array<vec4f, LANES>, lane: Lane) -> vec4f {
    return x[0];
}
