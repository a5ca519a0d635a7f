// What matrix units can do at their best: four chains of fragments a subgroup, c <- a b + c.
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
    steps: u32,  // S
}
const COUNT = SIZE * SIZE;
var<workgroup> operands: array<f16, 5u * COUNT>; // [5, SIZE, SIZE]: a and four of b
var<workgroup> sums: array<f32, COUNT>;          // [SIZE, SIZE]

//@ multiply
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ab: array<f32>;           // [5, SIZE * SIZE]
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;    // [G, 4] first element of the sum, subgroups, 0, 0
@compute @workgroup_size(WG)
fn multiply(@builtin(workgroup_id) g: vec3u, @builtin(num_workgroups) n: vec3u,
            @builtin(local_invocation_index) lane: u32,
            @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32) {
    for (var i = lane; i < 5u * COUNT; i += WG) {
        operands[i] = f16(ab[i]);
    }
    workgroupBarrier();
    let a = coopLoadT<Left>(&operands[0], SIZE);
    let at$ = ($u + 1u) * COUNT; //*4
    let b$ = coopLoadT<Right>(&operands[at$], SIZE); //*4
    var c$ = Sum(); //*4
    for (var s = 0u; s < p.steps; s++) {
        c0 = coopMultiplyAdd(a, b0, c0); \
        c1 = coopMultiplyAdd(a, b1, c1); \
        c2 = coopMultiplyAdd(a, b2, c2); \
        c3 = coopMultiplyAdd(a, b3, c3); //*8
    }
    if subgroup == 0u {
        coopStoreT(c0 + c1 + c2 + c3, &sums[0], SIZE);
    }
    workgroupBarrier();
    if lane == 0u {
        y[flat(g, n)] = vec4f(sums[0], f32(subgroups), 0.0, 0.0);
    }
}
