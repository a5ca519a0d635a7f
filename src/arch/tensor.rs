//! Named tensors on the host, and which values a weight may have.

/// One named parameter on the host, in Hugging Face's name, shape and row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The parameter's name in Hugging Face's files.
    pub name: String,
    /// The shape: `[out, in]` of a matrix, `[n]` of a vector.
    pub shape: Vec<usize>,
    /// The values, row after row.
    pub data: Vec<f32>,
}

/// The largest absolute value that a weight may have. Weights of trained models stay below some thousands; beyond this
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
