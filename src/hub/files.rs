//! Which files of a repository make a model, told by their names alone.

use crate::disk::{self, OnDisk};
use std::path::{Path, PathBuf};

use super::{HubId, is_gguf};
use crate::weights::gguf_parts::PartName;
use crate::weights::{ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_TENSORS, INDEX, SINGLE, shards};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
/// Files that may stand beside the weights: those that are read here, and those that transformers wants with them.
const SMALL: [&str; 9] = [
    CONFIG,
    ADAPTER_CONFIG,
    ADAPTER_BASE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
/// Most names that an error lists.
const LISTED: usize = 30;

/// The files of a repository to be fetched.
#[derive(Debug, PartialEq)]
pub(super) enum ModelFiles {
    /// These files make a model's folder. If the index of shards is among them, the shards that it names belong to it
    /// too.
    Folder(Vec<String>),
    /// The parts of one GGUF model, most often a single file; the first is opened.
    Gguf(Vec<String>),
}

/// Whether a name stays inside the folder in which it is put, on every system.
pub(super) fn is_plain(name: &str) -> bool {
    let part = |part: &str| !["", ".", ".."].contains(&part);
    name.split('/').all(part) && !name.contains(['\\', ':']) && !name.chars().any(char::is_control)
}

/// Chooses the files that make a model among all the files of a repository.
///
/// # Errors
/// None of them is a model that can be read, or several GGUF files are and the id names none of them.
pub(super) fn choose(id: &HubId, all: &[String]) -> Result<ModelFiles> {
    let has = |name: &str| all.iter().any(|file| file == name);
    let ggufs = all.iter().map(String::as_str).filter(|name| is_gguf(name) && is_plain(name));
    // Of a model in parts the first stands for all.
    let ggufs: Vec<&str> = ggufs.filter(|name| PartName::read(name).is_none_or(|part| part.number == 1)).collect();
    let refuse = |what: String| Err(Error::Hub(format!("{id}: {what}")));
    if let Some(file) = &id.file {
        return match (has(file), ggufs.is_empty()) {
            (true, _) => parts(id, file, &has),
            (false, true) => refuse(format!("there is no {file} in it, nor any other GGUF file")),
            (false, false) => refuse(format!("there is no {file} in it; its GGUF files are {}", list(&ggufs))),
        };
    }
    let weights: &[&str] = if has(CONFIG) && has(SINGLE) {
        &[SINGLE]
    } else if has(CONFIG) && has(INDEX) {
        &[INDEX]
    } else if has(ADAPTER_CONFIG) && has(ADAPTER_TENSORS) {
        &[ADAPTER_TENSORS]
    } else {
        &[]
    };
    match (weights, ggufs.as_slice()) {
        ([], [one]) => parts(id, one, &has),
        ([], []) => {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let wanted = format!("{CONFIG} with {SINGLE} or {INDEX}, a PEFT adapter in safetensors, or a GGUF file");
            refuse(format!("holds no model that can be read: expected {wanted}; it has {}", list(&all)))
        }
        ([], several) => refuse(format!(
            "holds several GGUF files; name one of them, as in {}/{}: {}",
            id.repo,
            several[0],
            list(several)
        )),
        (weights, _) => {
            let files = SMALL.into_iter().filter(|name| has(name)).chain(weights.iter().copied());
            Ok(ModelFiles::Folder(files.map(str::to_owned).collect()))
        }
    }
}

/// The GGUF model to which a file belongs.
fn parts(id: &HubId, file: &str, has: &dyn Fn(&str) -> bool) -> Result<ModelFiles> {
    let parts: Vec<String> = match PartName::read(file) {
        Some(part) => part.all().collect(),
        None => vec![file.to_owned()],
    };
    match parts.iter().find(|part| !has(part)) {
        Some(missing) => Err(Error::Hub(format!("{id}: {file} is a part of a model whose part {missing} is missing"))),
        None => Ok(ModelFiles::Gguf(parts)),
    }
}

/// The model in a folder of the cache, if all its weights are there.
pub(super) fn complete(id: &HubId, folder: &Path) -> Result<Option<PathBuf>> {
    let mut all = Vec::new();
    walk(folder, "", &mut all)?;
    if id.file.as_ref().is_some_and(|file| !all.contains(file)) {
        return Ok(None);
    }
    let several =
        id.file.is_none() && all.iter().filter(|name| is_gguf(name) && PartName::read(name).is_none()).count() > 1;
    match choose(id, &all) {
        Ok(ModelFiles::Gguf(files)) => Ok(Some(folder.join(&files[0]))),
        Ok(ModelFiles::Folder(files)) => {
            let shards = if files.iter().any(|f| f == INDEX) { shards(&folder.join(INDEX))? } else { Vec::new() };
            Ok(shards.iter().all(|shard| all.contains(shard)).then(|| folder.to_path_buf()))
        }
        // Several files were fetched by their names, so the error asks which one is meant.
        Err(error) if several => Err(error),
        Err(_) => Ok(None),
    }
}

/// Lists the files in `folder` that exist with their content, by their paths below it.
fn walk(folder: &Path, prefix: &str, all: &mut Vec<String>) -> Result<()> {
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in disk::read_dir(folder).map_err(Error::io(folder))? {
        entries.push(entry.map_err(Error::io(folder))?.path());
    }
    entries.sort();
    for path in entries {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        // A linked folder is not this cache's. A linked file counts only if its target exists.
        if path.is_regular_file() {
            all.push(name);
        } else if path.is_folder() && !path.is_link() {
            walk(&path, &format!("{name}/"), all)?;
        }
    }
    Ok(())
}

fn list(names: &[&str]) -> String {
    let shown = names.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no files".into(),
        n if n > LISTED => format!("{shown} and {} more", n - LISTED),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(id: &str, all: &[&str]) -> Result<ModelFiles> {
        choose(&HubId::parse(id).unwrap(), &all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
    }

    fn folder(files: &[&str]) -> ModelFiles {
        ModelFiles::Folder(files.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn of_other_formats_and_pictures_nothing_is_taken() {
        let all = [
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "tokenizer.json",
            "x.png",
        ];
        assert_eq!(chosen("o/n", &all).unwrap(), folder(&["config.json", "tokenizer.json", "model.safetensors"]));
        let sharded = ["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors", "m.gguf"];
        assert_eq!(chosen("o/n", &sharded).unwrap(), folder(&["config.json", "model.safetensors.index.json"]));
        assert_eq!(chosen("o/n/m.gguf", &sharded).unwrap(), ModelFiles::Gguf(vec!["m.gguf".into()]));
        let adapter = ["adapter_base.json", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"];
        let kept = folder(&["adapter_config.json", "adapter_base.json", "adapter_model.safetensors"]);
        assert_eq!(chosen("o/n", &adapter).unwrap(), kept);
    }

    #[test]
    fn what_cannot_be_chosen_is_listed() {
        assert_eq!(chosen("o/n", &["config.json", "q/a.gguf"]).unwrap(), ModelFiles::Gguf(vec!["q/a.gguf".into()]));
        let [one, two] = [1, 2].map(|n| format!("q/b-0000{n}-of-00002.gguf"));
        let both = ModelFiles::Gguf(vec![one.clone(), two.clone()]);
        assert_eq!(chosen("o/n", &[&two, &one]).unwrap(), both);
        assert_eq!(chosen(&format!("o/n/{two}"), &["a.gguf", &one, &two]).unwrap(), both);
        let alone = chosen("o/n", &[&one]).unwrap_err().to_string();
        assert!(alone.contains(&format!("part {two} is missing")), "{alone}");
        let several = chosen("o/n", &["a.gguf", "b.gguf"]).unwrap_err().to_string();
        assert!(several.contains("o/n/a.gguf: a.gguf, b.gguf"), "{several}");
        let other = chosen("o/n/c.gguf", &["a.gguf", "b.gguf"]).unwrap_err().to_string();
        assert!(other.contains("no c.gguf") && other.contains("a.gguf, b.gguf"), "{other}");
        let none = chosen("o/n", &["config.json", "pytorch_model.bin"]).unwrap_err().to_string();
        assert!(none.contains("pytorch_model.bin"), "{none}");
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        for name in ["../x", "a/../../x", "/etc/x", "a//b", "./x", "a\\x", "C:x", "a\0b", "", "a/", "x\ny"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(["x", "a/b.gguf", "..x", "a b"].iter().all(|name| is_plain(name)));
    }
}
