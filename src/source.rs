//! A model as the user names it: a Hugging Face folder, a GGUF file, or the newest model of a run.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::arch::lora::Adapter;
use crate::arch::{Arch, Dtype, NamedTensor, family, first_unusable, unusable};
use crate::hub::{Hub, HubId};
use crate::text::Text;
use crate::weights::peft::{self, Peft};
use crate::weights::{ModelParts, Weights, gguf_model, gguf_tokenizer, safetensors, save};
use crate::{Error, Observer, Result};

/// In place of a model: `{"path": P}` points to the real one; a relative P starts at the folder that holds this file.
pub const SOURCE_FILE: &str = "source.json";
/// A pointer to a pointer to … ends here.
const MAX_POINTERS: usize = 8;
/// The embedding's name.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// The output matrix's name.
const OUTPUT: &str = "lm_head.weight";

/// A model on disk, checked: every parameter of `arch` is there with its shape.
#[derive(Debug)]
pub struct ModelSource {
    /// The folder or file the model was found in.
    pub path: PathBuf,
    /// Its shape.
    pub arch: Arch,
    /// config.json, or what it would be.
    pub config: Value,
    /// generation_config.json.
    pub generation_config: Option<Value>,
    /// The tensors.
    pub weights: Weights,
    /// A PEFT folder's adapter; `path` and `weights` are then its base's.
    pub adapter: Option<Adapter>,
    /// Tokenizer and chat template; a folder may have none.
    pub text: Option<Text>,
    /// Token ids that end an answer: generation_config's, else config's, and the template's end of turn.
    pub stop_ids: Vec<u32>,
    /// Sentences worth telling the user.
    pub warnings: Vec<String>,
}

impl ModelSource {
    /// Opens a Hugging Face folder, a `.gguf` file, a PEFT adapter with its base, or a run folder (its newest finished
    /// model). A name that nothing on disk has may be a hub id ([`crate::hub::HubId`]) whose model is in the cache.
    /// Weights stay on disk until they are asked for.
    ///
    /// # Errors
    /// Nothing there, files that are missing, truncated or contradict one another, an unknown architecture.
    pub fn open(path: &Path) -> Result<ModelSource> {
        open(path, None)
    }

    /// The same, fetching what is a hub id and not in the cache; the observer is told.
    ///
    /// # Errors
    /// Those, and those of [`crate::hub::Hub::pull`].
    pub fn open_or_fetch(path: &Path, observer: &dyn Observer) -> Result<ModelSource> {
        open(path, Some(observer))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// The model has none.
    pub fn text(&self) -> Result<&Text> {
        self.text
            .as_ref()
            .ok_or_else(|| Error::file(&self.path, "has no tokenizer.json, so text cannot be used with it"))
    }

    /// All parameters in the family's order, dequantised to f32; an adapter is merged into them.
    ///
    /// # Errors
    /// A value that is NaN, infinite or too large, by tensor and position; an unsupported storage type.
    pub fn tensors_f32(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = self.base_f32()?;
        if let Some(adapter) = &self.adapter {
            adapter.merge(&mut tensors)?;
        }
        Ok(tensors)
    }

    /// The same of the base alone.
    pub(crate) fn base_f32(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        for (name, shape) in family::parameters(&self.arch) {
            let data = self.weights.get(&name)?.to_f32();
            if let Some(first) = first_unusable(&data) {
                let path = self.weights.file_of(&name).unwrap_or(&self.path);
                return Err(Error::file(path, unusable(&name, &shape, first)));
            }
            tensors.push(NamedTensor { name, shape, data });
        }
        Ok(tensors)
    }

    fn checked(mut self) -> Result<ModelSource> {
        let parameters = family::parameters(&self.arch);
        for (name, want) in &parameters {
            match self.weights.shape(name) {
                Some(found) if found == want.as_slice() => {}
                Some(found) => {
                    let what = format!("tensor {name} has shape {found:?}, the configuration asks for {want:?}");
                    return Err(Error::file(self.weights.file_of(name).unwrap_or(&self.path), what));
                }
                None => {
                    let what = format!("tensor {name} {want:?}, which the configuration asks for, is missing");
                    return Err(Error::file(&self.path, what));
                }
            }
        }
        let expected: std::collections::HashSet<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let mut unused = Vec::new();
        for name in self.weights.names() {
            if expected.contains(name.as_str()) || name.ends_with(".rotary_emb.inv_freq") {
                continue;
            }
            // Computing without a tensor of a block would silently be another model.
            if name.starts_with("model.layers.") {
                let what =
                    format!("tensor {name} has no place in the configuration ({} layers)", self.arch.num_hidden_layers);
                return Err(Error::file(self.weights.file_of(name).unwrap_or(&self.path), what));
            }
            if name == OUTPUT {
                self.warnings.push(format!(
                    "{}: holds {OUTPUT} though tie_word_embeddings is true; {EMBEDDING} is used for both",
                    self.path.display()
                ));
            } else {
                unused.push(name.as_str());
            }
        }
        if let Some(first) = unused.first() {
            let more = unused.len();
            self.warnings.push(format!("{}: {more} tensors are not used, the first is {first}", self.path.display()));
        }
        if let Some(text) = &self.text
            && text.vocab_size() > self.arch.vocab_size
        {
            let (tokens, rows) = (text.vocab_size(), self.arch.vocab_size);
            self.warnings
                .push(format!("the tokenizer has {tokens} tokens, the model only {rows}; the others cannot be used"));
        }
        self.stop_ids = self.find_stop_ids()?;
        Ok(self)
    }

    fn find_stop_ids(&self) -> Result<Vec<u32>> {
        let listed = |document: &Value| -> Result<Vec<u32>> {
            let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = match document.get("eos_token_id") {
                None | Some(Value::Null) => Some(Vec::new()),
                Some(Value::Array(ids)) => ids.iter().map(id).collect(),
                Some(one) => id(one).map(|id| vec![id]),
            };
            ids.ok_or_else(|| Error::file(&self.path, "eos_token_id is neither a token id nor a list of them"))
        };
        let mut ids = match &self.generation_config {
            Some(document) => listed(document)?,
            None => Vec::new(),
        };
        if ids.is_empty() {
            ids = listed(&self.config)?;
        }
        ids.extend(self.text.as_ref().and_then(Text::end_of_turn));
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| (*id as usize) < self.arch.vocab_size && seen.insert(*id));
        Ok(ids)
    }
}

/// An observer allows the network.
fn open(path: &Path, network: Option<&dyn Observer>) -> Result<ModelSource> {
    let path = resolve(path, network)?;
    if is_adapter(&path) {
        return open_adapter(&path, network);
    }
    open_base(&path)
}

/// Follows hub ids, run folders and pointers to a model folder or file.
fn resolve(start: &Path, network: Option<&dyn Observer>) -> Result<PathBuf> {
    let mut path = match HubId::of_path(start) {
        Some(id) => Hub::from_env()?.find(&id, network)?,
        None => start.to_path_buf(),
    };
    for _ in 0..MAX_POINTERS {
        if !path.exists() {
            let what =
                "does not exist; expected a Hugging Face folder, a .gguf file, a run folder or a hub id (ORG/NAME)";
            return Err(Error::file(path, what));
        }
        if path.is_file() {
            return Ok(path);
        }
        let pointer = path.join(SOURCE_FILE);
        if path.join("config.json").exists() || is_adapter(&path) {
            return Ok(path);
        } else if pointer.exists() {
            let document = save::read_json(&pointer)?;
            let Some(target) = document.get("path").and_then(Value::as_str) else {
                return Err(Error::file(pointer, "expected {\"path\": …}"));
            };
            path = path.join(target);
        } else if let Some(newest) = newest_model(&path)? {
            path = newest;
        } else {
            return Err(Error::file(path, "has no config.json, and no finished model M0, M1, … either"));
        }
    }
    Err(Error::file(start, format!("{SOURCE_FILE} files point to one another without end")))
}

/// The M<k> of the highest k that holds weights or points to them.
fn newest_model(run: &Path) -> Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(run).map_err(Error::io(run))? {
        let path = entry.map_err(Error::io(run))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(number) = name.strip_prefix('M').and_then(|digits| digits.parse::<u64>().ok()) else { continue };
        let finished =
            [safetensors::SINGLE, safetensors::INDEX, SOURCE_FILE].iter().any(|file| path.join(file).exists());
        if finished && newest.as_ref().is_none_or(|(best, _)| number > *best) {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Whether a folder holds an adapter and no model of its own.
fn is_adapter(path: &Path) -> bool {
    let whole = [safetensors::SINGLE, safetensors::INDEX].iter().any(|file| path.join(file).exists());
    path.join(peft::CONFIG).exists() && !whole
}

fn open_adapter(path: &Path, network: Option<&dyn Observer>) -> Result<ModelSource> {
    let adapter = peft::open(path)?;
    let base = resolve(&base_of(path, &adapter)?, network)?;
    if is_adapter(&base) {
        return Err(Error::file(path, format!("its base {} is an adapter too; merge that one first", base.display())));
    }
    let mut source = open_base(&base)?;
    source.adapter = Some(adapter.adapter(path, &source.arch)?);
    // Trainers put the tokenizer, perhaps with another chat template, beside the adapter.
    if let Some(text) = Text::open(path)? {
        source.text = Some(text);
        source.stop_ids = source.find_stop_ids()?;
    }
    Ok(source)
}

fn open_base(path: &Path) -> Result<ModelSource> {
    let source = if path.is_dir() { open_folder(path)? } else { open_gguf(path)? };
    source.checked()
}

fn open_folder(path: &Path) -> Result<ModelSource> {
    if let Some(why) = save::why_removed(path)? {
        return Err(Error::file(path, format!("its weights {why}")));
    }
    let config_path = path.join("config.json");
    let config = save::read_json(&config_path)?;
    let arch = family::arch(&config).map_err(|error| Error::file(&config_path, error.to_string()))?;
    let generation_path = path.join("generation_config.json");
    let generation_config = if generation_path.exists() { Some(save::read_json(&generation_path)?) } else { None };
    let weights = safetensors::open_folder(path)?;
    let text = Text::open(path)?;
    Ok(ModelSource {
        path: path.to_path_buf(),
        arch,
        config,
        generation_config,
        weights,
        adapter: None,
        text,
        stop_ids: Vec::new(),
        warnings: Vec::new(),
    })
}

fn open_gguf(path: &Path) -> Result<ModelSource> {
    let model = gguf_model::open(path)?;
    let arch = family::arch(&model.config).map_err(|error| Error::file(path, error.to_string()))?;
    let text = gguf_tokenizer::text(path, &model.gguf)?;
    Ok(ModelSource {
        path: path.to_path_buf(),
        arch,
        config: model.config,
        generation_config: Some(model.generation_config),
        weights: model.weights,
        adapter: None,
        text,
        stop_ids: Vec::new(),
        warnings: Vec::new(),
    })
}

/// The base of the adapter in `folder`: a path where something is there, else a hub id.
fn base_of(folder: &Path, adapter: &Peft) -> Result<PathBuf> {
    let path = folder.join(&adapter.base);
    if !adapter.base.is_empty() && path.exists() {
        return Ok(path);
    }
    let revision = adapter.revision.as_ref().map_or(String::new(), |r| format!("@{r}"));
    let id = HubId::parse(&format!("{}{revision}", adapter.base)).map_err(|_| {
        let what = format!("base_model_name_or_path is {:?}", adapter.base);
        let expected = "expected a model, absolute or relative to the adapter, or a hub id";
        Error::file(folder.join(peft::CONFIG), format!("{what}; {expected}"))
    })?;
    Ok(PathBuf::from(id.to_string()))
}

/// Writes a model folder with everything but the weights taken from `like`: matrices in `dtype`, vectors in f32, as
/// they were trained.
///
/// # Errors
/// As [`save_model_parts`].
pub fn save_model(folder: &Path, like: &ModelSource, tensors: &[NamedTensor], dtype: Dtype) -> Result<()> {
    let generation_config = like.generation_config.as_ref();
    let text = like.text.as_ref();
    let parts = ModelParts { config: &like.config, generation_config, text, tensors, dtype };
    save::save_trained(folder, &parts)
}

/// Writes a folder that PEFT loads, whole or not at all: the adapter's tensors in `dtype`, with the path and the
/// tokenizer of `base`.
///
/// # Errors
/// Values beyond the range of `dtype`; what the file system says.
pub fn save_adapter(folder: &Path, base: &ModelSource, adapter: &Adapter, dtype: Dtype) -> Result<()> {
    peft::save_adapter(folder, (&base.path, base.text.as_ref()), adapter, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapters_base_is_a_path_or_a_hub_id() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let base = |document| base_of(folder, &peft::read(&document).ok().unwrap());
        let document = |base: &str, revision| {
            serde_json::json!({
                "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
                "base_model_name_or_path": base, "revision": revision
            })
        };
        assert_eq!(base(document("org/name", Some("v2"))).unwrap(), Path::new("org/name@v2"));
        assert_eq!(base(document(".", None)).unwrap(), folder.join("."));
        let error = base(document("./no/such", None)).unwrap_err().to_string();
        assert!(error.contains("./no/such") && error.contains("adapter_config.json"), "{error}");
    }
}
