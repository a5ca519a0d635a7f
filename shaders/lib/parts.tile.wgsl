// PARTS neighbouring lanes share a row; what each has of 4 sums is added up in the order of the lanes.
// Where PARTS > 1 no more than 4 rows of the other side are read at a time, so that one call serves them all.
const UNROLLED: u32 = 16u;
var<workgroup> parts: array<vec4f, WG>; // [WG / PARTS, PARTS]
fn across(x: vec4f, lane: u32) -> vec4f {
    if PARTS == 1u {
        return x;
    }
    parts[lane] = x;
    workgroupBarrier();
    let first = lane / PARTS * PARTS;
    var all = parts[first];
    for (var l = 1u; l < PARTS; l++) {
        all += parts[first + l];
    }
    workgroupBarrier();
    return all;
}
