// A row is one lane's.
const UNROLLED: u32 = 4u;
fn across(x: vec4f, lane: u32) -> vec4f {
    return x;
}
