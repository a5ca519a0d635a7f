// What all have whose bits count steps.
fn steps_of(q: vec4u) -> vec4f {
    return vec4f(q);
}
