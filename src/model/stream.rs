//! The residual stream between the branches of the blocks.

use crate::Result;
use crate::gpu::{Recorder, Tensor};
use crate::kernels::rows;

/// The residual stream between two blocks: x + delta `[T, D]`, which the next norm adds up. It is held divided by the
/// architecture's `residual_scale`, as `held_embedding_scale` says.
pub(crate) struct Stream {
    /// The stream before the last branch.
    pub(crate) x: Tensor,
    /// What the last branch adds; None before the first.
    pub(crate) delta: Option<Tensor>,
}

impl From<Tensor> for Stream {
    fn from(x: Tensor) -> Stream {
        Stream { x, delta: None }
    }
}

impl Stream {
    /// The rows of the stream that `list` names, in its order.
    pub(crate) fn gather(&self, rec: &mut Recorder, list: &Tensor) -> Result<Stream> {
        let gpu = rec.gpu();
        let empty = || gpu.empty(list.cols(), self.x.cols());
        let picked = Stream { x: empty()?, delta: self.delta.as_ref().map(|_| empty()).transpose()? };
        rows::gather(rec, &self.x, list, &picked.x)?;
        if let (Some(from), Some(to)) = (&self.delta, &picked.delta) {
            rows::gather(rec, from, list, to)?;
        }
        Ok(picked)
    }
}
