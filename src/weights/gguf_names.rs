//! Which tensor of a GGUF file is which of Hugging Face's, and what llama.cpp's converter does to its values. One
//! table, read in both directions; where a family differs from it, its row says how.

use crate::arch::family::GgufFamily;

const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

const PARTS: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
];

/// Matrices of all experts, which lie one behind the other; so do their biases.
const STACKS: [(&str, &str); 3] =
    [("ffn_gate_exps", "gate_proj"), ("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")];

impl GgufFamily {
    /// The Hugging Face name of a GGUF tensor, `None` for what has none (`rope_freqs.weight`).
    pub(super) fn hugging_face(&self, name: &str) -> Option<String> {
        if let Some((_, own)) = self.names.iter().find(|(stored, own)| is_whole(own) && is_weight(name, stored)) {
            return Some(format!("{own}.weight"));
        }
        if let Some((_, whole)) = WHOLE.iter().find(|(stored, _)| *stored == name) {
            return Some((*whole).into());
        }
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        layer.parse::<u32>().ok()?;
        if let Some((_, own)) = self.endings.iter().find(|(stored, _)| *stored == part) {
            return Some(format!("model.layers.{layer}.{own}"));
        }
        let (part, kind) = part.rsplit_once('.')?;
        let (_, part) = self.names.iter().chain(&PARTS).find(|(stored, _)| *stored == part)?;
        Some(format!("model.layers.{layer}.{part}.{kind}"))
    }

    /// The reverse of [`GgufFamily::hugging_face`].
    pub(super) fn stored(&self, name: &str) -> Option<String> {
        if let Some((stored, _)) = self.names.iter().find(|(_, own)| is_whole(own) && is_weight(name, own)) {
            return Some(format!("{stored}.weight"));
        }
        if let Some((whole, _)) = WHOLE.iter().find(|(_, hugging_face)| *hugging_face == name) {
            return Some((*whole).into());
        }
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        if let Some((stored, _)) = self.endings.iter().find(|(_, own)| *own == part) {
            return Some(format!("blk.{layer}.{stored}"));
        }
        let (part, kind) = part.rsplit_once('.')?;
        let (part, _) = self.names.iter().chain(&PARTS).find(|(_, hugging_face)| *hugging_face == part)?;
        Some(format!("blk.{layer}.{part}.{kind}"))
    }

    /// The two names under which a matrix is stored by halves, the upper one first.
    pub(super) fn stored_halves(&self, name: &str) -> Option<[String; 2]> {
        let (whole, halves) = self.halves?;
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        (part == whole).then(|| halves.map(|half| format!("blk.{layer}.{half}.{kind}")))
    }

    /// The number of the block, and the part of an expert (its matrix or bias) that a stack of them holds.
    pub(super) fn stack(&self, name: &str) -> Option<(u32, String)> {
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let (_, own) = STACKS.iter().filter(|_| self.experts.is_some()).find(|(stored, _)| *stored == part)?;
        Some((layer.parse().ok()?, format!("{own}.{kind}")))
    }

    /// The name of the stack that holds an expert's part (Hugging Face's name), and the expert's number.
    pub(super) fn stacked(&self, name: &str) -> Option<(String, usize)> {
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once(".mlp.experts.")?;
        let (number, part) = part.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let (stored, _) = STACKS.iter().filter(|_| self.experts.is_some()).find(|(_, own)| *own == part)?;
        Some((format!("blk.{layer}.{stored}.{kind}"), number.parse().ok()?))
    }

    /// Whether the rows of this tensor (Hugging Face's name) alternate between the halves of each head.
    pub(super) fn is_interleaved(&self, name: &str) -> bool {
        self.interleaved && (name.contains(".q_proj.") || name.contains(".k_proj."))
    }

    /// Whether this tensor (Hugging Face's name) is stored with 1 added.
    pub(super) fn is_plus_one(&self, name: &str) -> bool {
        self.norms_plus_one && name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight")
    }
}

/// Whether a tensor (Hugging Face's name) holds the factors of a convolution, whose middle dimension of 1 the file
/// leaves out.
pub(super) fn is_convolution(name: &str) -> bool {
    name.ends_with("conv.conv.weight") || name.ends_with("linear_attn.conv1d.weight")
}

/// Whether a module belongs to no block.
fn is_whole(module: &str) -> bool {
    module.starts_with("model.")
}

/// Whether a tensor is the weight of a module.
fn is_weight(name: &str, module: &str) -> bool {
    name.strip_suffix(".weight") == Some(module)
}

/// The name that an expert's part has by itself.
pub(super) fn of_expert(layer: u32, expert: usize, part: &str) -> String {
    format!("model.layers.{layer}.mlp.experts.{expert}.{part}")
}

/// Puts rows that alternate between the halves of each head (2i, 2i + 1) back into Hugging Face's order (i, i + hd /
/// 2). Works on stored rows, so quantised ones stay as they are.
pub(super) fn hugging_face_rows(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let (row, head_dim) = (data.len() / rows.max(1), rows / heads.max(1));
    for head in 0..heads {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let from = (head * head_dim + 2 * i + half) * row;
                out.extend_from_slice(&data[from..from + row]);
            }
        }
    }
    out
}

/// The reverse of [`hugging_face_rows`], for values.
pub(super) fn gguf_rows(data: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    let (row, head_dim) = (data.len() / rows.max(1), rows / heads.max(1));
    for head in 0..heads {
        for i in 0..head_dim {
            let from = (head * head_dim + i % 2 * (head_dim / 2) + i / 2) * row;
            out.extend_from_slice(&data[from..from + row]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::family;

    fn gguf(model_type: &str) -> &'static GgufFamily {
        family::of(model_type).unwrap().gguf.as_ref().unwrap()
    }

    #[test]
    fn names_are_hugging_faces() {
        for (model_type, stored, want) in [
            ("llama", "token_embd.weight", Some("model.embed_tokens.weight")),
            ("qwen2", "blk.11.attn_q.bias", Some("model.layers.11.self_attn.q_proj.bias")),
            ("llama", "blk.0.ffn_down.weight", Some("model.layers.0.mlp.down_proj.weight")),
            ("qwen3", "blk.0.attn_k_norm.weight", Some("model.layers.0.self_attn.k_norm.weight")),
            ("llama", "blk.0.ffn_norm.weight", Some("model.layers.0.post_attention_layernorm.weight")),
            ("gemma3_text", "blk.0.ffn_norm.weight", Some("model.layers.0.pre_feedforward_layernorm.weight")),
            ("gemma3_text", "blk.0.post_ffw_norm.weight", Some("model.layers.0.post_feedforward_layernorm.weight")),
            ("phi3", "blk.3.ffn_up.weight", Some("model.layers.3.mlp.gate_up_proj.weight")),
            ("phi3", "blk.3.attn_qkv.weight", Some("model.layers.3.self_attn.qkv_proj.weight")),
            ("lfm2", "token_embd_norm.weight", Some("model.embedding_norm.weight")),
            ("lfm2", "blk.1.shortconv.conv.weight", Some("model.layers.1.conv.conv.weight")),
            (
                "qwen3_5_text",
                "blk.0.post_attention_norm.weight",
                Some("model.layers.0.post_attention_layernorm.weight"),
            ),
            ("qwen3_5_text", "blk.2.ssm_a", Some("model.layers.2.linear_attn.A_log")),
            ("qwen3_5_text", "blk.2.ssm_dt.bias", Some("model.layers.2.linear_attn.dt_bias")),
            ("qwen3_5_text", "blk.2.ssm_alpha.weight", Some("model.layers.2.linear_attn.in_proj_a.weight")),
            ("qwen3_5_text", "blk.2.attn_gate.weight", Some("model.layers.2.linear_attn.in_proj_z.weight")),
            ("llama", "blk.2.ssm_a", None),
            ("lfm2", "blk.1.ffn_down.weight", Some("model.layers.1.feed_forward.w2.weight")),
            ("gpt_oss", "blk.2.attn_sinks.weight", Some("model.layers.2.self_attn.sinks")),
            ("gpt_oss", "blk.2.ffn_gate_inp.bias", Some("model.layers.2.mlp.router.bias")),
            ("gpt_oss", "blk.2.post_attention_norm.weight", Some("model.layers.2.post_attention_layernorm.weight")),
            ("llama", "blk.x.ffn_down.weight", None),
            ("llama", "blk.0.weight", None),
            ("llama", "rope_freqs.weight", None),
        ] {
            let got = gguf(model_type).hugging_face(stored);
            assert_eq!(got.as_deref(), want, "{stored}");
            if let Some(name) = got {
                assert_eq!(gguf(model_type).stored(&name).as_deref(), Some(stored));
            }
        }
    }

    #[test]
    fn rows_of_each_head_are_put_back() {
        // Two heads of four rows, two bytes a row; the halves of a head alternate in the file.
        let stored: Vec<u8> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|&row| [row, row + 100]).collect();
        let want: Vec<u8> = (0..8).flat_map(|row| [row, row + 100]).collect();
        assert_eq!(hugging_face_rows(&stored, 8, 2), want);
        let values = |bytes: &[u8]| bytes.iter().map(|b| f32::from(*b)).collect::<Vec<_>>();
        assert_eq!(gguf_rows(&values(&want), 8, 2), values(&stored));
    }
}
