//! In which type a GGUF file stores each tensor: one for all matrices, or one of llama.cpp's mixtures.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::arch::family::GgufFamily;
use crate::arch::{Arch, Dtype};

/// The number formats of a GGUF file that is written: which [`Dtype`] each matrix gets. Vectors are always in F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufTypes {
    /// All matrices in one type.
    Each(Dtype),
    /// Q4_K, and Q6_K for the output matrix and about half of the matrices that suffer most: what llama.cpp calls
    /// Q4_K_M.
    Q4KM,
    /// The mixture of [`GgufTypes::Q4KM`] with Q5_K in place of Q4_K: what llama.cpp calls Q5_K_M.
    Q5KM,
}

impl GgufTypes {
    /// What a model can be quantised to, fewest bits first.
    pub const QUANTISED: [GgufTypes; 10] = [
        GgufTypes::Each(Dtype::Q4_0),
        GgufTypes::Each(Dtype::Q4_1),
        GgufTypes::Each(Dtype::Q4K),
        GgufTypes::Q4KM,
        GgufTypes::Each(Dtype::Q5_0),
        GgufTypes::Each(Dtype::Q5_1),
        GgufTypes::Each(Dtype::Q5K),
        GgufTypes::Q5KM,
        GgufTypes::Each(Dtype::Q6K),
        GgufTypes::Each(Dtype::Q8_0),
    ];

    /// The type of most matrices.
    pub fn most(self) -> Dtype {
        match self {
            GgufTypes::Each(dtype) => dtype,
            GgufTypes::Q4KM => Dtype::Q4K,
            GgufTypes::Q5KM => Dtype::Q5K,
        }
    }

    /// The name in capitals, such as `Q4_0` or `Q4_K_M`.
    pub fn name(self) -> Cow<'static, str> {
        match self {
            GgufTypes::Each(dtype) => dtype.name().into(),
            mixed => format!("{}_M", mixed.most()).into(),
        }
    }

    /// The number that `general.file_type` has for it; `None` for what is not written.
    pub(super) fn number(self) -> Option<usize> {
        Some(match self {
            GgufTypes::Q4KM => 15,
            GgufTypes::Q5KM => 17,
            GgufTypes::Each(dtype) => match dtype {
                Dtype::F32 => 0,
                Dtype::F16 => 1,
                Dtype::Q4_0 => 2,
                Dtype::Q4_1 => 3,
                Dtype::Q8_0 => 7,
                Dtype::Q5_0 => 8,
                Dtype::Q5_1 => 9,
                Dtype::Q4K => 14,
                Dtype::Q5K => 16,
                Dtype::Q6K => 18,
                Dtype::BF16 => 32,
                Dtype::Q2K | Dtype::Q3K | Dtype::Iq4Nl | Dtype::Mxfp4 => return None,
            },
        })
    }

    /// The type that the matrix of this GGUF name should have.
    pub(super) fn wanted(self, name: &str, arch: &Arch, known: &GgufFamily) -> Dtype {
        let most = self.most();
        // llama.cpp leaves routers as they are.
        if name.ends_with(".ffn_gate_inp.weight") {
            return Dtype::F32;
        }
        if matches!(self, GgufTypes::Each(_)) {
            return most;
        }
        if name == "output.weight" || name == "token_embd.weight" && arch.tie_word_embeddings {
            return Dtype::Q6K;
        }
        let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((block, part)) = block.and_then(|(n, part)| Some((n.parse::<usize>().ok()?, part))) else {
            return most;
        };
        let blocks = arch.layers.len();
        let values = matches!(part, "attn_v.weight" | "attn_qkv.weight");
        if (values || matches!(part, "ffn_down.weight" | "ffn_down_exps.weight")) && more_bits(block, blocks) {
            Dtype::Q6K
        } else if values && most == Dtype::Q4K && has_few_values(arch, known) {
            Dtype::Q5K
        } else {
            most
        }
    }
}

/// llama.cpp's choice of the blocks that get more bits: the first and the last eighth, and of the others every third.
fn more_bits(block: usize, blocks: usize) -> bool {
    let eighth = blocks / 8;
    block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2
}

/// Whether this is the model of the family whose values are few.
fn has_few_values(arch: &Arch, known: &GgufFamily) -> bool {
    known.few_values == Some(arch.layers.len()) && arch.alike().is_ok_and(|alike| alike.heads != alike.kv_heads)
}

/// The type that rows of this width take in place of one whose blocks do not fit: llama.cpp's.
pub(super) fn fitting(wanted: Dtype, width: usize) -> Dtype {
    let fits = |dtype: Dtype| width.is_multiple_of(dtype.block().0);
    let smaller = match wanted {
        Dtype::Q4K => Dtype::Q5_0,
        Dtype::Q5K => Dtype::Q5_1,
        Dtype::Q6K => Dtype::Q8_0,
        other => other,
    };
    [wanted, smaller].into_iter().find(|dtype| fits(*dtype)).unwrap_or(Dtype::F16)
}

/// What a GGUF file was written with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufWritten {
    /// How many tensors have each type, by its name.
    pub types: BTreeMap<&'static str, usize>,
    /// Matrices whose rows are no multiple of the block of the type that they should have.
    pub instead: Vec<Instead>,
    /// Sentences worth telling the user.
    pub notes: Vec<String>,
}

/// Matrices that were stored in another type.
#[derive(Clone, Debug, PartialEq)]
pub struct Instead {
    /// The type that does not fit.
    pub wanted: Dtype,
    /// The type in its place.
    pub stored: Dtype,
    /// How many matrices there are.
    pub count: usize,
    /// The first one's name in the file.
    pub first: String,
    /// The length of its rows.
    pub width: usize,
}

impl GgufWritten {
    /// Counts a tensor.
    pub(super) fn count(&mut self, name: &str, width: usize, wanted: Dtype, stored: Dtype) {
        *self.types.entry(stored.name()).or_default() += 1;
        if wanted == stored {
            return;
        }
        match self.instead.iter_mut().find(|known| (known.wanted, known.stored) == (wanted, stored)) {
            Some(known) => known.count += 1,
            None => self.instead.push(Instead { wanted, stored, count: 1, first: name.into(), width }),
        }
    }
}

impl std::fmt::Display for Instead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Instead { wanted, stored, count, first, width } = self;
        let (block, tensors) = (wanted.block().0, if *count == 1 { "tensor is" } else { "tensors are" });
        write!(
            f,
            "{count} {tensors} {stored} instead of {wanted}, which takes rows of a multiple of {block}; the first is \
             {first}, with rows of {width}"
        )
    }
}

/// Fewest values that are worth a thread of their own.
const WORTH_A_THREAD: usize = 1 << 16;

/// Encodes by as many threads as there are cores, each a run of whole blocks.
pub(super) fn encode(dtype: Dtype, values: &[f32]) -> std::result::Result<Vec<u8>, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(values.len() / WORTH_A_THREAD);
    if threads < 2 {
        return dtype.encode(values);
    }
    let run = values.len().div_ceil(threads).next_multiple_of(dtype.block().0);
    std::thread::scope(|scope| {
        let runs: Vec<_> = values.chunks(run).map(|run| scope.spawn(move || dtype.encode(run))).collect();
        let mut bytes = Vec::new();
        for run in runs {
            bytes.extend(run.join().map_err(|_| "a thread that quantised it ended early".to_owned())??);
        }
        Ok(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::family;

    fn arch(blocks: usize, tied: bool, heads: usize) -> Arch {
        family::arch(&serde_json::json!({
            "model_type": "llama", "num_hidden_layers": blocks, "tie_word_embeddings": tied, "hidden_size": 256,
            "num_attention_heads": heads, "num_key_value_heads": 4
        }))
        .unwrap()
    }

    // The choices of llama-quant.cpp for 32 blocks, where i / 8 is 4 and 7 i / 8 is 28.
    #[test]
    fn mixtures_are_llama_cpps() {
        let more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        let known = family::of("llama").unwrap().gguf.as_ref().unwrap();
        let of = |types: GgufTypes, name: &str| types.wanted(name, &arch(32, false, 8), known);
        for block in 0..32 {
            let want = if more.contains(&block) { Dtype::Q6K } else { Dtype::Q4K };
            for part in ["attn_v", "attn_qkv", "ffn_down"] {
                assert_eq!(of(GgufTypes::Q4KM, &format!("blk.{block}.{part}.weight")), want, "{block} {part}");
            }
            assert_eq!(of(GgufTypes::Q5KM, &format!("blk.{block}.ffn_up.weight")), Dtype::Q5K);
            assert_eq!(of(GgufTypes::Each(Dtype::Q4K), &format!("blk.{block}.attn_v.weight")), Dtype::Q4K);
        }
        assert_eq!(of(GgufTypes::Q5KM, "output.weight"), Dtype::Q6K);
        assert_eq!(of(GgufTypes::Q5KM, "token_embd.weight"), Dtype::Q5K);
        assert_eq!(GgufTypes::Q4KM.wanted("token_embd.weight", &arch(32, true, 8), known), Dtype::Q6K);
        // Of 80 blocks with shared values, none has less than 5 bits.
        for (heads, want) in [(8, Dtype::Q5K), (4, Dtype::Q4K)] {
            assert_eq!(GgufTypes::Q4KM.wanted("blk.10.attn_v.weight", &arch(80, false, heads), known), want);
            assert_eq!(GgufTypes::Q4KM.wanted("blk.12.attn_v.weight", &arch(80, false, heads), known), Dtype::Q6K);
        }
    }

    #[test]
    fn rows_that_do_not_fit_take_another_type() {
        for (wanted, width, want) in [
            (Dtype::Q4K, 512, Dtype::Q4K),
            (Dtype::Q4K, 576, Dtype::Q5_0),
            (Dtype::Q5K, 576, Dtype::Q5_1),
            (Dtype::Q6K, 576, Dtype::Q8_0),
            (Dtype::Q6K, 48, Dtype::F16),
            (Dtype::Q4_0, 48, Dtype::F16),
            (Dtype::Q4_0, 32, Dtype::Q4_0),
            (Dtype::F32, 7, Dtype::F32),
        ] {
            assert_eq!(fitting(wanted, width), want, "{wanted} {width}");
        }
    }
}
