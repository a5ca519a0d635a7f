// Workgroups fold into x and y when one dimension cannot hold them all.
fn flat(group: vec3u, groups: vec3u) -> u32 {
    return group.x + group.y * groups.x;
}
