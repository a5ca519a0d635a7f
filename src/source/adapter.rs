//! Models that are an adapter over a base: PEFT folders and llama.cpp's adapter files, in and out.

use std::path::{Path, PathBuf};

use super::fingerprint::Fingerprint;
use super::{How, ModelSource, is_model, open_base, resolve};
use crate::arch::Dtype;
use crate::arch::lora::Adapter;
use crate::disk::{self, OnDisk};
use crate::hub::{self, Hub, HubId};
use crate::text::Text;
use crate::weights::gguf_lora::{self, GgufAdapter};
use crate::weights::gguf_model::{self, GgufFile};
use crate::weights::peft::{self, Peft};
use crate::weights::safetensors;
use crate::{Error, Result};

/// Whether a folder holds an adapter and no model of its own.
pub(super) fn is_adapter(path: &Path) -> bool {
    let whole = [safetensors::SINGLE, safetensors::INDEX].iter().any(|file| path.join(file).is_there());
    path.join(peft::CONFIG).is_there() && !whole
}

/// An adapter on disk, whose tensors can be read once its base is known.
pub(super) enum AdapterFiles {
    /// A PEFT folder.
    Folder(Peft),
    /// llama.cpp's adapter file.
    File(GgufAdapter),
}

impl AdapterFiles {
    /// Opens what is an adapter, and gives `None` of what is a model.
    pub(super) fn open(path: &Path) -> Result<Option<AdapterFiles>> {
        if is_adapter(path) {
            return peft::open(path).map(|peft| Some(AdapterFiles::Folder(peft)));
        }
        if !path.is_regular_file() {
            return Ok(None);
        }
        match gguf_model::open(path)? {
            GgufFile::Adapter(file) => Ok(Some(AdapterFiles::File(file))),
            GgufFile::Model(_) => Ok(None),
        }
    }

    /// The base that the adapter names, with the revision of a hub id.
    fn names(&self) -> (String, Option<String>) {
        match self {
            AdapterFiles::Folder(peft) => (peft.base.clone(), peft.revision.clone()),
            AdapterFiles::File(file) => file.base().unwrap_or_default(),
        }
    }

    /// By what the adapter says that its base is known again.
    fn fingerprint(&self, path: &Path) -> Result<Option<Fingerprint>> {
        let text = match self {
            AdapterFiles::Folder(_) => peft::fingerprint(path)?,
            AdapterFiles::File(file) => file.fingerprint().map(str::to_owned),
        };
        Ok(text.as_deref().and_then(Fingerprint::parse))
    }

    /// The adapter's tensors, checked against the base.
    pub(super) fn adapter(self, path: &Path, base: &ModelSource) -> Result<Adapter> {
        let (name, recorded) = (self.names().0, self.fingerprint(path)?);
        let adapter = match self {
            AdapterFiles::Folder(peft) => peft.adapter(path, &base.arch, &base.weights)?,
            AdapterFiles::File(file) => file.adapter(&base.arch)?,
        };
        let found = Fingerprint::of(&base.arch, &base.weights);
        match recorded.filter(|recorded| recorded.contradicts(found)) {
            None => Ok(adapter),
            Some(recorded) => Err(Error::file(
                path,
                format!(
                    "is an adapter of {name}, and {} is another model, or has changed since: the fingerprint of its \
                     weights is {found}, that of the adapter's base {recorded}; name that base with --base M, wherever \
                     it lies",
                    base.path.display()
                ),
            )),
        }
    }
}

pub(super) fn open_adapter(path: &Path, how: How, adapter: AdapterFiles) -> Result<ModelSource> {
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
    let folder = matches!(adapter, AdapterFiles::Folder(_));
    if let AdapterFiles::Folder(Peft { tying: true, .. }) = &adapter
        && source.arch.tie_word_embeddings
    {
        source.warnings.push(format!(
            "{}: ensure_weight_tying is true; here the adapters of the embedding and the output matrix begin alike, \
             but training moves them apart",
            path.display()
        ));
    }
    source.adapter = Some(adapter.adapter(path, &source)?);
    source.adapter_path = Some(path.to_path_buf());
    // Training programs put the tokenizer, perhaps with another chat template, beside the adapter.
    if folder && let Some(text) = Text::open(path)? {
        source.text = Some(text);
        source.find_ends()?;
    }
    Ok(source)
}

/// Where the base of the adapter at `path` may be on disk: at the path that it names, from the working folder and from
/// the adapter; at the first model of the run that the adapter lies in.
fn places(path: &Path, adapter: &AdapterFiles) -> [PathBuf; 3] {
    let named = PathBuf::from(adapter.names().0);
    let around = path.parent().unwrap_or(path);
    let folder = if matches!(adapter, AdapterFiles::Folder(_)) { path } else { around };
    [named.clone(), folder.join(named), around.join("M0")]
}

/// The base of the adapter at `path`. Tried in turn: what it names, as a path from the working folder and from the
/// adapter, or as a hub id that is in the cache; the first model of the run that the adapter lies in; a hub id.
fn base_of(path: &Path, adapter: &AdapterFiles) -> Result<PathBuf> {
    let (base, revision) = adapter.names();
    let [named, beside, first] = places(path, adapter);
    let written = [named, beside];
    let there: Vec<&PathBuf> = written.iter().filter(|path| !base.is_empty() && path.is_there()).collect();
    if let Some(path) = there.iter().find(|path| is_model(path)) {
        return Ok(path.to_path_buf());
    }
    let revision = revision.map_or(String::new(), |r| format!("@{r}"));
    let id = HubId::parse(&format!("{base}{revision}"));
    let cached = |id: &HubId| Hub::from_env().is_ok_and(|hub| hub.find(id, None).is_ok());
    if let Some(id) = id.as_ref().ok().filter(|id| cached(id)) {
        return Ok(PathBuf::from(id.to_string()));
    }
    if is_model(&first) && first != path {
        return Ok(first);
    }
    // What is there but is no model tells better what is wrong than what is not there.
    if let Some(path) = there.last() {
        return Ok(path.to_path_buf());
    }
    id.map(|id| PathBuf::from(id.to_string())).map_err(|_| {
        let what = match adapter {
            AdapterFiles::File(_) if base.is_empty() => "is an adapter that does not name its base".to_owned(),
            _ => format!("base_model_name_or_path is {base:?}, which is not there"),
        };
        let expected = "expected a model, absolute or relative, or a hub id; name its base with --base M";
        let place = match adapter {
            AdapterFiles::Folder(_) => path.join(peft::CONFIG),
            AdapterFiles::File(_) => path.to_path_buf(),
        };
        Error::file(place, format!("{what}; {expected}"))
    })
}

/// Writes a folder that PEFT loads; it appears whole or not at all. It holds the adapter's tensors in `dtype`, the
/// tokenizer of `base`, and its name: the hub id that it was opened by, or its absolute path.
///
/// # Errors
/// A value is beyond the range of `dtype`; errors of the file system.
pub fn save_adapter(folder: &Path, base: &ModelSource, adapter: &Adapter, dtype: Dtype) -> Result<()> {
    peft::save_adapter(folder, &peft_base(base)?, base.text.as_ref(), adapter, dtype)
}

/// Writes llama.cpp's adapter file; it appears whole or not at all. It holds the adapter's tensors in `dtype`, and the
/// base's name as [`save_adapter`] does. Returns sentences worth telling the user.
///
/// # Errors
/// The base's family has no GGUF architecture; a value is beyond the range of `dtype`; errors of the file system.
pub fn save_gguf_adapter(file: &Path, base: &ModelSource, adapter: &Adapter, dtype: Dtype) -> Result<Vec<String>> {
    gguf_lora::save(file, &base.arch, &peft_base(base)?, adapter, dtype)
}

/// How an adapter names its base: by the hub id that it was opened by, or else by its absolute path.
fn peft_base(base: &ModelSource) -> Result<peft::Base> {
    let fingerprint = Fingerprint::of(&base.arch, &base.weights).to_string();
    match &base.id {
        Some(HubId { repo, revision, file }) => {
            let name = file.as_ref().map_or_else(|| repo.clone(), |file| format!("{repo}/{file}"));
            let revision = Some(revision.clone()).filter(|name| name != hub::MAIN);
            Ok(peft::Base { name, revision, fingerprint })
        }
        None => {
            let path = disk::canonicalize(&base.path).map_err(Error::io(&base.path))?;
            Ok(peft::Base { name: path.to_string_lossy().into_owned(), revision: None, fingerprint })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SOURCE_FILE;
    use super::*;

    #[test]
    fn an_adapters_base_is_looked_for_in_turn() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("M2");
        std::fs::create_dir(&folder).unwrap();
        let base = |document| base_of(&folder, &AdapterFiles::Folder(peft::read(&document).ok().unwrap()));
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
