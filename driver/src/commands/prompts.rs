//! `prompts`: new prompts in the manner of given ones, by self-instruct.

use crate::app::{App, DtypeArg, check_writable};
use crate::flags::{Flags, Preset};
use crate::sample::Kept;
use anyhow::{Result, ensure};
use selfreward::config::{PromptSection, RoundSettings};
use selfreward::data::records::DroppedRecord;
use selfreward::generate::GpuEngine;
use selfreward::json::{read_json, read_jsonl, write_json};
use selfreward::kernels::half::Half;
use selfreward::measure::held_out::read_held_out;
use selfreward::model::Model;
use selfreward::recipe::chat::ChatDomain;
use selfreward::recipe::context::RoundContext;
use selfreward::recipe::models::NoModels;
use selfreward::recipe::stages::prompts;
use selfreward::settings;
use selfreward::waves::tidy;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model), or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// Examples to follow: lines with a prompt (default: the shipped ones)
    #[arg(long, value_name = "F.jsonl")]
    seeds: Option<PathBuf>,
    /// New prompts wanted
    #[arg(short, long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The new prompts; what was dropped, and why, goes beside them. Must not exist yet
    #[arg(long, value_name = "F.jsonl")]
    out: PathBuf,
    /// Files of prompts, such as evaluation sets: new prompts that stand in one, or are similar to one of it, are
    /// dropped
    #[arg(long, value_name = "F.jsonl")]
    exclude: Vec<PathBuf>,
    #[command(flatten)]
    settings: Flags<Writing>,
    #[command(flatten)]
    kept: Flags<Kept>,
    #[command(flatten)]
    dtype: DtypeArg,
}

/// The way in which prompts are written where flags do not say otherwise.
struct Writing;

impl Preset for Writing {
    type Of = PromptSection;

    fn defaults() -> PromptSection {
        PromptSection::default()
    }

    fn takes(key: &str) -> bool {
        ["temperature", "top_p", "max_new_tokens"].contains(&key)
    }
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    check_writable(&args.out)?;
    ensure!(!args.out.exists(), "{}: exists already; name another file or remove it", args.out.display());
    let section = PromptSection::clone(&args.settings)
        .seed_file(args.seeds.clone().unwrap_or_default())
        .count(args.count as usize);
    let source = app.source(&args.model)?;
    let domain = ChatDomain::new(&source, &section)?;
    let round = RoundSettings { prompts: section, ..RoundSettings::default() };
    let gpu = app.gpu()?;
    let model = Model::load_as(&gpu, &source, args.dtype.storage())?;
    let mut held_out = Vec::new();
    for path in &args.exclude {
        held_out.extend(read_held_out(path)?);
    }
    let ctx = RoundContext {
        domain: &domain,
        settings: &round,
        seed: app.common.seed(),
        round: 1,
        observer: &app.progress,
        models: &NoModels,
        held_out: &held_out,
    };
    // Finished waves of an interrupted call count only if everything that shaped them is the same.
    let plan = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "model": source.path, "section": settings::table(&round.prompts)?,
        "held_out": held_out, "seed": app.common.seed(), "device": gpu.info().name, "kernels": gpu.form().name(),
        "dtype": args.dtype.half().map(Half::name), "kv": args.kept.kv,
    });
    let plan_file = args.out.with_extension("part.json");
    if !read_json::<serde_json::Value>(&plan_file).is_ok_and(|before| before == plan) {
        tidy(&args.out)?;
        write_json(&plan_file, &plan)?;
    }
    let dropped = args.out.with_extension("dropped.jsonl");
    let kept =
        prompts::write(&mut GpuEngine::new(&gpu, &model).kv(args.kept.kv), &domain, &ctx, &[], [&args.out, &dropped])?;
    std::fs::remove_file(&plan_file)?;
    app.progress.clear();
    let lost = read_jsonl::<DroppedRecord>(&dropped)?.len();
    if app.common.json {
        return app.json(&serde_json::json!({"out": args.out, "prompts": kept.len(), "dropped": lost}));
    }
    app.line(format!("{}: {} new prompts; {lost} dropped, see {}", args.out.display(), kept.len(), dropped.display()))
}
