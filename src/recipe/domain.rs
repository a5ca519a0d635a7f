//! What a loop works on, apart from its model: how new prompts are asked for and checked, and how answers are read.

use crate::Result;
use crate::generate::Output;
use crate::gpu::Gpu;
use crate::judge::Checks;
use crate::model::Model;
use crate::rng::Stream;
use crate::source::ModelSource;
use crate::text::Language;
use crate::text::Prompt;
use std::path::Path;

/// That in which real text models and the small world differ for the loop.
pub trait Domain {
    /// The tokenizer and templates of the loop's models.
    fn language(&self) -> &dyn Language;

    /// The token ids of the context in which the model answers a prompt, which may be a conversation.
    ///
    /// # Errors
    /// The text cannot be encoded, or the model's template refuses the conversation.
    fn ask(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        self.language().ask(&prompt.question())
    }

    /// Prompts that a round may take as they are; empty if all prompts are made up.
    fn seed_prompts(&self) -> &[String];

    /// By what answers to each of these prompts can be checked; empty if nothing is known of any.
    fn seed_checks(&self) -> &[Checks] {
        &[]
    }

    /// A random example from the seed data, for few-shot self-instruct.
    ///
    /// # Errors
    /// There are no seed data.
    fn seed_shot(&self, rng: &mut Stream) -> Result<String>;

    /// The token ids of the context after which the model writes one new prompt like `shots`.
    ///
    /// # Errors
    /// The text cannot be encoded.
    fn invitation(&self, shots: &[String]) -> Result<Vec<u32>>;

    /// The token ids each of which ends a new prompt.
    ///
    /// # Errors
    /// The text cannot be encoded.
    fn invitation_stop(&self) -> Result<Vec<u32>>;

    /// The text that the model wrote after an invitation, with the new prompt in it or the reason why there is none, by
    /// which the metrics count it.
    ///
    /// # Errors
    /// The ids cannot be decoded.
    fn new_prompt(&self, output: &Output) -> Result<(String, std::result::Result<String, String>)>;

    /// The text of a generated answer, and its token ids as they are trained on.
    ///
    /// # Errors
    /// The ids cannot be decoded.
    fn response(&self, output: &Output) -> Result<(String, Vec<u32>)>;

    /// Loads a model folder of the loop onto the GPU, ready for generation and training.
    ///
    /// # Errors
    /// A file is missing or broken, or the GPU's memory does not suffice.
    fn load_model(&self, gpu: &Gpu, dir: &Path) -> Result<Model>;

    /// Loads a model from outside the loop onto the GPU, ready for generation.
    ///
    /// # Errors
    /// As [`Domain::load_model`].
    fn load_other(&self, gpu: &Gpu, source: &ModelSource) -> Result<Model> {
        Model::load(gpu, source)
    }

    /// A loaded model as its training begins, with a fresh adapter if the loop trains adapters and it has none.
    ///
    /// # Errors
    /// The GPU's memory does not suffice.
    fn trainable(&self, _gpu: &Gpu, model: Model, _seed: u64) -> Result<Model> {
        Ok(model)
    }

    /// Writes a model folder.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    fn save_model(&self, gpu: &Gpu, dir: &Path, model: &Model) -> Result<()>;
}
