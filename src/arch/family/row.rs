//! What tells a family from the others: one row of plain data, in the family's own file.

use super::keys::Keys;
use crate::Result;
use crate::arch::{Arch, Naming};

/// A family: a `model_type`, what its class takes for granted, and how files hold it. No code outside the family's file
/// asks for its name; what differs is a field here.
pub struct Family {
    /// What people call it.
    pub name: &'static str,
    /// config.json's `model_type`.
    pub model_type: &'static str,
    /// The class that `architectures` names.
    pub class: &'static str,
    /// What tells it from Llama, in a few words.
    pub peculiar: &'static str,
    /// The `model_type` of a whole of which this is the text part, beside towers that are not read.
    pub(super) whole: Option<&'static str>,
    /// Whether such a whole ties its output matrix to the embedding where nothing says it.
    pub(super) whole_ties: bool,
    /// `pad_token_id` where the key is missing.
    pub(super) pad_token_id: Option<u32>,
    /// The key of the gate's activation, and its value where it is missing.
    pub(crate) activation: (&'static str, &'static str),
    /// What files call the matrices of a block, and which of these are one.
    pub(super) naming: Naming,
    /// The key of what the norms add to the mean square.
    pub(crate) eps: &'static str,
    /// Whether rotary embedding may leave channels of a head as they are.
    pub(crate) turns_part: bool,
    /// Whether tokenizer.json is taken as it is, since the tokenizer's class that folders of this family name is known
    /// to be wrong.
    pub(crate) tokenizer_as_written: bool,
    /// What the class takes for a missing key.
    pub(crate) defaults: Defaults,
    /// The rope parameters of a configuration that has none, where they are more than the base of [`Defaults`].
    pub(crate) usual_rope: Option<fn() -> serde_json::Value>,
    /// The shape that a configuration of this family means.
    pub(super) arch: fn(&Keys<'_>, &Family) -> Result<Arch>,
    /// How GGUF files hold it; None where they are neither read nor written.
    pub(crate) gguf: Option<GgufFamily>,
}

impl Family {
    /// The `general.architecture` of GGUF files that hold it, None where they are neither read nor written.
    pub fn gguf_architecture(&self) -> Option<&'static str> {
        self.gguf.as_ref().map(|known| known.architecture)
    }
}

/// What the configuration classes of the families disagree on when a key is missing.
pub(crate) struct Defaults {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) rms_norm_eps: f64,
    pub(super) tie_word_embeddings: bool,
    pub(crate) rope_theta: f64,
    pub(super) original_max_position_embeddings: Option<usize>,
}

/// How GGUF files hold a family, and what llama.cpp's converter does to its values.
pub(crate) struct GgufFamily {
    /// `general.architecture`; families that share one differ in their windows.
    pub(crate) architecture: &'static str,
    /// Whether the two halves of each head of q and k alternate in the file.
    pub(crate) interleaved: bool,
    /// Whether norm weights are stored as w + 1, but for those of gated norms.
    pub(crate) norms_plus_one: bool,
    /// Parts of a block, or of the whole, whose names differ from the usual ones, GGUF's first.
    pub(crate) names: &'static [(&'static str, &'static str)],
    /// How the file says which blocks see how far.
    pub(crate) windows: Windows,
    /// config.json's keys that say whether there is a bias, each with a module of the blocks that then has one.
    pub(crate) biases: &'static [(&'static str, &'static str)],
    /// Whether the divisors of LongRoPE's frequencies are two tensors, for short and for long sequences.
    pub(crate) two_ropes: bool,
    /// Where config.json has a scale of the queries (`query_pre_attn_scalar`) and the file has none: llama.cpp's graph
    /// takes head_dim, but in the model of this many blocks hidden_size / heads.
    pub(crate) scaled_by_width: Option<usize>,
    /// config.json's keys of factors, each with the file's key.
    pub(crate) multipliers: &'static [(&'static str, &'static str)],
    /// A matrix that the file holds as two, and the names of these: the upper half of its rows is the first.
    pub(crate) halves: Option<(&'static str, [&'static str; 2])>,
    /// llama.cpp's graph turns no queries and keys in every n-th block, if in some; else in all.
    pub(crate) still: Option<usize>,
    /// The soft caps of scores and of logits that llama.cpp's graph has where the file does not say them; None where it
    /// has none.
    pub(crate) caps: Option<[f64; 2]>,
    /// Whether the file may say that queries grow with their position, and by which factor YaRN's growth of q and k is
    /// divided.
    pub(crate) grows: bool,
    /// How many blocks the model has (llama.cpp calls it 70B) whose values, where heads share them, get more bits in
    /// mixtures of quantised types.
    pub(crate) few_values: Option<usize>,
    /// Tensors of a block whose names have another ending here than there, GGUF's first.
    pub(crate) endings: &'static [(&'static str, &'static str)],
    /// Whether blocks without attention are gated delta nets.
    pub(crate) nets: bool,
    /// Whether blocks without key heads are short convolutions.
    pub(crate) convolves: bool,
    /// Whether the weights of experts are probabilities among those chosen, in llama.cpp's graph; None where there are
    /// no experts.
    pub(crate) experts: Option<bool>,
    /// config.json's keys of the number of experts and of their width.
    pub(crate) expert_keys: [&'static str; 2],
    /// Whether YaRN's ramp begins and ends at whole channels (`truncate`), of which the file says nothing.
    pub(crate) ramp_is_cut: bool,
}

/// How a GGUF file says which blocks see how far.
pub(crate) enum Windows {
    /// The file cannot say it: every block sees everything.
    Never,
    /// One window for all blocks.
    Every {
        /// Whether the key stands there, as 0, where there is no window: without it older versions of llama.cpp guess
        /// one.
        always: bool,
    },
    /// Every n-th block sees everything, the others a window.
    Periodic {
        /// n, where the file does not say it.
        period: usize,
        /// Positions of the window, where the file does not say it.
        window: usize,
        /// How queries and keys turn within windows.
        within: Within,
    },
}

/// How queries and keys turn in blocks with a window, in llama.cpp's graph.
#[derive(Clone, Copy)]
pub(crate) enum Within {
    /// As in the other blocks.
    Alike,
    /// By a base of their own, and this one where the file does not say it.
    Own(f64),
    /// By the base of the other blocks, but not scaled.
    Unscaled,
}

/// A file that names its tensors as llama.cpp usually does and changes no value.
pub(super) const GGUF: GgufFamily = GgufFamily {
    architecture: "",
    interleaved: false,
    norms_plus_one: false,
    names: &[],
    windows: Windows::Never,
    biases: &[],
    two_ropes: false,
    scaled_by_width: None,
    multipliers: &[],
    halves: None,
    still: None,
    caps: None,
    grows: false,
    few_values: None,
    endings: &[],
    nets: false,
    convolves: false,
    experts: None,
    expert_keys: ["num_experts", "moe_intermediate_size"],
    ramp_is_cut: true,
};
