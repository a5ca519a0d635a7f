//! `export`: a model as a Hugging Face folder or a GGUF file, an adapter merged into it or as a PEFT folder.

use crate::app::{App, check_writable};
use crate::dtype::one_of;
use anyhow::{Result, bail, ensure};
use selfreward::Observer;
use selfreward::arch::Dtype;
use selfreward::source::{ModelSource, save_adapter};
use selfreward::weights::{ModelParts, save_gguf, save_model_parts};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder, or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// What to write: a folder, or a file that ends in .gguf
    #[arg(long, value_name = "DIR|F.gguf")]
    out: PathBuf,
    /// What to write, whatever its name (default: gguf for a name that ends in .gguf, else peft for a model with an
    /// adapter that is not merged, else hf)
    #[arg(long, value_enum, value_name = "F")]
    format: Option<Format>,
    /// Merge the model's LoRA adapter into the weights, which hf and gguf need; a model without one is written as it is
    #[arg(long)]
    merge: bool,
    /// Storage type of the weights; GGUF files keep vectors in f32 (default: the model's own, f32 if it is quantised
    /// and for a PEFT folder)
    #[arg(long, value_name = "T", value_parser = one_of([Dtype::F32, Dtype::F16, Dtype::BF16]))]
    dtype: Option<Dtype>,
    /// Quantise a GGUF file's matrices; rows that are no multiple of 32 are stored as f16
    #[arg(long, value_enum, value_name = "Q", conflicts_with = "dtype")]
    quantize: Option<Quantised>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// A folder with safetensors, sharded above 5 GB
    Hf,
    /// One GGUF file
    Gguf,
    /// The adapter alone, which names its base model by its path
    Peft,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Quantised {
    /// 8 bits and a scale for each 32 values
    #[value(name = "q8_0")]
    Q8_0,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let named = named_format(args)?;
    let out = args.out.display();
    if args.out.exists() {
        bail!("{out}: exists already; give another name or remove it");
    }
    check_writable(&args.out)?;
    let source = app.source(&args.model)?;
    let format = match named {
        Some(format) => format,
        None if source.adapter.is_some() && !args.merge => Format::Peft,
        None => Format::Hf,
    };
    if format != Format::Gguf && args.quantize.is_some() {
        bail!("--quantize is for GGUF files; a folder takes --dtype f32, f16 or bf16");
    }
    let dtype = match (args.quantize, args.dtype) {
        (Some(Quantised::Q8_0), _) => Dtype::Q8_0,
        (None, Some(dtype)) => dtype,
        (None, None) => default_dtype(format, &source)?,
    };
    let model = args.model.display();
    let count = match (format, &source.adapter) {
        (Format::Peft, Some(adapter)) => {
            ensure!(
                !args.merge,
                "--merge and --format peft exclude each other: a merged adapter is one with the weights"
            );
            save_adapter(&args.out, &source, adapter, dtype)?;
            app.tell_base(&source);
            adapter.tensors.len()
        }
        (Format::Peft, None) => bail!("{model}: has no adapter, so there is nothing to write as a PEFT folder"),
        (_, Some(_)) if !args.merge => {
            bail!(
                "{model}: has an adapter; add --merge to merge it into the weights, or write it alone by --format peft"
            )
        }
        (_, adapter) => {
            if args.merge && adapter.is_none() {
                app.progress.note(&format!("{model}: has no adapter to merge"));
            }
            save_whole(app, args, format, &source, dtype)?
        }
    };
    if app.common.json {
        let name = match format {
            Format::Hf => "hf",
            Format::Gguf => "gguf",
            Format::Peft => "peft",
        };
        return app.json(&serde_json::json!({"out": args.out, "format": name, "dtype": dtype.name()}));
    }
    app.progress.note(&format!("{out}: {count} tensors, {dtype}"));
    Ok(())
}

fn default_dtype(format: Format, source: &ModelSource) -> Result<Dtype> {
    let own = source.weights.get("model.embed_tokens.weight")?.dtype;
    Ok(Some(own).filter(|own| own.block().0 == 1 && format != Format::Peft).unwrap_or(Dtype::F32))
}

/// Writes all weights, with the adapter, if there is one, merged into them, and returns how many there are.
fn save_whole(app: &App, args: &Args, format: Format, source: &ModelSource, dtype: Dtype) -> Result<usize> {
    let tensors = source.tensors_f32()?;
    let parts = ModelParts {
        config: &source.config,
        generation_config: source.generation_config.as_ref(),
        text: source.text.as_ref(),
        tensors: &tensors,
        dtype,
    };
    match format {
        Format::Gguf => {
            save_gguf(&args.out, &parts)?.iter().for_each(|note| app.progress.note(&format!("warning: {note}")));
        }
        _ => save_model_parts(&args.out, &parts)?,
    }
    Ok(tensors.len())
}

/// The format that `--format` names, or else the one that the name's ending means. A folder's name may hold dots, so
/// only an ending that means a file is refused.
fn named_format(args: &Args) -> Result<Option<Format>> {
    if args.format.is_some() {
        return Ok(args.format);
    }
    match Path::new(&args.out).extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Ok(Some(Format::Gguf)),
        Some(other) if ["safetensors", "bin", "pt", "pth", "onnx", "ggml", "zip", "json"].contains(&other) => {
            bail!("{}: .{other} files are not written; give a folder or a name that ends in .gguf", args.out.display())
        }
        _ => Ok(None),
    }
}
