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
    /// Softmax attention to the positions before.
    Attention(Attention),
}

/// Softmax attention: its heads, what it sees and how it knows positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// H: query heads.
    pub heads: usize,
    /// KV: key and value heads; H is a multiple of it.
    pub kv_heads: usize,
    /// Channels of one head; need not be D / H.
    pub head_dim: usize,
    /// A position sees only this many positions back, itself included.
    pub window: Option<usize>,
    /// Which of [`super::Arch::ropes`] turns queries and keys; None in a block without positions.
    pub rope: Option<usize>,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub o_bias: bool,
    /// RMSNorm on each head of q and k before the rotation (Qwen 3, Gemma 3).
    pub qk_norm: bool,
    /// Factor on the scores, head_dim^-0.5 if None.
    pub query_scale: Option<f32>,
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// The stream, before the mixer and before the MLP reads it.
    Before,
    /// There, and the output of each branch before it joins the stream (Gemma 3).
    BeforeAndAfter,
}

/// What works on each position by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Mlp {
    /// down(act(gate(x)) · up(x))
    Gated(Gated),
}

/// A gated MLP (GLU variants, arXiv 2002.05202).
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// F: width of gate and up.
    pub width: usize,
    /// The gate's activation.
    pub activation: Activation,
    /// Bias on gate, up and down.
    pub bias: bool,
}

/// The gate's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x)
    Silu,
    /// GELU in its tanh form (`gelu_pytorch_tanh`; arXiv 1606.08415, section 2).
    GeluTanh,
}
