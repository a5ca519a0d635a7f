//! The moments of AdamW, in f32 or in 8 bits.

use crate::gpu::{Gpu, Tensor};
use crate::kernels::adamw::shape8;
use crate::kernels::weight::Weight;
use crate::model::params;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The optimiser of a training, named as in configurations and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OptimiserKind {
    /// AdamW with its moments in f32, 8 bytes a parameter.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// AdamW with its moments in 8 bits and a scale for 64 of them (arXiv 2110.02861), 2.1 bytes a parameter. The
    /// moments of vectors stay in f32.
    #[serde(rename = "adamw8bit")]
    AdamW8bit,
}

/// One moment of a parameter.
pub(super) enum Moment {
    F32(Weight),
    /// A tensor of [`shape8`] for each block of columns.
    Bits8(Vec<Tensor>),
}

impl Moment {
    /// A moment of a parameter with the gradient `grad`, all zeros.
    pub(super) fn zeros(gpu: &Gpu, kind: OptimiserKind, grad: &Weight) -> Result<Moment> {
        if kind == OptimiserKind::AdamW || !params::is_matrix(grad) {
            return grad.zeros_like(gpu).map(Moment::F32);
        }
        let zeros = |(_, block): (usize, &Tensor)| {
            let [rows, cols] = shape8(block.rows(), block.cols());
            gpu.zeros(rows, cols)
        };
        Ok(Moment::Bits8(grad.tensors()?.into_iter().map(zeros).collect::<Result<_>>()?))
    }

    pub(super) fn tensors(&self) -> Result<Vec<&Tensor>> {
        match self {
            Moment::F32(weight) => Ok(weight.tensors()?.into_iter().map(|(_, t)| t).collect()),
            Moment::Bits8(blocks) => Ok(blocks.iter().collect()),
        }
    }

    /// The moment in f32; an error if it is kept in 8 bits.
    pub(super) fn weight(&self) -> Result<&Weight> {
        match self {
            Moment::F32(weight) => Ok(weight),
            Moment::Bits8(_) => Err(Error::Bug("a moment in 8 bits has no name of its own".into())),
        }
    }
}
