//! Named tensors on the host, and which values a weight may have.

/// One named parameter on the host, in Hugging Face's name, shape and row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Hugging Face's parameter name.
    pub name: String,
    /// `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// The largest absolute value that a weight may have. Those of trained models stay below some thousands; beyond this
/// the products of three matrices, as in an MLP, may leave f32's range, and the model would only write NaN.
pub const LARGEST: f32 = 1e9;

/// The position and value of the first weight that cannot be computed with: NaN, an infinity, or beyond [`LARGEST`].
pub fn first_unusable(values: &[f32]) -> Option<(usize, f32)> {
    values.iter().position(|v| !(-LARGEST..=LARGEST).contains(v)).map(|at| (at, values[at]))
}

/// What is wrong with value `at` of a tensor.
pub(crate) fn unusable(name: &str, shape: &[usize], (at, value): (usize, f32)) -> String {
    format!(
        "tensor {name}: value {at} of shape {shape:?} is {value}; a weight is a number from -{LARGEST:e} to {LARGEST:e}"
    )
}
