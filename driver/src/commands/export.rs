//! `export`: a model as a Hugging Face folder or a GGUF file, an adapter merged into it, as a PEFT folder or as
//! llama.cpp's adapter file.

use crate::app::{App, check_writable};
use crate::dtype::one_of;
use anyhow::{Result, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use selfreward::Observer;
use selfreward::arch::Dtype;
use selfreward::source::{ModelSource, save_adapter, save_gguf_adapter};
use selfreward::weights::{GgufParts, GgufTypes, GgufWritten, Instead, ModelParts, save_model_parts, write_gguf};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, PEFT folder, llama.cpp's adapter file, run folder, or hub id
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
    /// and for an adapter)
    #[arg(long, value_name = "T", value_parser = one_of([Dtype::F32, Dtype::F16, Dtype::BF16]))]
    dtype: Option<Dtype>,
    /// Quantise a GGUF file's matrices: all to one type, or with _m q6_k for the output matrix and half of attn_v and
    /// ffn_down, as llama.cpp mixes them. Rows that are no multiple of 256 take q5_0 instead of q4_k, q5_1 instead of
    /// q5_k and q8_0 instead of q6_k, rows that are no multiple of 32 f16; the command says how many did
    #[arg(long, value_name = "Q", value_parser = quantised(), conflicts_with = "dtype")]
    quantize: Option<GgufTypes>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// A folder with safetensors, sharded above 5 GB
    Hf,
    /// One GGUF file
    Gguf,
    /// The adapter alone, a folder that names its base model by its path
    Peft,
    /// The adapter alone, one GGUF file for llama.cpp
    GgufLora,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Hf => "hf",
            Format::Gguf => "gguf",
            Format::Peft => "peft",
            Format::GgufLora => "gguf-lora",
        }
    }

    /// Whether it holds an adapter alone.
    fn is_adapter(self) -> bool {
        matches!(self, Format::Peft | Format::GgufLora)
    }
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
        bail!("--quantize is for GGUF files (--format gguf); what else is written takes --dtype f32, f16 or bf16");
    }
    let types = match (args.quantize, args.dtype) {
        (Some(types), _) => types,
        (None, Some(dtype)) => GgufTypes::Each(dtype),
        (None, None) => GgufTypes::Each(default_dtype(format, &source)?),
    };
    let model = args.model.display();
    let written = match (format, &source.adapter) {
        (_, Some(adapter)) if format.is_adapter() => {
            let name = format.name();
            ensure!(
                !args.merge,
                "--merge and --format {name} exclude each other: a merged adapter is one with the weights"
            );
            let mut gguf = None;
            if format == Format::Peft {
                save_adapter(&args.out, &source, adapter, types.most())?;
            } else {
                let notes = save_gguf_adapter(&args.out, &source, adapter, types.most())?;
                gguf = Some(GgufWritten { notes, ..GgufWritten::default() });
            }
            app.tell_base(&source);
            Written { count: adapter.tensors.len(), gguf }
        }
        (Format::Peft, None) => bail!("{model}: has no adapter, so there is nothing to write as a PEFT folder"),
        (Format::GgufLora, None) => bail!("{model}: has no adapter, so there is nothing to write as an adapter file"),
        (_, Some(_)) if !args.merge => {
            bail!(
                "{model}: has an adapter; add --merge to merge it into the weights, or write it alone by --format peft \
                 or gguf-lora"
            )
        }
        (_, adapter) => {
            if args.merge && adapter.is_none() {
                app.progress.note(&format!("{model}: has no adapter to merge"));
            }
            save_whole(args, format, &source, types)?
        }
    };
    let (count, name) = (written.count, types.name());
    for note in written.gguf.iter().flat_map(|gguf| &gguf.notes) {
        app.progress.note(&format!("warning: {note}"));
    }
    if app.common.json {
        let mut document = json!({"out": args.out, "format": format.name(), "dtype": name});
        if let Some(gguf) = written.gguf.as_ref().filter(|_| format == Format::Gguf) {
            document["types"] = json!(gguf.types);
            document["instead"] = gguf.instead.iter().map(other_type).collect();
        }
        return app.json(&document);
    }
    for instead in written.gguf.iter().flat_map(|gguf| &gguf.instead) {
        app.progress.note(&instead.to_string());
    }
    app.progress.note(&format!("{out}: {count} tensors, {name}{}", by_type(written.gguf.as_ref())));
    Ok(())
}

/// What was written: how many tensors, and what is known of a GGUF file.
struct Written {
    count: usize,
    gguf: Option<GgufWritten>,
}

fn other_type(instead: &Instead) -> Value {
    let Instead { wanted, stored, count, first, width } = instead;
    json!({"wanted": wanted.name(), "stored": stored.name(), "count": count, "first": first, "width": width})
}

/// How many tensors of a quantised file have which type.
fn by_type(gguf: Option<&GgufWritten>) -> String {
    let Some(types) = gguf.map(|gguf| &gguf.types).filter(|types| types.len() > 1) else { return String::new() };
    let counts: Vec<String> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    format!(" ({})", counts.join(", "))
}

fn default_dtype(format: Format, source: &ModelSource) -> Result<Dtype> {
    let own = source.weights.get("model.embed_tokens.weight")?.dtype;
    Ok(Some(own).filter(|own| own.block().0 == 1 && !format.is_adapter()).unwrap_or(Dtype::F32))
}

/// Writes all weights, with the adapter, if there is one, merged into them. A GGUF file is written tensor by tensor.
fn save_whole(args: &Args, format: Format, source: &ModelSource, types: GgufTypes) -> Result<Written> {
    let (config, text) = (&source.merged_config(), source.text.as_ref());
    let generation_config = source.generation_config.as_ref();
    if format == Format::Gguf {
        let values = |name: &str, shape: &[usize]| Ok(source.tensor_f32(name, shape)?.data.into());
        let gguf = write_gguf(&args.out, &GgufParts { config, generation_config, text, types, values: &values })?;
        return Ok(Written { count: gguf.types.values().sum(), gguf: Some(gguf) });
    }
    let tensors = source.tensors_f32()?;
    let parts = ModelParts { config, generation_config, text, tensors: &tensors, dtype: types.most() };
    save_model_parts(&args.out, &parts)?;
    Ok(Written { count: tensors.len(), gguf: None })
}

/// A `value_parser` for the names of what a GGUF file may be quantised to.
fn quantised() -> impl TypedValueParser<Value = GgufTypes> {
    let names = GgufTypes::QUANTISED.map(|types| types.name().to_lowercase());
    PossibleValuesParser::new(names).try_map(|given| {
        let named = GgufTypes::QUANTISED.into_iter().find(|types| types.name().eq_ignore_ascii_case(&given));
        named.ok_or("no type of blocks")
    })
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
