// Workgroups fold into x and y when one dimension cannot hold them all.
fn flat(group: vec3u, groups: vec3u) -> u32 {
    return group.x + group.y * groups.x;
}
// A lane's items where it has PER of them, WG apart: on a CPU starting a workgroup costs more than what few of its
// lanes do to an element.
fn first_of(group: vec3u, groups: vec3u, lane: u32) -> u32 {
    return flat(group, groups) * WG * PER + lane;
}
fn end_of(first: u32, items: u32) -> u32 {
    return min(first + WG * PER, items);
}
