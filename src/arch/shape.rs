//! The shape of a whole decoder: what its blocks share, and the list of the blocks.

use super::layer::{Layer, QueryGrowth};
use crate::{Error, Result};

/// Rotary position embedding (RoFormer, arXiv 2104.09864, in the half-split form of Llama).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The angle per position of each rotated pair, `[n]`. Pair i is the channels i and i + n; those from 2n on do not
    /// turn.
    pub inv_freq: Vec<f32>,
    /// The factor on the rotated q and k; 1 but for yarn and longrope.
    pub scaling: f32,
    /// How the angles depend on the length of the sequence.
    pub stretch: Stretch,
}

/// What long sequences change about the angles. The length that counts is that of the longest path of a tree, and for
/// generation prompt + max_new_tokens, so that no other sequence of a batch changes a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Stretch {
    /// The length changes nothing.
    Never,
    /// LongRoPE (arXiv 2402.13753): sequences beyond the context of the first training turn by other frequencies.
    Long {
        /// The longest sequence, in tokens, that turns by `Rope::inv_freq`.
        original: usize,
        /// The angle per position of each rotated pair in longer sequences, `[n]`.
        inv_freq: Vec<f32>,
    },
    /// NTK-aware scaling: the base of the frequencies grows with the length beyond the context.
    Dynamic {
        /// The base of the frequencies, config.json's `rope_theta`.
        theta: f64,
        /// The factor by which the context is stretched, config.json's `factor`.
        factor: f32,
        /// The longest sequence, in tokens, that turns by `Rope::inv_freq`.
        original: usize,
    },
}

/// The shape of a decoder: what all blocks share, and what each block is. Field names are config.json's own keys where
/// it has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    /// config.json's `model_type`: the family's row in [`super::family::FAMILIES`].
    pub model_type: String,
    /// V, the number of tokens: rows of the embedding and width of the logits.
    pub vocab_size: usize,
    /// D, the width of the residual stream in channels.
    pub hidden_size: usize,
    /// The longest sequence that the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The number that every RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Whether norms multiply by 1 + weight (Gemma) instead of the weight.
    pub norm_plus_one: bool,
    /// The factor on the embedding's rows.
    pub embedding_scale: f32,
    /// The factor on what each branch adds to the residual stream (Granite), above 0.
    pub residual_scale: f32,
    /// The factor on the logits (Granite).
    pub logits_scale: f32,
    /// The logits' soft cap: they become cap · tanh(logit / cap) (Gemma 2).
    pub logit_cap: Option<f32>,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// The token whose embedding transformers does not train: its lookup gives no gradient (`padding_idx` of torch's
    /// Embedding).
    pub pad_token_id: Option<u32>,
    /// The weight of the routers' auxiliary loss in training where nobody says otherwise: config.json's
    /// `router_aux_loss_coef` if `output_router_logits` is true, else 0.
    pub router_aux_loss_coef: f32,
    /// The rotary embeddings that the blocks choose from.
    pub ropes: Vec<Rope>,
    /// The blocks, `[L]`.
    pub layers: Vec<Layer>,
    /// What files call the matrices of a block, and which of these are one.
    pub naming: Naming,
}

/// What files call the matrices of a block, and which of these are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Each is a tensor of its own.
    Apart,
    /// One matrix is q, k and v, another gate and up (Phi 3).
    Fused,
    /// Gate and up are one matrix, and the MLP is called the shared one (Granite 4.0).
    Shared,
    /// Each is a tensor of its own, and these modules have other names than Llama's, which stand first.
    Renamed(&'static [(&'static str, &'static str)]),
    /// The matrices of all experts are one tensor, turned, with gates and ups by turns, and so are their biases; the
    /// router is called one (gpt-oss).
    Stacked,
}

impl Naming {
    /// The modules with other names than Llama's, which stand first.
    pub(crate) fn renamed(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Naming::Renamed(names) => names,
            Naming::Stacked => &[("mlp.gate", "mlp.router")],
            Naming::Apart | Naming::Fused | Naming::Shared => &[],
        }
    }
}

/// Sizes that all blocks of a model have alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// H, the number of query heads.
    pub heads: usize,
    /// KV, the number of key and value heads.
    pub kv_heads: usize,
    /// The channels of one head.
    pub head_dim: usize,
    /// The factor on the scores; head_dim^-0.5 if None.
    pub query_scale: Option<f32>,
    /// The scores' soft cap.
    pub score_cap: Option<f32>,
    /// How queries grow with their position.
    pub query_growth: Option<QueryGrowth>,
    /// F, the width of the MLP, or of an expert, in channels.
    pub width: usize,
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

    /// Whether a block remembers of a sequence what is in no page: the past of its convolution.
    pub fn has_past(&self) -> bool {
        self.layers.iter().any(|layer| layer.mixer.attention().is_none())
    }

    /// The factor on the embedding's rows in the residual stream as it is held: divided by `residual_scale`, so that a
    /// branch adds what it gives. Norms of the stream forget the divisor, as long as their eps is [`Arch::held_eps`].
    pub(crate) fn held_embedding_scale(&self) -> f32 {
        self.embedding_scale / self.residual_scale
    }

    /// The number that a norm of the residual stream as it is held adds to the mean square.
    pub(crate) fn held_eps(&self) -> f32 {
        self.rms_norm_eps / (self.residual_scale * self.residual_scale)
    }

    /// The sizes of a block with attention, for whoever can say one number for all of them.
    ///
    /// # Errors
    /// A model without such blocks, or blocks that differ in these sizes: the message says which and how.
    pub fn alike(&self) -> Result<Alike> {
        let of = |layer: &Layer| {
            let a = layer.mixer.attention()?;
            let (heads, kv_heads, head_dim) = (a.heads, a.kv_heads, a.head_dim);
            let (query_scale, score_cap, query_growth) = (a.query_scale, a.score_cap, a.query_growth);
            Some(Alike { heads, kv_heads, head_dim, query_scale, score_cap, query_growth, width: layer.mlp.width() })
        };
        let all: Vec<Alike> = self.layers.iter().filter_map(of).collect();
        let first = *all.first().ok_or_else(|| Error::Input("a model without attention".into()))?;
        match all.iter().position(|other| *other != first) {
            None => Ok(first),
            Some(i) => Err(Error::Input(format!(
                "blocks differ where one size is expected for all of them: block 0 has {first:?}, block {i} {:?}",
                all[i]
            ))),
        }
    }
}
