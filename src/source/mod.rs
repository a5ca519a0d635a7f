//! A model as the user names it: a Hugging Face folder, a GGUF file, an adapter over a base, a run folder (its newest
//! model) or a hub id.

mod adapter;
mod fingerprint;

use crate::disk::{self, OnDisk};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::adapter::{AdapterFiles, is_adapter, open_adapter};
use crate::arch::lora::Adapter;
use crate::arch::{Arch, Dtype, NamedTensor, family, first_unusable, unusable};
use crate::hub::{Hub, HubId};
use crate::json::read_json;
use crate::rng::Fnv;
use crate::text::Text;
use crate::weights::gguf_model::{self, GgufFile, GgufModel};
use crate::weights::peft;
use crate::weights::{ModelParts, Weights, gguf_tokenizer, safetensors, save};
use crate::{Error, Observer, Result};

pub use self::adapter::{save_adapter, save_gguf_adapter};

/// The file that stands in a folder in place of a model: `{"path": P}` points to the real one. A relative P starts at
/// the folder that holds this file.
pub const SOURCE_FILE: &str = "source.json";
/// Most pointers that may point to one another.
const MAX_POINTERS: usize = 8;
/// The name of the embedding's tensor.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// The name of the output matrix's tensor.
const OUTPUT: &str = "lm_head.weight";

/// A model on disk, checked: every parameter of `arch` is there with its shape.
#[derive(Debug)]
pub struct ModelSource {
    /// The folder or file in which the model was found.
    pub path: PathBuf,
    /// The hub id by which it was opened, if it was; of an adapter, that of its base.
    pub id: Option<HubId>,
    /// The model's shape.
    pub arch: Arch,
    /// The content of config.json; of a GGUF file, what its config.json would be.
    pub config: Value,
    /// The content of generation_config.json, if there is one.
    pub generation_config: Option<Value>,
    /// The model's tensors, on disk.
    pub weights: Weights,
    /// The adapter of a PEFT folder; `path` and `weights` are then those of its base.
    pub adapter: Option<Adapter>,
    /// The PEFT folder of the adapter.
    pub adapter_path: Option<PathBuf>,
    /// The tokenizer and chat template; a folder may have none.
    pub text: Option<Text>,
    /// Token ids that end an answer: those of generation_config.json, or else of config.json with all that are known by
    /// their names, and the template's end of turn.
    pub stop_ids: Vec<u32>,
    /// Sentences that the user should be told.
    pub warnings: Vec<String>,
}

impl ModelSource {
    /// Opens a Hugging Face folder, a `.gguf` file, a PEFT adapter with its base, or a run folder, which means its
    /// newest finished model. A name that nothing on disk has may be a hub id ([`crate::hub::HubId`]) whose model is in
    /// the cache. Weights stay on disk until they are asked for.
    ///
    /// # Errors
    /// There is nothing of that name; files are missing, truncated or contradict one another; the architecture is
    /// unknown.
    pub fn open(path: &Path) -> Result<ModelSource> {
        open(path, How { network: None, base: None })
    }

    /// Does what [`ModelSource::open`] does, but fetches a hub id that is not in the cache, and tells the observer.
    ///
    /// # Errors
    /// As [`ModelSource::open`] and [`crate::hub::Hub::pull`].
    pub fn open_or_fetch(path: &Path, observer: &dyn Observer) -> Result<ModelSource> {
        open(path, How { network: Some(observer), base: None })
    }

    /// Does what [`ModelSource::open_or_fetch`] does, but takes `base` for the base of an adapter, whatever model that
    /// names.
    ///
    /// # Errors
    /// As [`ModelSource::open_or_fetch`].
    pub fn open_over(path: &Path, base: &Path, observer: &dyn Observer) -> Result<ModelSource> {
        open(path, How { network: Some(observer), base: Some(base) })
    }

    /// The folder or file that stands for the whole model: of an adapter its PEFT folder.
    pub fn whole(&self) -> &Path {
        self.adapter_path.as_deref().unwrap_or(&self.path)
    }

    /// Whether the model's base is the one at `path`.
    pub(crate) fn has_base(&self, path: &Path) -> bool {
        same_file(&self.path, path)
    }

    /// A hash of the configuration, the weights and the adapter, which differs where they differ.
    pub(crate) fn hash(&self) -> Result<u64> {
        let mut hash = Fnv::new();
        hash.write(self.config.to_string().as_bytes());
        for name in self.weights.names() {
            hash.write_words(&self.weights.get(name)?.data);
        }
        for tensor in self.adapter.iter().flat_map(|adapter| &adapter.tensors) {
            tensor.data.iter().for_each(|x| hash.write(&x.to_le_bytes()));
        }
        Ok(hash.0)
    }

    /// The adapter of the model at `path`, which has the same base as this one; `None` if it is that base. The base is
    /// not read again.
    ///
    /// # Errors
    /// There is neither an adapter nor the base; the adapter is broken or does not fit the base.
    pub(crate) fn adapter_in(&self, path: &Path) -> Result<Option<Adapter>> {
        let found = resolve(path, None)?;
        if same_file(&found, &self.path) {
            return Ok(None);
        }
        if let Some(stored) = AdapterFiles::open(&found)? {
            return stored.adapter(&found, self).map(Some);
        }
        let base = self.path.display();
        Err(Error::file(
            found,
            format!("is another model than {base}, and no adapter; expected an adapter of that one"),
        ))
    }

    /// The model's tokenizer and chat template.
    ///
    /// # Errors
    /// The model has no tokenizer.
    pub fn text(&self) -> Result<&Text> {
        self.text
            .as_ref()
            .ok_or_else(|| Error::file(&self.path, "has no tokenizer.json, so text cannot be used with it"))
    }

    /// The model with variables that its chat template is given in every conversation.
    #[must_use]
    pub fn with_template_args(mut self, args: &Map<String, Value>) -> ModelSource {
        if let Some(text) = &mut self.text {
            text.set_template_args(args.clone());
        }
        self
    }

    /// All parameters in the family's order, dequantised to f32, with the adapter, if there is one, merged into them.
    /// Where the adapter sets a tied model's embedding and output matrix apart, `lm_head.weight` stands behind them.
    ///
    /// # Errors
    /// A value is NaN, infinite or too large, which the error names by tensor and position; a storage type is not
    /// supported.
    pub fn tensors_f32(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = self.base_f32()?;
        if let Some(adapter) = &self.adapter {
            adapter.untie(&mut tensors);
            adapter.merge(&mut tensors)?;
        }
        Ok(tensors)
    }

    /// The configuration of the model that [`ModelSource::tensors_f32`] gives: untied where its adapter sets embedding
    /// and output matrix apart.
    pub fn merged_config(&self) -> Value {
        let mut config = self.config.clone();
        let unties = self.arch.tie_word_embeddings && self.adapter.as_ref().is_some_and(Adapter::unties);
        if let Some(keys) = config.as_object_mut().filter(|_| unties) {
            keys.insert("tie_word_embeddings".into(), false.into());
        }
        config
    }

    /// One parameter, dequantised to f32, with the adapter, if it changes this one, merged into it.
    ///
    /// # Errors
    /// As [`ModelSource::tensors_f32`].
    pub fn tensor_f32(&self, name: &str, shape: &[usize]) -> Result<NamedTensor> {
        let mut tensor = self.base_tensor(name, shape)?;
        if let Some(adapter) = self.adapter.as_ref().and_then(|adapter| adapter.of(name)) {
            adapter.merge(std::slice::from_mut(&mut tensor))?;
        }
        Ok(tensor)
    }

    /// The parameters of the base alone, in f32, without the adapter.
    pub(crate) fn base_f32(&self) -> Result<Vec<NamedTensor>> {
        family::parameters(&self.arch).iter().map(|(name, shape)| self.base_tensor(name, shape)).collect()
    }

    fn base_tensor(&self, name: &str, shape: &[usize]) -> Result<NamedTensor> {
        // An adapter may set apart what the file has once.
        let stored = if name == OUTPUT && !self.weights.contains(name) { EMBEDDING } else { name };
        let data = self.weights.get(stored)?.to_f32();
        if let Some(first) = first_unusable(&data) {
            let path = self.weights.file_of(stored).unwrap_or(&self.path);
            return Err(Error::file(path, unusable(name, shape, first)));
        }
        Ok(NamedTensor { name: name.into(), shape: shape.into(), data })
    }

    /// Lets the tensors say whether input and output share a matrix: two that differ are both kept, and one is used for
    /// both, whatever it is called.
    fn settle_ties(&mut self) -> Result<()> {
        if !self.arch.tie_word_embeddings || !self.weights.contains(OUTPUT) {
            return Ok(());
        }
        self.weights.rename(OUTPUT, EMBEDDING);
        if !self.weights.contains(OUTPUT) || self.weights.same(EMBEDDING, OUTPUT)? {
            return Ok(());
        }
        self.arch.tie_word_embeddings = false;
        // What is saved from here on has both too.
        if let Some(config) = self.config.as_object_mut() {
            config.insert("tie_word_embeddings".into(), false.into());
        }
        self.warnings.push(format!(
            "{}: tie_word_embeddings is true, but {EMBEDDING} and {OUTPUT} differ; both are used, untied",
            self.path.display()
        ));
        Ok(())
    }

    fn checked(mut self) -> Result<ModelSource> {
        self.settle_ties()?;
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
            // A tensor of a block that is left out would silently make another model.
            if name.starts_with("model.layers.") {
                let what =
                    format!("tensor {name} has no place in the configuration ({} layers)", self.arch.layers.len());
                return Err(Error::file(self.weights.file_of(name).unwrap_or(&self.path), what));
            }
            // Tied, it is the embedding again.
            if name != OUTPUT {
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
        self.find_ends()?;
        Ok(self)
    }

    fn find_ends(&mut self) -> Result<()> {
        self.stop_ids = self.find_stop_ids()?;
        if let Some(text) = &mut self.text {
            text.hide(&self.stop_ids);
        }
        Ok(())
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
            ids.extend(self.text.iter().flat_map(Text::known_ends));
        }
        ids.extend(self.text.as_ref().and_then(Text::end_of_turn));
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| (*id as usize) < self.arch.vocab_size && seen.insert(*id));
        Ok(ids)
    }
}

/// How a model is opened.
#[derive(Clone, Copy)]
struct How<'a> {
    /// Allows the network, and is told what is fetched.
    network: Option<&'a dyn Observer>,
    /// The base of an adapter, if another one than the adapter names.
    base: Option<&'a Path>,
}

fn open(path: &Path, how: How) -> Result<ModelSource> {
    let found = resolve(path, how.network)?;
    let mut source = if found.is_regular_file() {
        match gguf_model::open(&found)? {
            GgufFile::Adapter(adapter) => return open_adapter(&found, how, AdapterFiles::File(adapter)),
            GgufFile::Model(model) => of_gguf(&found, model, HubId::of_path(path))?.checked(),
        }
    } else {
        match AdapterFiles::open(&found)? {
            Some(adapter) => return open_adapter(&found, how, adapter),
            None => open_base(&found, HubId::of_path(path)),
        }
    }?;
    if how.base.is_some_and(|base| base != path && resolve(base, None).ok().as_ref() != Some(&found)) {
        source.warnings.push(format!("{}: is no adapter, so --base says nothing about it", path.display()));
    }
    Ok(source)
}

/// Follows hub ids, run folders and pointers to a model folder or file.
fn resolve(start: &Path, network: Option<&dyn Observer>) -> Result<PathBuf> {
    let mut path = match HubId::of_path(start) {
        Some(id) => Hub::from_env()?.find(&id, network)?,
        None => start.to_path_buf(),
    };
    for _ in 0..MAX_POINTERS {
        if !path.is_there() {
            let what =
                "does not exist; expected a Hugging Face folder, a .gguf file, a run folder or a hub id (ORG/NAME)";
            return Err(Error::file(path, what));
        }
        if path.is_regular_file() {
            return Ok(path);
        }
        let pointer = path.join(SOURCE_FILE);
        if path.join("config.json").is_there() || is_adapter(&path) {
            return Ok(path);
        } else if pointer.is_there() {
            let document: Value = read_json(&pointer)?;
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

/// The folder M<k> with the highest k that holds weights or points to them.
fn newest_model(run: &Path) -> Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in disk::read_dir(run).map_err(Error::io(run))? {
        let path = entry.map_err(Error::io(run))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(number) = name.strip_prefix('M').and_then(|digits| digits.parse::<u64>().ok()) else { continue };
        let finished = [safetensors::SINGLE, safetensors::INDEX, peft::TENSORS, SOURCE_FILE]
            .iter()
            .any(|file| path.join(file).is_there());
        if finished && newest.as_ref().is_none_or(|(best, _)| number > *best) {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Whether two paths lead to one file or folder.
fn same_file(a: &Path, b: &Path) -> bool {
    match (disk::canonicalize(a), disk::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn open_base(path: &Path, id: Option<HubId>) -> Result<ModelSource> {
    if path.is_folder() {
        return ModelSource { id, ..open_folder(path)? }.checked();
    }
    match gguf_model::open(path)? {
        GgufFile::Model(model) => of_gguf(path, model, id)?.checked(),
        GgufFile::Adapter(_) => Err(Error::file(path, "is an adapter, but a model is expected here")),
    }
}

fn open_folder(path: &Path) -> Result<ModelSource> {
    if let Some(why) = save::why_removed(path)? {
        return Err(Error::file(path, format!("its weights {why}")));
    }
    let config_path = path.join("config.json");
    let mut config: Value = read_json(&config_path)?;
    let named = |error: Error| Error::file(&config_path, error.to_string());
    let text_part = family::text_part(&config).map_err(named)?;
    let is_whole = text_part.is_some();
    config = text_part.unwrap_or(config);
    let arch = family::arch(&config).map_err(named)?;
    let generation_path = path.join("generation_config.json");
    let generation_config = if generation_path.is_there() { Some(read_json(&generation_path)?) } else { None };
    let mut weights = safetensors::open_folder(path)?;
    let mut warnings = Vec::new();
    // A text part's own configuration may stand beside the files of its whole.
    if is_whole || weights.is_of_whole() {
        let (others, path) = (weights.keep_text_part(), path.display());
        warnings.push(format!("{path}: only the text part is read; {others} tensors of other parts are left out"));
    }
    weights.unstack(path, &arch)?;
    // What is written of it is not quantised.
    if let Some(keys) = config.as_object_mut() {
        keys.remove("quantization_config");
    }
    let text = Text::open(path)?;
    Ok(ModelSource {
        path: path.to_path_buf(),
        id: None,
        arch,
        config,
        generation_config,
        weights,
        adapter: None,
        adapter_path: None,
        text,
        stop_ids: Vec::new(),
        warnings,
    })
}

fn of_gguf(path: &Path, model: GgufModel, id: Option<HubId>) -> Result<ModelSource> {
    let arch = family::arch(&model.config).map_err(|error| Error::file(path, error.to_string()))?;
    let text = gguf_tokenizer::text(path, &model.gguf)?;
    Ok(ModelSource {
        path: path.to_path_buf(),
        id,
        arch,
        config: model.config,
        generation_config: Some(model.generation_config),
        weights: model.weights,
        adapter: None,
        adapter_path: None,
        text,
        stop_ids: Vec::new(),
        warnings: gguf_tokenizer::warning(path, &model.gguf).into_iter().collect(),
    })
}

/// Whether a path looks like a model: a file, or a folder that holds or points to one.
fn is_model(path: &Path) -> bool {
    let holds = |file: &str| path.join(file).is_there();
    path.is_regular_file()
        || holds("config.json")
        || holds(SOURCE_FILE)
        || newest_model(path).is_ok_and(|m| m.is_some())
}

/// Writes a model folder in which all but the weights is taken from `like`. Matrices are written in `dtype`, vectors in
/// f32, as they were trained.
///
/// # Errors
/// As [`save_model_parts`](crate::weights::save_model_parts).
pub fn save_model(folder: &Path, like: &ModelSource, tensors: &[NamedTensor], dtype: Dtype) -> Result<()> {
    let generation_config = like.generation_config.as_ref();
    let text = like.text.as_ref();
    let parts = ModelParts { config: &like.config, generation_config, text, tensors, dtype };
    save::save_trained(folder, &parts)
}
