//! `export`: a model as a Hugging Face folder or a GGUF file.

use crate::app::{App, check_writable};
use anyhow::{Result, bail};
use selfreward::Observer;
use selfreward::weights::{Dtype, ModelParts, save_gguf, save_model_parts};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, or run folder
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// What to write: a folder, or a file that ends in .gguf
    #[arg(long, value_name = "DIR|F.gguf")]
    out: PathBuf,
    /// What to write, whatever its name (default: gguf for a name that ends in .gguf, else hf)
    #[arg(long, value_enum, value_name = "F")]
    format: Option<Format>,
    /// Storage type of the weights; GGUF files keep vectors in f32 (default: the model's own, f32 if it is quantised)
    #[arg(long, value_enum, value_name = "T")]
    dtype: Option<Plain>,
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
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Plain {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Quantised {
    /// 8 bits and a scale for each 32 values
    #[value(name = "q8_0")]
    Q8_0,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    let format = format(args)?;
    let out = args.out.display();
    if args.out.exists() {
        bail!("{out}: exists already; give another name or remove it");
    }
    if format == Format::Hf && args.quantize.is_some() {
        bail!("--quantize is for GGUF files; a Hugging Face folder takes --dtype f32, f16 or bf16");
    }
    check_writable(&args.out)?;
    let source = app.source(&args.model)?;
    let own = || source.weights.get("model.embed_tokens.weight").map(|tensor| tensor.dtype);
    let dtype = match (args.quantize, args.dtype) {
        (Some(Quantised::Q8_0), _) => Dtype::Q8_0,
        (None, Some(Plain::F32)) => Dtype::F32,
        (None, Some(Plain::F16)) => Dtype::F16,
        (None, Some(Plain::Bf16)) => Dtype::BF16,
        (None, None) => Some(own()?).filter(|own| own.block().0 == 1).unwrap_or(Dtype::F32),
    };
    let tensors = source.tensors_f32()?;
    let parts = ModelParts {
        config: &source.config,
        generation_config: source.generation_config.as_ref(),
        text: source.text.as_ref(),
        tensors: &tensors,
        dtype,
    };
    match format {
        Format::Hf => save_model_parts(&args.out, &parts)?,
        Format::Gguf => save_gguf(&args.out, &parts)?,
    }
    if app.common.json {
        let name = if format == Format::Hf { "hf" } else { "gguf" };
        return app.json(&serde_json::json!({"out": args.out, "format": name, "dtype": dtype.name()}));
    }
    app.progress.note(&format!("{out}: {} tensors, {dtype}", tensors.len()));
    Ok(())
}

/// `--format`, else what the name ends in; a folder's name may hold dots, so only what looks like a file's is refused.
fn format(args: &Args) -> Result<Format> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    match Path::new(&args.out).extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Ok(Format::Gguf),
        Some(other) if ["safetensors", "bin", "pt", "pth", "onnx", "ggml", "zip", "json"].contains(&other) => {
            bail!("{}: .{other} files are not written; give a folder or a name that ends in .gguf", args.out.display())
        }
        _ => Ok(Format::Hf),
    }
}
