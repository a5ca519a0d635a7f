// What a sink leaves to the keys, where its logit is `above` their log-sum.
fn left_by(above: f32) -> f32 {
    return 1.0 / (1.0 + exp(above));
}
