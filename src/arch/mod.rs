//! What a model is, as plain data: the shape of its decoder, its named tensors, its adapter, the formats of its numbers. One `Arch`
//! parameterises the one decoder; a family file reads it from config.json.

mod dtype;
pub mod family;
pub mod lora;
mod lora_layers;
mod tensor;

pub use dtype::Dtype;
pub(crate) use tensor::unusable;
pub use tensor::{LARGEST, NamedTensor, first_unusable};

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x)
    Silu,
    /// GELU in its tanh form (`gelu_pytorch_tanh`; arXiv 1606.08415, section 2).
    GeluTanh,
}

/// Rotary position embedding (RoFormer, arXiv 2104.09864, in the half-split form of Llama).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle per position of each rotated pair, `[n]`; pair i is channels i and i + n, those from 2n on do not turn.
    pub inv_freq: Vec<f32>,
    /// Factor on the rotated q and k (1 but for yarn and longrope).
    pub scaling: f32,
    /// How the angles depend on the sequence's length.
    pub stretch: Stretch,
}

/// What long sequences change about the angles. The length that counts is that of the longest path of a tree, and for
/// generation prompt + max_new_tokens, so that no other sequence of a batch changes a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Stretch {
    /// Nothing.
    Never,
    /// LongRoPE (arXiv 2402.13753): other frequencies beyond the context of the first training.
    Long {
        /// The longest sequence that turns by `Rope::inv_freq`.
        original: usize,
        /// The others' frequencies.
        inv_freq: Vec<f32>,
    },
    /// NTK-aware scaling by length: the base grows with what goes beyond the context.
    Dynamic {
        /// `rope_theta`
        theta: f64,
        /// `factor`
        factor: f32,
        /// The longest sequence that turns by `Rope::inv_freq`.
        original: usize,
    },
}

/// What one block's attention sees and how it knows positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// A position sees only this many positions back, itself included.
    pub window: Option<usize>,
    /// Which of `Arch::ropes`; None in a layer without positions.
    pub rope: Option<usize>,
}

/// The shape of a decoder. Field names are config.json's own keys where it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    /// config.json's `model_type`: which family's weight names apply.
    pub model_type: String,
    /// V: rows of the embedding and width of the logits.
    pub vocab_size: usize,
    /// D: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the MLP.
    pub intermediate_size: usize,
    /// L: number of blocks.
    pub num_hidden_layers: usize,
    /// H: query heads.
    pub num_attention_heads: usize,
    /// KV: key and value heads; H is a multiple of it.
    pub num_key_value_heads: usize,
    /// Channels of one head; need not be D / H.
    pub head_dim: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// The rotary embeddings that `layers` choose from.
    pub ropes: Vec<Rope>,
    /// Each block's attention, `[L]`.
    pub layers: Vec<Layer>,
    /// The token whose embedding transformers does not train: its lookup gives no gradient (`padding_idx` of torch's Embedding).
    pub pad_token_id: Option<u32>,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub o_bias: bool,
    /// Bias on gate, up and down.
    pub mlp_bias: bool,
    /// RMSNorm on each head of q and k before the rotation (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Norms multiply by 1 + weight (Gemma).
    pub norm_plus_one: bool,
    /// A norm on the output of attention and of the MLP before it joins the residual stream (Gemma 3).
    pub post_norms: bool,
    /// The gate's activation.
    pub activation: Activation,
    /// Factor on the embedding.
    pub embedding_scale: f32,
    /// Factor on the scores, head_dim^-0.5 if None.
    pub query_scale: Option<f32>,
    /// q, k and v in one named matrix, gate and up in another (Phi 3).
    pub fused: bool,
}

impl Arch {
    /// The longest sequence that is computed, in tokens: `max_position_embeddings`, stretched where the angles are.
    pub fn context(&self) -> usize {
        let stretched = |r: &Rope| match r.stretch {
            Stretch::Dynamic { factor, original, .. } => (f64::from(factor) * original as f64) as usize,
            _ => 0,
        };
        self.ropes.iter().map(stretched).fold(self.max_position_embeddings, usize::max)
    }
}
