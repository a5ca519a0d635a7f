//! Log-probs of given text, without generating.

use super::Model;
use crate::gpu::Gpu;
use crate::{Observer, Result};

/// A prompt with the continuations whose tokens are to be scored; the prompt is computed once.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Token ids, not empty.
    pub prompt: Vec<u32>,
    /// Token ids of each continuation.
    pub completions: Vec<Vec<u32>>,
}

/// Log-probs `[branch][completion][token]`: each completion token given the prompt and what precedes it.
///
/// # Errors
/// Empty prompts or completions, ids outside the vocabulary, more tokens than the context; GPU errors.
pub fn logps(_gpu: &Gpu, _model: &Model, _branches: &[Branch], _observer: &dyn Observer) -> Result<Vec<Vec<Vec<f32>>>> {
    Err(crate::Error::Device("not built yet".into()))
}
