//! One block of the decoder as data: what mixes its positions, where its norms stand, what works on each position
//! alone.

/// A block of the decoder. Blocks of one model may differ in every part.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What carries information from position to position.
    pub mixer: Mixer,
    /// Where the block normalises.
    pub norms: Norms,
    /// What works on each position by itself.
    pub mlp: Mlp,
}

/// What carries information from position to position.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    /// Softmax attention to the positions before, and to the position itself.
    Attention(Attention),
    /// A gated convolution over the position itself and the few before it (LFM2).
    ShortConv(ShortConv),
    /// A gated delta net: a state that decays, and that each position updates and reads (Qwen3.5).
    DeltaNet(DeltaNet),
}

impl Mixer {
    /// The attention, if it is one.
    pub fn attention(&self) -> Option<&Attention> {
        match self {
            Mixer::Attention(attention) => Some(attention),
            Mixer::ShortConv(_) | Mixer::DeltaNet(_) => None,
        }
    }

    /// The convolution, if it is one.
    pub fn short_conv(&self) -> Option<&ShortConv> {
        match self {
            Mixer::ShortConv(conv) => Some(conv),
            Mixer::Attention(_) | Mixer::DeltaNet(_) => None,
        }
    }

    /// The module's name in a block of Hugging Face's.
    pub(crate) fn module(&self) -> &'static str {
        match self {
            Mixer::Attention(_) => "self_attn",
            Mixer::ShortConv(_) => "conv",
            Mixer::DeltaNet(_) => "linear_attn",
        }
    }
}

/// Most positions that a sum of a short convolution has.
pub const MOST_TAPS: usize = 8;

/// A gated short convolution (LFM2, arXiv 2511.23404): with b, c and x projected from the stream, c · conv(b · x),
/// where conv sums each channel by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConv {
    /// How many positions one sum has, itself included.
    pub taps: usize,
    /// Whether the projections and the convolution have a bias.
    pub bias: bool,
}

/// A gated delta net (arXiv 2412.06464): queries, keys and values go through a convolution; the state of each head of
/// values decays, and is updated by what the value differs from what the key reads of it; the query reads the state,
/// and what it reads is normalised under a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNet {
    /// Heads of queries and of keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of those of keys, which neighbours share.
    pub value_heads: usize,
    /// Channels of a head of queries or keys.
    pub key_dim: usize,
    /// Channels of a head of values.
    pub value_dim: usize,
    /// How many positions a sum of the convolution has, itself included.
    pub taps: usize,
}

/// Softmax attention: its heads, what it sees and how it knows positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// H, the number of query heads.
    pub heads: usize,
    /// KV, the number of key and value heads; H is a multiple of it.
    pub kv_heads: usize,
    /// The channels of one head; not necessarily D / H.
    pub head_dim: usize,
    /// How many positions back a position sees, itself included; all of them if None.
    pub window: Option<usize>,
    /// Which of [`super::Arch::ropes`] turns queries and keys; none does in a block without positions.
    pub rope: Option<usize>,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub o_bias: bool,
    /// How q and k are normalised before the rotation, by RMSNorm; not if None.
    pub qk_norm: Option<QkNorm>,
    /// The factor on the scores; head_dim^-0.5 if None.
    pub query_scale: Option<f32>,
    /// The scores' soft cap: they become cap · tanh(score / cap) (Gemma 2).
    pub score_cap: Option<f32>,
    /// How queries grow with their position, if they do.
    pub query_growth: Option<QueryGrowth>,
    /// Whether what a head reads is multiplied by the sigmoid of a gate, projected beside its query (Qwen3.5).
    pub output_gate: bool,
    /// Whether each head has a sink: a learned logit that joins the sum of its softmax and reads nothing (gpt-oss).
    /// Such heads have no norms of q and k.
    pub sinks: bool,
}

/// The factor on queries by their position: 1 + beta ln(1 + floor(position / span)) (Llama 4, Ministral 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryGrowth {
    /// The factor's slope.
    pub beta: f32,
    /// Positions of one step, at least 1.
    pub span: u32,
}

/// Over what the norms of q and of k go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head is normalised by itself, all heads with the same gains (Qwen 3, Gemma 3).
    Heads,
    /// All heads are normalised together (OLMo 2).
    Whole,
}

/// Where a block normalises, by RMSNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// The stream is normalised before the mixer and before the MLP reads it.
    Before,
    /// So it is, and the output of each branch is normalised before it joins the stream (Gemma 3).
    BeforeAndAfter,
    /// The stream is read as it is, and the output of each branch is normalised (OLMo 2). Such a model has no factor on
    /// what branches add.
    After,
}

/// What works on each position by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Mlp {
    /// A gated MLP computes down(act(gate(x)) · up(x)).
    Gated(Gated),
    /// Each position is worked on by some of many gated MLPs, which a router chooses.
    Experts(Experts),
}

impl Mlp {
    /// The gated MLP, if it is one alone.
    pub fn gated(&self) -> Option<&Gated> {
        match self {
            Mlp::Gated(gated) => Some(gated),
            Mlp::Experts(_) => None,
        }
    }

    /// The mixture of experts, if it is one.
    pub fn experts(&self) -> Option<&Experts> {
        match self {
            Mlp::Experts(experts) => Some(experts),
            Mlp::Gated(_) => None,
        }
    }

    /// F, the width of a gate in channels.
    pub fn width(&self) -> usize {
        match self {
            Mlp::Gated(gated) => gated.width,
            Mlp::Experts(experts) => experts.width,
        }
    }
}

/// A mixture of experts (arXiv 1701.06538): the sum of what some gated MLPs make of a position, weighed by a router's
/// softmax.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// E, the number of experts.
    pub count: usize,
    /// How many of them work on a position.
    pub chosen: usize,
    /// F, the width of an expert's gate and up in channels.
    pub width: usize,
    /// The gates' activation.
    pub activation: Activation,
    /// Whether an expert's weight is its probability among all experts, in place of among those chosen.
    pub of_all: bool,
    /// Whether the router, and each expert's gate, up and down, have a bias.
    pub bias: bool,
}

/// A gated MLP (GLU variants, arXiv 2002.05202).
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// F, the width of gate and up in channels.
    pub width: usize,
    /// The gate's activation.
    pub activation: Activation,
    /// Whether gate, up and down have a bias.
    pub bias: bool,
}

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The function x · sigmoid(x).
    Silu,
    /// GELU in its tanh form (`gelu_pytorch_tanh`; arXiv 1606.08415, section 2).
    GeluTanh,
    /// The function x · sigmoid(1.702 x) of a gate of at most 7; to up, kept from -7 to 7, 1 is added (gpt-oss).
    ClampedSwish,
}

impl Activation {
    /// Every one.
    pub const ALL: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, Activation::ClampedSwish];

    /// The activation that a configuration names.
    pub(crate) fn named(name: &str) -> Option<Activation> {
        match name {
            "silu" | "swish" => Some(Activation::Silu),
            "gelu_pytorch_tanh" => Some(Activation::GeluTanh),
            _ => None,
        }
    }
}
