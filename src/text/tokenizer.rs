//! The tokenizer itself: read from tokenizer.json, or made of parts that are known already.

use super::bounds;
use super::bpe::Bpe;
use super::dialect;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token,
    TokenizerImpl,
};

pub(super) type Tokenizer =
    TokenizerImpl<AnyModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A model of `tokenizers`, or ours.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum AnyModel {
    Read(Box<ModelWrapper>),
    Made(Box<Bpe>),
}

impl<'de> Deserialize<'de> for AnyModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(|model| AnyModel::Read(Box::new(model)))
    }
}

/// Calls a method of the model, whichever it is.
macro_rules! call {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match $self {
            AnyModel::Read(model) => model.$method($($argument),*),
            AnyModel::Made(model) => model.$method($($argument),*),
        }
    };
}

impl Model for AnyModel {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        call!(self, tokenize, sequence)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        call!(self, token_to_id, token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        call!(self, id_to_token, id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        call!(self, get_vocab)
    }

    fn get_vocab_size(&self) -> usize {
        call!(self, get_vocab_size)
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        call!(self, save, folder, prefix)
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

/// What a byte-pair tokenizer is made of where there is no tokenizer.json.
pub(crate) struct Parts {
    pub(crate) model: Bpe,
    /// The tokens that are cut out of a text before the model sees it.
    pub(crate) added: Vec<AddedToken>,
    /// `normalizer`, `pre_tokenizer`, `post_processor` and `decoder` as tokenizer.json has them.
    pub(crate) steps: Value,
}

/// What is looked at in a tokenizer.json; the vocabulary is passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Outline<'a> {
    added_tokens: Value,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    decoder: Value,
    model: ModelOutline,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelOutline {
    max_input_chars_per_word: Value,
}

/// The added tokens and steps of a tokenizer.json, under its keys.
///
/// # Errors
/// The text is not JSON, or its outermost parts are of a wrong kind.
pub(super) fn outline(json: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Outline>(json)?.value()
}

impl Outline<'_> {
    fn value(self) -> serde_json::Result<Value> {
        let step = |raw: Option<&RawValue>| raw.map_or(Ok(Value::Null), |raw| serde_json::from_str(raw.get()));
        let object = |entries: Vec<(&str, Value)>| -> Value {
            entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
        };
        let model = object(vec![("max_input_chars_per_word", self.model.max_input_chars_per_word)]);
        Ok(object(vec![
            ("added_tokens", self.added_tokens),
            ("normalizer", step(self.normalizer)?),
            ("pre_tokenizer", step(self.pre_tokenizer)?),
            ("decoder", self.decoder),
            ("model", model),
        ]))
    }

    /// The file, `json`, with its patterns in the dialect that is understood here.
    fn translated<'a>(&self, json: &'a str) -> serde_json::Result<Cow<'a, str>> {
        let mut text = Cow::Borrowed(json);
        let begin = |raw: &RawValue| raw.get().as_ptr().addr() - json.as_ptr().addr();
        let mut steps: Vec<&RawValue> = [self.normalizer, self.pre_tokenizer].into_iter().flatten().collect();
        // What stands behind is put in first, so that the other's place stays what it is.
        steps.sort_by_key(|raw| Reverse(begin(raw)));
        for raw in steps {
            let mut step: Value = serde_json::from_str(raw.get())?;
            if dialect::translate(&mut step) {
                text.to_mut().replace_range(begin(raw)..begin(raw) + raw.get().len(), &step.to_string());
            }
        }
        Ok(text)
    }
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Input(format!("tokenizer.json is broken: {error}"))
}

/// What `make` makes. `tokenizers` panics on some broken parts (merges shorter than the prefix that they are to lose, a
/// damaged SentencePiece normaliser). To find these beforehand would mean to read everything a second time, so the
/// panic is caught.
fn caught<T, E: std::fmt::Display>(make: impl FnOnce() -> std::result::Result<T, E>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(made) => made.map_err(broken),
        Err(_) => Err(broken("its reader gave up; convert the tokenizer again")),
    }
}

/// Reads a tokenizer.json, and tells its outline.
///
/// # Errors
/// The file is broken, or asks for more than is possible.
pub(super) fn read(json: &str) -> Result<(Tokenizer, Value)> {
    let parts: Outline = serde_json::from_str(json).map_err(broken)?;
    let json = parts.translated(json).map_err(broken)?;
    let outline = parts.value().map_err(broken)?;
    bounds::check(&outline).map_err(broken)?;
    let tokenizer = caught(|| Tokenizer::from_bytes(json.as_bytes()))?;
    Ok((tokenizer, outline))
}

/// Puts a tokenizer together.
///
/// # Errors
/// The parts are broken, or ask for more than is possible.
pub(super) fn make(parts: Parts) -> Result<Tokenizer> {
    let Parts { model, added, mut steps } = parts;
    bounds::check(&steps).map_err(broken)?;
    added.iter().try_for_each(|token| bounds::check_token(&token.content)).map_err(broken)?;
    caught(|| {
        let mut tokenizer = Tokenizer::new(AnyModel::Made(Box::new(model)));
        tokenizer
            .with_normalizer(step::<NormalizerWrapper>(&mut steps, "normalizer")?)
            .with_pre_tokenizer(step::<PreTokenizerWrapper>(&mut steps, "pre_tokenizer")?)
            .with_post_processor(step::<PostProcessorWrapper>(&mut steps, "post_processor")?)
            .with_decoder(step::<DecoderWrapper>(&mut steps, "decoder")?);
        tokenizer.add_tokens(&added);
        Ok::<_, serde_json::Error>(tokenizer)
    })
}

fn step<T: DeserializeOwned>(steps: &mut Value, name: &str) -> serde_json::Result<Option<T>> {
    serde_json::from_value(steps[name].take())
}

/// Where a SentencePiece BPE puts its leading blank, if not where tokenizer.json says. Converters write a normalizer
/// that puts one before every piece between special tokens, or a `Metaspace`. `LlamaTokenizer` of transformers takes
/// only vocabulary and merges from the file, and puts one at the text's start, or everywhere with `legacy`, or nowhere
/// without `add_prefix_space`; `CodeLlamaTokenizer` does not ask for `legacy`.
pub(super) fn llama_prefix(outline: &Value, config: &Value) -> Option<PrependScheme> {
    let class = config.get("tokenizer_class")?.as_str()?;
    let code = match class.strip_suffix("Fast").unwrap_or(class) {
        "LlamaTokenizer" => false,
        "CodeLlamaTokenizer" => true,
        _ => return None,
    };
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == "▁";
    let normalizer = &outline["normalizer"];
    let converted = outline["pre_tokenizer"]["type"] == "Metaspace"
        || prepends(normalizer)
        || normalizer["normalizers"].as_array().is_some_and(|steps| steps.iter().any(prepends));
    if !converted {
        return None;
    }
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    Some(match (flag("add_prefix_space"), flag("legacy")) {
        (Some(false), _) => PrependScheme::Never,
        (_, Some(true)) if !code => PrependScheme::Always,
        _ => PrependScheme::First,
    })
}
