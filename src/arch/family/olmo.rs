//! OLMo 2 and 3: norms behind the branches, QK-norm over all heads; OLMo 3 has windows in three blocks of four, within
//! which the rope is not scaled. Defaults: transformers' `Olmo2Config` and `Olmo3Config`.

use super::common::{LLAMA, PLAIN, attentions, common, set_biases, set_windows, sizes, sliding, window};
use super::keys::Keys;
use super::rope;
use super::row::{Defaults, Family, GGUF, GgufFamily, Windows, Within};
use crate::Result;
use crate::arch::layer::{Norms, QkNorm};
use crate::arch::shape::Arch;

pub(super) const OLMO_2: Family = Family {
    name: "OLMo 2",
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    peculiar: "norms behind the branches alone, QK-norm over all heads",
    pad_token_id: Some(1),
    defaults: Defaults { vocab_size: 50304, rms_norm_eps: 1e-5, ..LLAMA },
    arch: olmo_2,
    gguf: Some(FILES),
    ..PLAIN
};

pub(super) const OLMO_3: Family = Family {
    name: "OLMo 3",
    model_type: "olmo3",
    class: "Olmo3ForCausalLM",
    peculiar: "OLMo 2 with windows, whose rope is not scaled",
    defaults: Defaults { rope_theta: 500_000.0, ..OLMO_2.defaults },
    arch: olmo_3,
    gguf: Some(GgufFamily {
        windows: Windows::Periodic { period: 4, window: 4096, within: Within::Unscaled },
        ..FILES
    }),
    ..OLMO_2
};

// The file of an OLMo 3 is one of OLMo 2 with a window.
const FILES: GgufFamily = GgufFamily {
    architecture: "olmo2",
    names: &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")],
    biases: &[("attention_bias", "self_attn.q_proj")],
    ..GGUF
};

fn olmo_2(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let mut arch = common(keys, family)?;
    set_norms(keys, &mut arch)?;
    Ok(arch)
}

fn olmo_3(keys: &Keys<'_>, family: &Family) -> Result<Arch> {
    let (mut arch, attention) = sizes(keys, family)?;
    // transformers gives a base that stands beside the parameters to the blocks without a window alone.
    let usual = family.defaults.rope_theta;
    let thetas = [keys.number("rope_theta")?.unwrap_or(usual), usual];
    arch.ropes = rope::by_type(keys, attention.head_dim, arch.max_position_embeddings, thetas)?;
    set_norms(keys, &mut arch)?;
    let layers = arch.layers.len();
    let slides = sliding(keys, layers)?.unwrap_or_else(|| (1..=layers).map(|i| i % 4 != 0).collect());
    for (attention, slides) in attentions(&mut arch).zip(&slides) {
        attention.rope = Some(usize::from(*slides));
    }
    let window = window(keys, Some(4096))?;
    set_windows(&mut arch, &slides, window)?;
    Ok(arch)
}

fn set_norms(keys: &Keys<'_>, arch: &mut Arch) -> Result<()> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    set_biases(arch, [bias, bias, false]);
    attentions(arch).for_each(|attention| attention.qk_norm = Some(QkNorm::Whole));
    arch.layers.iter_mut().for_each(|layer| layer.norms = Norms::After);
    Ok(())
}
