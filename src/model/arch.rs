//! What a decoder is made of. One `Arch` parameterises the one decoder; a family file reads it from config.json.

/// Rotary position embedding (RoFormer, arXiv 2104.09864, in the half-split form of Llama).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle per position of each rotated pair, `[head_dim / 2]`; pair i is channels i and i + head_dim / 2.
    pub inv_freq: Vec<f32>,
    /// Factor on the rotated q and k (1 but for yarn and longrope).
    pub scaling: f32,
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
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub o_bias: bool,
    /// Bias on gate, up and down.
    pub mlp_bias: bool,
    /// RMSNorm on each head of q and k before the rotation (Qwen3).
    pub qk_norm: bool,
    /// A position sees only this many positions back, itself included.
    pub sliding_window: Option<usize>,
}
