//! Writing: single files that appear whole or not at all, and model folders that `transformers` loads.

use crate::disk::{self, OnDisk};
use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::gguf_types::GgufTypes;
use super::safetensors::{INDEX, MAX_SHARD, SINGLE, Types, write_shards};
use crate::arch::{Dtype, NamedTensor, family};
use crate::json::{read_json, write_json};
use crate::text::Text;
use crate::{Error, Result, durable};

/// The parts that make a model folder or a GGUF file.
#[derive(Clone, Copy)]
pub struct ModelParts<'a> {
    /// The content of config.json; `dtype` and, if missing, `architectures` are filled in.
    pub config: &'a Value,
    /// The content of generation_config.json, if there is one.
    pub generation_config: Option<&'a Value>,
    /// The tokenizer and the chat template, if there are any.
    pub text: Option<&'a Text>,
    /// Every parameter once; a tied output matrix is not among them.
    pub tensors: &'a [NamedTensor],
    /// The storage type: F32, F16 or BF16; in GGUF files also types of blocks.
    pub dtype: Dtype,
}

/// Gives the values of a parameter, by its name in Hugging Face's files and its shape; it is asked for each once, in
/// the family's order, and what it gives is let go of before it is asked for the next.
pub type Values<'a> = dyn Fn(&str, &[usize]) -> Result<Cow<'a, [f32]>> + 'a;

/// A model to write as a GGUF file.
#[derive(Clone, Copy)]
pub struct GgufParts<'a> {
    /// The content of config.json.
    pub config: &'a Value,
    /// The content of generation_config.json, if there is one.
    pub generation_config: Option<&'a Value>,
    /// The tokenizer and the chat template, if there are any.
    pub text: Option<&'a Text>,
    /// How the matrices are stored.
    pub types: GgufTypes,
    /// Where the parameters come from.
    pub values: &'a Values<'a>,
}

/// Writes a model folder. A new folder appears whole or not at all; in an existing one each file is replaced as a
/// whole, the weights last, and other files stay.
///
/// # Errors
/// The configuration is no object, or the tensors do not fit it; errors of the file system.
pub fn save_model_parts(folder: &Path, parts: &ModelParts<'_>) -> Result<()> {
    save_as(folder, parts, Types { matrices: parts.dtype, vectors: parts.dtype })
}

/// Does what [`save_model_parts`] does, with matrices in `parts.dtype` and vectors in f32, as they were trained.
///
/// # Errors
/// As [`save_model_parts`].
pub(crate) fn save_trained(folder: &Path, parts: &ModelParts<'_>) -> Result<()> {
    save_as(folder, parts, Types { matrices: parts.dtype, vectors: Dtype::F32 })
}

fn save_as(folder: &Path, parts: &ModelParts<'_>, types: Types) -> Result<()> {
    check_tensors(parts)?;
    replace_folder(folder, |temporary| write_parts(temporary, parts, types))
}

/// Calls `write` with a new folder beside `folder` and moves what it wrote there.
pub(super) fn replace_folder(folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = durable::beside(folder)?;
    durable::remove_folder(&temporary)?;
    durable::create_folder(&temporary)?;
    let done = write(&temporary).and_then(|()| {
        if folder.is_there() { move_files(&temporary, folder) } else { durable::rename(&temporary, folder) }
    });
    if done.is_err() {
        // The first error is the one to report; a leftover is removed by the next attempt.
        let _ = disk::remove_dir_all(&temporary);
    }
    done?;
    durable::sync_folder(folder.parent());
    Ok(())
}

/// The file that says in a model folder without weights why there are none.
pub const REMOVED_FILE: &str = "removed.json";

/// Removes a model folder's weights; its configuration, its tokenizer and a note with the reason stay. A folder without
/// weights stays as it is.
///
/// # Errors
/// Errors of the file system.
pub fn remove_weights(folder: &Path, why: &str) -> Result<()> {
    let mut names = Vec::new();
    for entry in disk::read_dir(folder).map_err(Error::io(folder))? {
        names.push(entry.map_err(Error::io(folder))?.file_name());
    }
    names.retain(|name| name == INDEX || name.to_string_lossy().ends_with(".safetensors"));
    if names.is_empty() {
        return Ok(());
    }
    // First, so that a folder without weights always says why.
    write_json(&folder.join(REMOVED_FILE), &serde_json::json!({ "weights": why }))?;
    names.iter().try_for_each(|name| durable::remove_file(&folder.join(name)))
}

/// The reason in a folder that [`remove_weights`] left.
pub(crate) fn why_removed(folder: &Path) -> Result<Option<String>> {
    let note = folder.join(REMOVED_FILE);
    if !note.is_there() {
        return Ok(None);
    }
    let document: Value = read_json(&note)?;
    Ok(Some(document["weights"].as_str().unwrap_or("were removed").to_owned()))
}

pub(super) fn check_tensors(parts: &ModelParts<'_>) -> Result<()> {
    let arch = family::arch(parts.config)?;
    let expected = family::parameters(&arch);
    for (name, shape) in &expected {
        match parts.tensors.iter().find(|tensor| tensor.name == *name) {
            None => return Err(Error::Input(format!("tensor {name} {shape:?} is missing from the model to save"))),
            Some(tensor) if tensor.shape != *shape => {
                let found = &tensor.shape;
                return Err(Error::Input(format!(
                    "tensor {name} has shape {found:?}, its configuration asks for {shape:?}"
                )));
            }
            Some(_) => {}
        }
    }
    match parts.tensors.iter().find(|tensor| !expected.iter().any(|(name, _)| *name == tensor.name)) {
        Some(surplus) => Err(Error::Input(format!("tensor {} does not belong to this configuration", surplus.name))),
        None => Ok(()),
    }
}

fn write_parts(folder: &Path, parts: &ModelParts<'_>, types: Types) -> Result<()> {
    let mut config = parts.config.clone();
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_string();
    if let Some(config) = config.as_object_mut() {
        if !config.get("architectures").is_some_and(Value::is_array)
            && let Some(class) = family::class_name(&model_type)
        {
            config.insert("architectures".into(), vec![class].into());
        }
        let dtype = match parts.dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        };
        config.insert("dtype".into(), dtype.into());
        config.remove("torch_dtype");
    }
    write_json(&folder.join("config.json"), &config)?;
    if let Some(generation_config) = parts.generation_config {
        write_json(&folder.join("generation_config.json"), generation_config)?;
    }
    if let Some(text) = parts.text {
        write_text(folder, text)?;
    }
    let arch = family::arch(parts.config)?;
    if family::is_stacked(&arch) {
        return write_shards(folder, &family::as_modules(&arch, parts.tensors.to_vec()), types, MAX_SHARD);
    }
    write_shards(folder, parts.tensors, types, MAX_SHARD)
}

/// tokenizer.json and tokenizer_config.json with the chat template.
pub(super) fn write_text(folder: &Path, text: &Text) -> Result<()> {
    durable::write_file(&folder.join("tokenizer.json"), text.tokenizer_json().as_bytes())?;
    write_json(&folder.join("tokenizer_config.json"), text.tokenizer_config())
}

fn move_files(from: &Path, to: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in disk::read_dir(from).map_err(Error::io(from))? {
        names.push(entry.map_err(Error::io(from))?.file_name());
    }
    // The weights are what makes a folder a model, so they come last; shards mean nothing before their index is there.
    names.sort_by_key(|name| (name == INDEX, name.to_string_lossy().ends_with(".safetensors")));
    let sharded = names.iter().any(|name| name == INDEX);
    for name in names {
        durable::rename(&from.join(&name), &to.join(&name))?;
    }
    // What was there in the other form would be another model.
    let stale = to.join(if sharded { SINGLE } else { INDEX });
    durable::remove_file(&stale)?;
    durable::sync_folder(Some(to));
    disk::remove_dir(from).map_err(Error::io(from))
}
