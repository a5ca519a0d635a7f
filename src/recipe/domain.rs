//! What a loop works on, apart from its model: how new prompts are asked for and checked, how answers are read.

use crate::Result;
use crate::generate::Output;
use crate::gpu::Gpu;
use crate::model::Model;
use crate::rng::Stream;
use crate::text::Language;
use crate::text::Prompt;
use std::path::Path;

/// Real text models and the small world differ in this only.
pub trait Domain {
    /// The model's text.
    fn language(&self) -> &dyn Language;

    /// Context in which the model answers a prompt, which may be a conversation.
    ///
    /// # Errors
    /// Text that cannot be encoded; a conversation that the model's template refuses.
    fn ask(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        self.language().ask(&prompt.question())
    }

    /// Prompts that a round may take as they are; empty where all prompts are made up.
    fn seed_prompts(&self) -> &[String];

    /// A random example from the seed data, for few-shot self-instruct.
    ///
    /// # Errors
    /// There are none.
    fn seed_shot(&self, rng: &mut Stream) -> Result<String>;

    /// Context after which the model writes one new prompt like `shots`.
    ///
    /// # Errors
    /// Text that cannot be encoded.
    fn invitation(&self, shots: &[String]) -> Result<Vec<u32>>;

    /// Ids that end a new prompt.
    ///
    /// # Errors
    /// Text that cannot be encoded.
    fn invitation_stop(&self) -> Result<Vec<u32>>;

    /// What the model wrote after an invitation, and the new prompt in it or the reason why there is none (as counted
    /// in the metrics).
    ///
    /// # Errors
    /// Ids that cannot be decoded.
    fn new_prompt(&self, output: &Output) -> Result<(String, std::result::Result<String, String>)>;

    /// Text and ids (as trained on) of a generated answer.
    ///
    /// # Errors
    /// Ids that cannot be decoded.
    fn response(&self, output: &Output) -> Result<(String, Vec<u32>)>;

    /// A model folder's weights in f32 on the GPU, ready for generation and training.
    ///
    /// # Errors
    /// A missing or broken file; out of memory.
    fn load_model(&self, gpu: &Gpu, dir: &Path) -> Result<Model>;

    /// Writes a model folder.
    ///
    /// # Errors
    /// The folder cannot be written; GPU errors.
    fn save_model(&self, gpu: &Gpu, dir: &Path, model: &Model) -> Result<()>;
}
