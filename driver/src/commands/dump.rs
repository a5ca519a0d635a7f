//! `dump`: numbers for comparison with other programs, in f32.

use crate::app::{App, DtypeArg, Pin, check_writable};
use anyhow::{Result, bail, ensure};
use selfreward::arch::Dtype;
use selfreward::arch::NamedTensor;
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::json::{read_json, write_file};
use selfreward::model::{Model, score};
use selfreward::source::ModelSource;
use selfreward::text::TemplateInputs;
use selfreward::weights::write_safetensors;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

mod train;

#[derive(clap::Subcommand)]
pub(crate) enum Kind {
    /// Token ids of strings and conversations
    Tokens(TokensArgs),
    /// Logits of token-id lists: logits.I [len, vocab]
    Logits(IdsArgs),
    /// Residual streams of token-id lists: hidden.I.L [len, hidden]
    Hidden(IdsArgs),
    /// Log-probs of each token of token-id lists: logps.I [len − 1]
    Logps(IdsArgs),
    /// Greedy continuations of token-id lists
    Generate(GenerateArgs),
    /// DPO loss, log-probs and gradients of one batch, and an AdamW trajectory
    Dpo(train::DpoArgs),
    /// SFT loss and gradients of one batch, and an AdamW trajectory
    Sft(train::SftArgs),
}

#[derive(clap::Args)]
pub(crate) struct TokensArgs {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder, or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// A JSON list of strings, of message lists (chat template with the generation prompt), or of {"messages": …,
    /// "tools": …, "chat_template_kwargs": …}
    #[arg(long, value_name = "FILE.json")]
    text: PathBuf,
    /// Put the special tokens around each string that the tokenizer's post-processor has for it
    #[arg(long)]
    special: bool,
    /// The list of id lists
    #[arg(long, value_name = "OUT.json")]
    out: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct IdsArgs {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder, or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// A JSON list of token-id lists
    #[arg(long, value_name = "FILE.json")]
    tokens: PathBuf,
    /// The file to write
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    #[command(flatten)]
    pin: Pin,
    #[command(flatten)]
    dtype: DtypeArg,
}

#[derive(clap::Args)]
pub(crate) struct GenerateArgs {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder, or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// A JSON list of token-id lists
    #[arg(long, value_name = "FILE.json")]
    tokens: PathBuf,
    /// Most tokens of a continuation, the stop token included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// The list of id lists
    #[arg(long, value_name = "OUT.json")]
    out: PathBuf,
    #[command(flatten)]
    pin: Pin,
    #[command(flatten)]
    dtype: DtypeArg,
}

/// A string, or a conversation with or without tools.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrChat {
    Text(String),
    Chat(Vec<Value>),
    WithInputs {
        messages: Vec<Value>,
        #[serde(flatten)]
        inputs: TemplateInputs,
    },
}

pub(crate) fn run(app: &App, kind: &Kind) -> Result<()> {
    match kind {
        Kind::Tokens(a) => tokens(app, a),
        Kind::Logits(a) => logits(app, a),
        Kind::Hidden(a) => hidden(app, a),
        Kind::Logps(a) => logps(app, a),
        Kind::Generate(a) => generate(app, a),
        Kind::Dpo(a) => train::dpo(app, a),
        Kind::Sft(a) => train::sft(app, a),
    }
}

fn tokens(app: &App, args: &TokensArgs) -> Result<()> {
    check_writable(&args.out)?;
    let source = app.source(&args.model)?;
    let text = source.text()?;
    let ids: Vec<Vec<u32>> = read_json::<Vec<TextOrChat>>(&args.text)?
        .iter()
        .map(|entry| match entry {
            TextOrChat::Text(s) if args.special => text.encode_special(s),
            TextOrChat::Text(s) => text.encode(s),
            TextOrChat::Chat(messages) => text.encode_json_chat(messages, &TemplateInputs::default(), true),
            TextOrChat::WithInputs { messages, inputs } => text.encode_json_chat(messages, inputs, true),
        })
        .collect::<selfreward::Result<_>>()?;
    Ok(write_file(&args.out, &serde_json::to_vec(&ids)?)?)
}

/// Reads and checks the token-id lists, checks the output's folder, and opens the model.
fn open(
    app: &App,
    model: &Path,
    tokens: &Path,
    out: &Path,
    (pin, dtype): (&Pin, &DtypeArg),
) -> Result<(Vec<Vec<u32>>, ModelSource, Gpu, Model)> {
    check_writable(out)?;
    let source = app.source(model)?;
    let lists: Vec<Vec<u32>> = read_json(tokens)?;
    for (i, list) in lists.iter().enumerate() {
        let name = tokens.display();
        ensure!(!list.is_empty(), "{name}: list {i} is empty");
        if let Some(id) = list.iter().find(|id| **id as usize >= source.arch.vocab_size) {
            bail!("{name}: list {i} holds token {id}; the model has {} tokens", source.arch.vocab_size);
        }
    }
    let gpu = app.pinned_gpu(pin)?;
    let model = Model::load_as(&gpu, &source, dtype.storage())?;
    Ok((lists, source, gpu, model))
}

fn tensor(name: String, shape: Vec<usize>, data: Vec<f32>) -> NamedTensor {
    NamedTensor { name, shape, data }
}

fn logits(app: &App, args: &IdsArgs) -> Result<()> {
    let (lists, source, gpu, model) = open(app, &args.model, &args.tokens, &args.out, (&args.pin, &args.dtype))?;
    let mut tensors = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        let values = score::logits(&gpu, &model, list)?;
        tensors.push(tensor(format!("logits.{i}"), vec![list.len(), source.arch.vocab_size], values));
    }
    Ok(write_safetensors(&args.out, &tensors, Dtype::F32)?)
}

fn hidden(app: &App, args: &IdsArgs) -> Result<()> {
    let (lists, source, gpu, model) = open(app, &args.model, &args.tokens, &args.out, (&args.pin, &args.dtype))?;
    let mut tensors = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        for (layer, values) in score::hidden(&gpu, &model, list)?.into_iter().enumerate() {
            let shape = vec![list.len(), source.arch.hidden_size];
            tensors.push(tensor(format!("hidden.{i}.{layer}"), shape, values));
        }
    }
    Ok(write_safetensors(&args.out, &tensors, Dtype::F32)?)
}

fn logps(app: &App, args: &IdsArgs) -> Result<()> {
    let (lists, _, gpu, model) = open(app, &args.model, &args.tokens, &args.out, (&args.pin, &args.dtype))?;
    let scored = |list: &&Vec<u32>| list.len() > 1;
    let branch = |list: &Vec<u32>| score::Branch { prompt: list[..1].to_vec(), completions: vec![list[1..].to_vec()] };
    let branches: Vec<score::Branch> = lists.iter().filter(scored).map(branch).collect();
    let mut values = score::logps(&gpu, &model, &branches, &app.progress)?.into_iter().flatten();
    let mut tensors = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        // A single token has nothing before it that predicts it.
        let values = if scored(&list) { values.next().unwrap_or_default() } else { Vec::new() };
        tensors.push(tensor(format!("logps.{i}"), vec![values.len()], values));
    }
    Ok(write_safetensors(&args.out, &tensors, Dtype::F32)?)
}

fn generate(app: &App, args: &GenerateArgs) -> Result<()> {
    let (lists, source, gpu, model) = open(app, &args.model, &args.tokens, &args.out, (&args.pin, &args.dtype))?;
    let requests: Vec<Request> = lists.into_iter().map(|prompt| Request { prompt, samples: vec![0] }).collect();
    let settings = Settings::default()
        .sampling(Sampling::default().temperature(0.0))
        .max_new_tokens(args.max_new_tokens as usize)
        .stop(source.stop_ids.clone())
        .seed(app.common.seed());
    let outputs = Generator::new(&gpu, &model).run_with(&requests, &settings, &app.progress, &mut |_, _, _| {})?;
    let tokens: Vec<Vec<u32>> = outputs.into_iter().flatten().map(|o| o.tokens).collect();
    Ok(write_file(&args.out, &serde_json::to_vec(&tokens)?)?)
}
