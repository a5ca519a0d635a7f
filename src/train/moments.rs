//! The moments of AdamW, in f32 or in 8 bits.

use crate::gpu::{Gpu, Tensor};
use crate::kernels::adamw::shape8;
use crate::kernels::weight::Weight;
use crate::model::params;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// In which type the optimiser keeps its moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentType {
    /// f32, 8 bytes a parameter.
    #[default]
    #[serde(rename = "adamw")]
    F32,
    /// 8 bits with a scale for 64 of them (arXiv 2110.02861), 2.1 bytes a parameter; those of vectors stay in f32.
    #[serde(rename = "adamw8bit")]
    Bits8,
}

/// One moment of a parameter.
pub(super) enum Moment {
    F32(Weight),
    /// A tensor of [`shape8`] for each block of columns.
    Bits8(Vec<Tensor>),
}

impl Moment {
    /// Of a parameter with the gradient `grad`, all zeros.
    pub(super) fn zeros(gpu: &Gpu, kind: MomentType, grad: &Weight) -> Result<Moment> {
        if kind == MomentType::F32 || !params::is_matrix(grad) {
            return grad.zeros_like(gpu).map(Moment::F32);
        }
        let zeros = |(_, block): (usize, &Tensor)| {
            let [rows, cols] = shape8(block.rows, block.cols);
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

    /// The f32 form.
    pub(super) fn weight(&self) -> Result<&Weight> {
        match self {
            Moment::F32(weight) => Ok(weight),
            Moment::Bits8(_) => Err(Error::Input("a moment in 8 bits has no name of its own".into())),
        }
    }
}
