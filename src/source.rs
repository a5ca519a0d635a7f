//! A model as the user names it: a Hugging Face folder, a GGUF file, or the newest model of a run.

use crate::disk::{self, OnDisk};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::arch::lora::Adapter;
use crate::arch::{Arch, Dtype, NamedTensor, family, first_unusable, unusable};
use crate::hub::{self, Hub, HubId};
use crate::json::read_json;
use crate::rng::Fnv;
use crate::text::Text;
use crate::weights::peft::{self, Peft};
use crate::weights::{ModelParts, Weights, gguf_model, gguf_tokenizer, safetensors, save};
use crate::{Error, Observer, Result};

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
    /// The content of config.json, or what it would be.
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
        if is_adapter(&found) {
            return peft::open(&found)?.adapter(&found, &self.arch).map(Some);
        }
        if same_file(&found, &self.path) {
            return Ok(None);
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
    ///
    /// # Errors
    /// A value is NaN, infinite or too large, which the error names by tensor and position; a storage type is not
    /// supported.
    pub fn tensors_f32(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = self.base_f32()?;
        if let Some(adapter) = &self.adapter {
            adapter.merge(&mut tensors)?;
        }
        Ok(tensors)
    }

    /// The parameters of the base alone, in f32, without the adapter.
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
    if is_adapter(&found) {
        return open_adapter(&found, how);
    }
    open_base(&found, HubId::of_path(path))
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

/// Whether a folder holds an adapter and no model of its own.
fn is_adapter(path: &Path) -> bool {
    let whole = [safetensors::SINGLE, safetensors::INDEX].iter().any(|file| path.join(file).is_there());
    path.join(peft::CONFIG).is_there() && !whole
}

fn open_adapter(path: &Path, how: How) -> Result<ModelSource> {
    let adapter = peft::open(path)?;
    let named = how.base.map_or_else(|| base_of(path, &adapter), |base| Ok(base.to_path_buf()))?;
    let base = resolve(&named, how.network).map_err(|error| {
        let whose = format!("the base of the adapter {}", path.display());
        match error {
            _ if how.base.is_some() => error,
            Error::Hub(what) => Error::Hub(format!("{whose}: {what}; --base M names another")),
            other => {
                let looked = places(path, &adapter).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
                let looked = looked.join(", ");
                Error::Input(format!("{whose} was looked for as {looked}: {other}; --base M names another"))
            }
        }
    })?;
    if is_adapter(&base) {
        return Err(Error::file(path, format!("its base {} is an adapter too; merge that one first", base.display())));
    }
    let mut source = open_base(&base, HubId::of_path(&named))?;
    source.adapter = Some(adapter.adapter(path, &source.arch)?);
    source.adapter_path = Some(path.to_path_buf());
    // Training programs put the tokenizer, perhaps with another chat template, beside the adapter.
    if let Some(text) = Text::open(path)? {
        source.text = Some(text);
        source.find_ends()?;
    }
    Ok(source)
}

fn open_base(path: &Path, id: Option<HubId>) -> Result<ModelSource> {
    let source = if path.is_folder() { open_folder(path)? } else { open_gguf(path)? };
    ModelSource { id, ..source }.checked()
}

fn open_folder(path: &Path) -> Result<ModelSource> {
    if let Some(why) = save::why_removed(path)? {
        return Err(Error::file(path, format!("its weights {why}")));
    }
    let config_path = path.join("config.json");
    let config: Value = read_json(&config_path)?;
    let arch = family::arch(&config).map_err(|error| Error::file(&config_path, error.to_string()))?;
    let generation_path = path.join("generation_config.json");
    let generation_config = if generation_path.is_there() { Some(read_json(&generation_path)?) } else { None };
    let weights = safetensors::open_folder(path)?;
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
        warnings: Vec::new(),
    })
}

fn open_gguf(path: &Path) -> Result<ModelSource> {
    let model = gguf_model::open(path)?;
    let arch = family::arch(&model.config).map_err(|error| Error::file(path, error.to_string()))?;
    let text = gguf_tokenizer::text(path, &model.gguf)?;
    Ok(ModelSource {
        path: path.to_path_buf(),
        id: None,
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

/// Where the base of the adapter in `folder` may be on disk: at the path that it names, from the working folder and
/// from the adapter; at the first model of the run that the adapter lies in.
fn places(folder: &Path, adapter: &Peft) -> [PathBuf; 3] {
    let named = PathBuf::from(&adapter.base);
    [named.clone(), folder.join(named), folder.parent().unwrap_or(folder).join("M0")]
}

/// The base of the adapter in `folder`. Tried in turn: what it names, as a path from the working folder and from the
/// adapter, or as a hub id that is in the cache; the first model of the run that the adapter lies in; a hub id.
fn base_of(folder: &Path, adapter: &Peft) -> Result<PathBuf> {
    let [named, beside, first] = places(folder, adapter);
    let written = [named, beside];
    let there: Vec<&PathBuf> = written.iter().filter(|path| !adapter.base.is_empty() && path.is_there()).collect();
    if let Some(path) = there.iter().find(|path| is_model(path)) {
        return Ok(path.to_path_buf());
    }
    let revision = adapter.revision.as_ref().map_or(String::new(), |r| format!("@{r}"));
    let id = HubId::parse(&format!("{}{revision}", adapter.base));
    let cached = |id: &HubId| Hub::from_env().is_ok_and(|hub| hub.find(id, None).is_ok());
    if let Some(id) = id.as_ref().ok().filter(|id| cached(id)) {
        return Ok(PathBuf::from(id.to_string()));
    }
    if is_model(&first) && first != folder {
        return Ok(first);
    }
    // What is there but is no model tells better what is wrong than what is not there.
    if let Some(path) = there.last() {
        return Ok(path.to_path_buf());
    }
    id.map(|id| PathBuf::from(id.to_string())).map_err(|_| {
        let what = format!("base_model_name_or_path is {:?}, which is not there", adapter.base);
        let expected = "expected a model, absolute or relative, or a hub id; name its base with --base M";
        Error::file(folder.join(peft::CONFIG), format!("{what}; {expected}"))
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

/// Writes a folder that PEFT loads; it appears whole or not at all. It holds the adapter's tensors in `dtype`, the
/// tokenizer of `base`, and its name: the hub id that it was opened by, or its absolute path.
///
/// # Errors
/// A value is beyond the range of `dtype`; errors of the file system.
pub fn save_adapter(folder: &Path, base: &ModelSource, adapter: &Adapter, dtype: Dtype) -> Result<()> {
    peft::save_adapter(folder, &peft_base(base)?, base.text.as_ref(), adapter, dtype)
}

/// How an adapter names its base: by the hub id that it was opened by, or else by its absolute path.
fn peft_base(base: &ModelSource) -> Result<peft::Base> {
    match &base.id {
        Some(HubId { repo, revision, file }) => {
            let name = file.as_ref().map_or_else(|| repo.clone(), |file| format!("{repo}/{file}"));
            Ok(peft::Base { name, revision: Some(revision.clone()).filter(|name| name != hub::MAIN) })
        }
        None => {
            let path = disk::canonicalize(&base.path).map_err(Error::io(&base.path))?;
            Ok(peft::Base { name: path.to_string_lossy().into_owned(), revision: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapters_base_is_looked_for_in_turn() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("M2");
        std::fs::create_dir(&folder).unwrap();
        let base = |document| base_of(&folder, &peft::read(&document).ok().unwrap());
        let document = |base: &str, revision| {
            serde_json::json!({
                "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
                "base_model_name_or_path": base, "revision": revision
            })
        };
        assert_eq!(base(document("org/name", Some("v2"))).unwrap(), Path::new("org/name@v2"));
        let error = base(document("./no/such", None)).unwrap_err().to_string();
        assert!(error.contains("./no/such") && error.contains("adapter_config.json"), "{error}");
        // The working folder of a test is the crate's.
        let golden = "tests/golden/llama";
        assert_eq!(base(document(golden, None)).unwrap(), Path::new(golden));
        std::fs::create_dir(run.path().join("M0")).unwrap();
        std::fs::write(run.path().join("M0").join(SOURCE_FILE), "{\"path\": \"x\"}").unwrap();
        for lost in ["./no/such", "org/name", ""] {
            assert_eq!(base(document(lost, None)).unwrap(), run.path().join("M0"));
        }
        assert_eq!(base(document("../M0", None)).unwrap(), folder.join("../M0"));
    }
}
