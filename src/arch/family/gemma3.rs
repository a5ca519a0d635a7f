//! Gemma 3 (text): norms before and after each branch, 1 + weight as their gain, local blocks with a rope of their own.
//! Defaults: transformers' `Gemma3TextConfig`.

use super::common::{PLAIN, attentions, set_windows, sizes, sliding, window};
use super::gemma2::{self, AFTER, Caps, gemma};
use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows, Within};
use crate::arch::layer::QkNorm;
use crate::arch::shape::Arch;
use crate::{Error, Result};

pub(super) const FAMILY: Family = Family {
    name: "Gemma 3 (text)",
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    peculiar: "norms before and after each branch, gains 1 + weight, QK-norm, windows with a rope of their own",
    whole: Some("gemma3"),
    pad_token_id: Some(0),
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    defaults: Defaults {
        vocab_size: 262_208,
        max_position_embeddings: 131_072,
        rope_theta: 1e6,
        ..gemma2::FAMILY.defaults
    },
    arch,
    gguf: Some(GgufFamily {
        architecture: "gemma3",
        norms_plus_one: true,
        names: AFTER,
        windows: Windows::Periodic { period: 6, window: 1024, within: Within::Own(10000.0) },
        biases: &[("attention_bias", "self_attn.q_proj")],
        scaled_by_width: Some(62),
        ..GGUF
    }),
    ..PLAIN
};

fn arch(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let (mut arch, attention) = sizes(keys, family)?;
    let theta = keys.number("rope_theta")?.unwrap_or(family.defaults.rope_theta);
    let local = keys.number("rope_local_base_freq")?.unwrap_or(10000.0);
    arch.ropes = rope::by_type(keys, attention.head_dim, arch.max_position_embeddings, [theta, local])?;
    gemma(keys, &mut arch, Caps::default())?;
    let layers = arch.layers.len();
    let slides = match sliding(keys, layers)? {
        Some(slides) => slides,
        None => match keys.size("sliding_window_pattern")?.unwrap_or(6) {
            0 => return Err(Error::Input("sliding_window_pattern is 0; expected 1 or more".into())),
            n => (1..=layers).map(|i| i % n != 0).collect(),
        },
    };
    for (attention, slides) in attentions(&mut arch).zip(&slides) {
        attention.rope = Some(usize::from(*slides));
        attention.qk_norm = Some(QkNorm::Heads);
        // The configuration may have attn_logit_softcapping, but transformers' class does not apply it.
        attention.score_cap = None;
    }
    let window = window(keys, Some(4096))?;
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}
