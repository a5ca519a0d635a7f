//! PEFT's adapter folders: adapter_config.json and adapter_model.safetensors beside a base model, in and out.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::safetensors::write_safetensors;
use super::save;
use super::tensors::Weights;
use crate::arch::lora::{ALL_LINEAR, Adapter, LayerRules, LoraConfig, Modules};
use crate::arch::{Arch, Dtype, NamedTensor, first_unusable, unusable};
use crate::disk::OnDisk;
use crate::json::{read_json, write_json};
use crate::text::Text;
use crate::{Error, Result};

/// The file that makes a folder an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The file of an adapter's tensors.
pub(crate) const TENSORS: &str = "adapter_model.safetensors";
/// The file beside them that says by what the base is known again: `{"fingerprint": F}`. PEFT passes over it.
pub(crate) const BASE: &str = "adapter_base.json";
/// Files in which others keep an adapter's tensors, with the reason why they are not read.
const OTHERS: [(&str, &str); 2] = [
    ("adapter_model.bin", "is a pickle, which is not read, since it may hold programs"),
    ("adapter_model.safetensors.index.json", "puts the adapter's tensors into several files, which is not read"),
];
/// What helps where PEFT can do more.
const MERGE: &str = "merge it with PEFT (merge_and_unload, save_pretrained) and use what that writes";
/// Settings that change what is computed and are not built: they must be missing, null, false, 0 or empty.
const REFUSED: &[&str] = &[
    "modules_to_save",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "trainable_token_indices",
    "target_parameters",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
    "monteclora_config",
    "velora_config",
    "kasa_config",
];
/// Initialisations that leave the base's weights as they are.
const INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// The content of adapter_config.json, checked.
pub(crate) struct Peft {
    /// The base model as it is written: a folder or file, absolute or relative to the adapter, or a hub id.
    pub(crate) base: String,
    /// The revision of a hub id.
    pub(crate) revision: Option<String>,
    /// Whether the embedding's adapter is the output matrix's too, where they are one matrix.
    pub(crate) tying: bool,
    config: LoraConfig,
}

/// How a written adapter names its base.
pub(crate) struct Base {
    /// A hub id, or an absolute path.
    pub(crate) name: String,
    /// The revision of a hub id, where it is not the main one.
    pub(crate) revision: Option<String>,
    /// By what it is known again.
    pub(crate) fingerprint: String,
}

/// By what the base of the adapter in `folder` is known again, where the adapter says so.
pub(crate) fn fingerprint(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(BASE);
    if !path.is_there() {
        return Ok(None);
    }
    let document: Value = read_json(&path)?;
    Ok(document.get("fingerprint").and_then(Value::as_str).map(str::to_owned))
}

/// Reads `folder`'s adapter_config.json.
pub(crate) fn open(folder: &Path) -> Result<Peft> {
    let path = folder.join(CONFIG);
    let document: Value = read_json(&path)?;
    read(&document).map_err(|what| Error::file(&path, what))
}

pub(crate) fn read(document: &Value) -> std::result::Result<Peft, String> {
    let value = |key: &str| document.get(key).filter(|v| !v.is_null());
    let kind = value("peft_type").and_then(Value::as_str).unwrap_or_default();
    if kind != "LORA" {
        return Err(format!("peft_type is {kind:?}; only LORA adapters are read. If PEFT can, {MERGE}"));
    }
    for key in REFUSED {
        let off = |v: &Value| match v {
            Value::Bool(on) => !on,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        if let Some(v) = value(key).filter(|v| !off(v)) {
            return Err(format!("{key} is {v}, which is not supported; LoRA, rsLoRA and DoRA are. Else {MERGE}"));
        }
    }
    if let Some(bias) = value("bias").filter(|b| b.as_str() != Some("none")) {
        return Err(format!("bias is {bias}; only \"none\" is supported. Else {MERGE}"));
    }
    if let Some(init) = value("init_lora_weights")
        && !init.is_boolean()
        && !init.as_str().is_some_and(|i| INITS.contains(&i))
    {
        return Err(format!("init_lora_weights is {init}, beside which the base's weights may be others; {MERGE}"));
    }
    let rank = value("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok());
    let rank = rank.ok_or("r: expected a whole number")?;
    let alpha = value("lora_alpha").and_then(Value::as_f64).ok_or("lora_alpha: expected a number")? as f32;
    let flag = |key: &str| value(key).and_then(Value::as_bool).unwrap_or(false);
    let (rslora, dora, tying) = (flag("use_rslora"), flag("use_dora"), flag("ensure_weight_tying"));
    let dropout = value("lora_dropout").map_or(Some(0.0), Value::as_f64).filter(|p| (0.0..1.0).contains(p));
    let dropout = dropout.ok_or("lora_dropout: expected a number from 0 to below 1")? as f32;
    let targets = match value("target_modules") {
        Some(Value::String(all)) if all.eq_ignore_ascii_case(ALL_LINEAR) => Modules::Names(vec![ALL_LINEAR.into()]),
        Some(given) => modules(given).ok_or("target_modules: expected a list of names or a pattern")?,
        None => return Err("target_modules: expected a list of names or a pattern".into()),
    };
    let layers = layer_rules(document)?;
    if !matches!(value("target_modules"), Some(Value::Array(_))) && !layers.blocks.is_empty() {
        return Err("layers_to_transform goes with a list of target_modules, as in PEFT".into());
    }
    let text = |key: &str| value(key).and_then(Value::as_str).map(str::to_owned);
    let base = text("base_model_name_or_path").unwrap_or_default();
    let revision = text("revision");
    Ok(Peft { base, revision, tying, config: LoraConfig { rank, alpha, rslora, dora, dropout, targets, layers } })
}

/// A list of names, or a pattern.
fn modules(value: &Value) -> Option<Modules> {
    match value {
        Value::String(pattern) => Some(Modules::Pattern(pattern.clone())),
        names => texts(names).map(Modules::Names),
    }
}

fn texts(list: &Value) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// `{pattern: value}`, in the order of the file, which decides.
fn pattern<T>(value: &Value, one: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    value.as_object()?.iter().map(|(key, value)| Some((key.clone(), one(value)?))).collect()
}

fn layer_rules(document: &Value) -> std::result::Result<LayerRules, String> {
    let whole = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let value = |key: &str| document.get(key).filter(|v| !matches!(v, Value::Null) && v.as_str() != Some(""));
    fn take<T: Default>(
        value: Option<&Value>,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> std::result::Result<T, String> {
        value.map_or(Ok(T::default()), |v| read(v).ok_or_else(|| format!("{expected}, found {v}")))
    }
    let rules = LayerRules {
        exclude: take(value("exclude_modules"), "exclude_modules: expected a list of names or a pattern", |v| {
            modules(v).map(|m| Some(m).filter(|m| *m != Modules::Names(Vec::new())))
        })?,
        blocks: take(value("layers_to_transform"), "layers_to_transform: expected a number or a list of them", |v| {
            whole(v).map(|n| vec![n]).or_else(|| v.as_array()?.iter().map(whole).collect())
        })?,
        lists: take(value("layers_pattern"), "layers_pattern: expected a name or a list of names", |v| {
            v.as_str().map(|one| vec![one.to_owned()]).or_else(|| texts(v))
        })?,
        rank: take(value("rank_pattern"), "rank_pattern: expected whole numbers by pattern", |v| pattern(v, whole))?,
        alpha: take(value("alpha_pattern"), "alpha_pattern: expected numbers by pattern", |v| {
            pattern(v, |v| v.as_f64().map(|x| x as f32))
        })?,
    };
    if rules.blocks.is_empty() && !rules.lists.is_empty() {
        return Err("layers_pattern needs layers_to_transform".into());
    }
    Ok(rules)
}

impl Peft {
    /// The tensors, checked against the base.
    pub(crate) fn adapter(self, folder: &Path, arch: &Arch, base: &Weights) -> Result<Adapter> {
        if let Some(why) = save::why_removed(folder)? {
            return Err(Error::file(folder, format!("its weights {why}")));
        }
        let path = folder.join(TENSORS);
        if let Some((file, why)) = OTHERS.iter().find(|(file, _)| !path.is_there() && folder.join(file).is_there()) {
            let what = format!("{why}; load the adapter with PEFT and save it again, which writes {TENSORS}");
            return Err(Error::file(folder.join(file), what));
        }
        let mut config = self.config.with_known_names(arch);
        // PEFT writes the one adapter of both twice, under the names of each.
        if self.tying && arch.tie_word_embeddings {
            config =
                config.with_output().map_err(|e| Error::file(folder.join(CONFIG), e.to_string()))?.unwrap_or(config);
        }
        let wanted = Adapter::parameters(arch, &config).map_err(|e| Error::file(folder.join(CONFIG), e.to_string()))?;
        let weights = Weights::open_safetensors(&path)?;
        for name in weights.names().iter().filter(|n| !wanted.iter().any(|(w, _)| w == *n)) {
            match own_matrix(name) {
                Some(module) => same_matrix(&path, &weights, name, base, module)?,
                None => {
                    return Err(Error::file(&path, format!("tensor {name} is not one of the configuration's targets")));
                }
            }
        }
        let mut tensors = Vec::new();
        for (name, shape) in wanted {
            let view = weights.get(&name)?;
            if view.shape != shape.as_slice() {
                let what = format!(
                    "tensor {name} has shape {:?}, but beside this base its configuration asks for {shape:?}: is it \
                     another base's?",
                    view.shape
                );
                return Err(Error::file(&path, what));
            }
            let data = view.to_f32();
            if let Some(first) = first_unusable(&data) {
                return Err(Error::file(&path, unusable(&name, &shape, first)));
            }
            tensors.push(NamedTensor { name, shape, data });
        }
        Ok(Adapter { config, tensors })
    }
}

/// The module that a tensor's name means, if the tensor is a copy of that module's own matrix, as PEFT writes it beside
/// an adapter of the embedding or the output matrix.
fn own_matrix(name: &str) -> Option<&'static str> {
    ["model.embed_tokens", "lm_head"]
        .into_iter()
        .find(|module| name.strip_prefix("base_model.model.") == Some(&format!("{module}.base_layer.weight")))
}

/// Refuses a copy of a base's matrix that is another one.
fn same_matrix(path: &Path, weights: &Weights, name: &str, base: &Weights, module: &str) -> Result<()> {
    let (copy, own) = (weights.get(name)?, format!("{module}.weight"));
    let own = if base.contains(&own) { own } else { "model.embed_tokens.weight".to_owned() };
    let there = base.get(&own)?;
    if copy.shape != there.shape {
        let what = format!("tensor {name} has shape {:?}, but the base's {own} has {:?}", copy.shape, there.shape);
        return Err(Error::file(path, what + ": it is another base's"));
    }
    // A base in fewer bits has other values of the same matrix.
    if there.dtype == copy.dtype && there.to_f32() != copy.to_f32() {
        let what = format!("tensor {name} is not the base's {own}: the adapter is another base's");
        return Err(Error::file(path, what));
    }
    Ok(())
}

/// Writes a folder that PEFT loads, whole or not at all: the adapter's tensors in `dtype`, with the path and the
/// tokenizer of its base.
///
/// # Errors
/// A value is beyond the range of `dtype`; errors of the file system.
pub(crate) fn save_adapter(
    folder: &Path,
    base: &Base,
    text: Option<&Text>,
    adapter: &Adapter,
    dtype: Dtype,
) -> Result<()> {
    let c = &adapter.config;
    let mut entries: Map<String, Value> = [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("base_model_name_or_path", json!(base.name)),
        ("revision", json!(base.revision)),
        ("r", json!(c.rank)),
        ("lora_alpha", json!(c.alpha)),
        // As short as an f32 can be told, not its digits as an f64.
        ("lora_dropout", json!(c.dropout.to_string().parse::<f64>().unwrap_or_default())),
        ("use_rslora", json!(c.rslora)),
        ("use_dora", json!(c.dora)),
        ("target_modules", written(&c.targets)),
        ("bias", json!("none")),
        ("inference_mode", json!(true)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let mut set = |key: &str, empty: bool, value: Value| {
        if !empty {
            entries.insert(key.to_owned(), value);
        }
    };
    let LayerRules { exclude, blocks, lists, rank, alpha } = &c.layers;
    set("exclude_modules", exclude.is_none(), exclude.as_ref().map_or(Value::Null, written));
    set("layers_to_transform", blocks.is_empty(), json!(blocks));
    set("layers_pattern", lists.is_empty(), json!(lists));
    set("rank_pattern", rank.is_empty(), rank.iter().map(|(key, r)| (key.clone(), json!(r))).collect());
    set("alpha_pattern", alpha.is_empty(), alpha.iter().map(|(key, a)| (key.clone(), json!(a))).collect());
    save::replace_folder(folder, |folder| {
        write_json(&folder.join(CONFIG), &Value::Object(entries))?;
        write_json(&folder.join(BASE), &json!({"fingerprint": base.fingerprint}))?;
        if let Some(text) = text {
            save::write_text(folder, text)?;
        }
        write_safetensors(&folder.join(TENSORS), &adapter.tensors, dtype)
    })
}

fn written(modules: &Modules) -> Value {
    match modules {
        Modules::Names(names) if names.as_slice() == [ALL_LINEAR] => json!(ALL_LINEAR),
        Modules::Names(names) => json!(names),
        Modules::Pattern(pattern) => json!(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: Value) -> Value {
        let mut all = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
            "base_model_name_or_path": "."});
        for (key, value) in changes.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    }

    #[test]
    fn rules_for_layers_are_read_in_their_order() {
        let layers = |changes: Value| read(&config(changes)).ok().unwrap().config.layers;
        let none =
            json!({"exclude_modules": [], "layers_to_transform": null, "layers_pattern": "", "rank_pattern": {}});
        assert_eq!(layers(none), LayerRules::default());
        let all = layers(json!({
            "exclude_modules": ".*mlp.*", "layers_to_transform": 0, "layers_pattern": "layers",
            "rank_pattern": {"v_proj": 8, "a": 2}, "alpha_pattern": {"q_proj": 1.5}
        }));
        let want = LayerRules {
            exclude: Some(Modules::Pattern(".*mlp.*".into())),
            blocks: vec![0],
            lists: vec!["layers".into()],
            rank: vec![("v_proj".into(), 8), ("a".into(), 2)],
            alpha: vec![("q_proj".into(), 1.5)],
        };
        assert_eq!(all, want);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let plain = json!({"use_dora": false, "rank_pattern": {}, "modules_to_save": null, "init_lora_weights": true});
        assert_eq!(read(&config(plain)).ok().unwrap().config.rank, 4);
        for (changes, word) in [
            (json!({"use_qalora": true}), "use_qalora"),
            (json!({"rank_pattern": {"q_proj": "2"}}), "rank_pattern"),
            (json!({"alpha_pattern": [2]}), "alpha_pattern"),
            (json!({"layers_pattern": "layers"}), "layers_to_transform"),
            (json!({"layers_to_transform": [-1]}), "layers_to_transform"),
            (json!({"layers_to_transform": 0, "target_modules": ".*"}), "list of target_modules"),
            (json!({"exclude_modules": 3}), "exclude_modules"),
            (json!({"layer_replication": [[0, 1]]}), "layer_replication"),
            (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
            (json!({"bias": "all"}), "bias"),
            (json!({"bias": "lora_only"}), "merge_and_unload"),
            (json!({"lora_bias": true}), "lora_bias"),
            (json!({"trainable_token_indices": [3]}), "trainable_token_indices"),
            (json!({"target_parameters": ["mlp.experts.up_proj"]}), "target_parameters"),
            (json!({"peft_type": "PREFIX_TUNING"}), "PREFIX_TUNING"),
            (json!({"init_lora_weights": "pissa"}), "init_lora_weights"),
            (json!({"target_modules": 1}), "pattern"),
            (json!({"peft_type": "IA3"}), "IA3"),
            (json!({"r": -1}), "r:"),
            (json!({"lora_dropout": 1.0}), "lora_dropout"),
        ] {
            let error = read(&config(changes)).err().unwrap();
            assert!(error.contains(word), "{error}");
        }
    }
}
