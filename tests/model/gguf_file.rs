//! GGUF files made for tests: keys and tensors, true or lying.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use selfreward::arch::{NamedTensor, family};
use serde_json::{Value, json};

pub(crate) fn config() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 11, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "eos_token_id": 2
    })
}

/// Every parameter of a configuration, with values that all differ.
pub(crate) fn tensors(config: &Value) -> Vec<NamedTensor> {
    let mut next = 0;
    family::parameters(&family::arch(config).unwrap())
        .into_iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            let data = (next..next + n).map(|i| i as f32 / 64.0).collect();
            next += n;
            NamedTensor { name, shape, data }
        })
        .collect()
}

/// A GGUF file written by the rules of its specification, with the offsets that `lie` makes of the true ones.
pub(crate) struct GgufFile {
    pub(crate) head: Vec<u8>,
    pub(crate) entries: u64,
    pub(crate) tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl GgufFile {
    pub(crate) fn text(out: &mut Vec<u8>, s: &str) {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    }

    pub(crate) fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        Self::text(&mut self.head, key);
        self.head.extend(kind.to_le_bytes());
        self.head.extend(value);
        self.entries += 1;
    }

    pub(crate) fn strings(&mut self, key: &str, values: &[&str]) {
        let mut bytes = 8u32.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| Self::text(&mut bytes, value));
        self.entry(key, 9, &bytes);
    }

    /// A list of numbers of four bytes each.
    pub(crate) fn list(&mut self, key: &str, kind: u32, values: &[i32]) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.entry(key, 9, &bytes);
    }

    pub(crate) fn string(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        Self::text(&mut bytes, value);
        self.entry(key, 8, &bytes);
    }

    /// The model of [`config`]: q and k interleaved as llama.cpp does, down_proj in Q8_0.
    pub(crate) fn tiny() -> Self {
        let mut file = Self::of(&tensors(&config()));
        file.string("tokenizer.ggml.model", "gpt2");
        file.string("tokenizer.ggml.pre", "smollm");
        file.strings("tokenizer.ggml.tokens", &["a", "b", "ab", "Ġ", "1"]);
        file.strings("tokenizer.ggml.merges", &["a b"]);
        // The end of an answer is cut out of a text before anything is joined, so it is no part of a merge.
        file.entry("tokenizer.ggml.eos_token_id", 4, &4u32.to_le_bytes());
        file
    }

    /// These parameters of a model without tokens.
    pub(crate) fn of(tensors: &[NamedTensor]) -> Self {
        let mut file = GgufFile { head: Vec::new(), entries: 0, tensors: Vec::new() };
        file.string("general.architecture", "llama");
        for (key, n) in [
            ("block_count", 1u32),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            file.entry(&format!("llama.{key}"), 4, &n.to_le_bytes());
        }
        file.entry("llama.attention.layer_norm_rms_epsilon", 6, &1e-6f32.to_le_bytes());
        for tensor in tensors {
            let name = match tensor.name.as_str() {
                "model.embed_tokens.weight" => "token_embd.weight".into(),
                "model.norm.weight" => "output_norm.weight".into(),
                inner => inner
                    .replace("model.layers.", "blk.")
                    .replace("self_attn.o_proj", "attn_output")
                    .replace("self_attn.", "attn_")
                    .replace("mlp.", "ffn_")
                    .replace("_proj", "")
                    .replace("input_layernorm", "attn_norm")
                    .replace("post_attention_layernorm", "ffn_norm"),
            };
            let mut data = tensor.data.clone();
            let heads = if name.contains("attn_q.") { 4 } else { 2 };
            if name.contains("attn_q.") || name.contains("attn_k.") {
                let (rows, width) = (tensor.shape[0], 32);
                let half = rows / heads / 2;
                for row in 0..rows {
                    let (head, at) = (row / (2 * half), row % (2 * half));
                    let from = head * 2 * half + at % 2 * half + at / 2;
                    data[row * width..][..width].copy_from_slice(&tensor.data[from * width..][..width]);
                }
            }
            let shape = tensor.shape.iter().rev().map(|d| *d as u64).collect();
            if name.contains("ffn_down") {
                let block = |row: &[f32]| {
                    let mut bytes = vec![0x00, 0x3c];
                    bytes.extend(row.iter().map(|v| (v * 64.0) as i64 as u8));
                    bytes
                };
                file.tensors.push((name, shape, 8, data.chunks(32).flat_map(block).collect()));
            } else {
                file.tensors.push((name, shape, 0, data.iter().flat_map(|v| v.to_le_bytes()).collect()));
            }
        }
        file
    }

    pub(crate) fn bytes(&self, lie: impl Fn(usize, u64) -> u64) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(&self.head);
        let mut offset = 0u64;
        for (i, (name, shape, kind, data)) in self.tensors.iter().enumerate() {
            Self::text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(lie(i, offset).to_le_bytes());
            offset += (data.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(data);
        }
        out
    }
}

pub(crate) fn truth(_: usize, offset: u64) -> u64 {
    offset
}
