//! `generate`: answers to one prompt or to a file of them.

use crate::app::{App, DtypeArg, check_writable};
use crate::flags::Flags;
use crate::partial::{Partial, ResumeArg, digest, discard, wave};
use crate::profile::ProfileArg;
use crate::sample::{self, Answers, Kept};
use anyhow::{Result, ensure};
use selfreward::Observer;
use selfreward::data::answers::AskedRecord;
use selfreward::data::records::hex;
use selfreward::generate::{Generator, Request, load_for};
use selfreward::json::{read_jsonl_or_texts, write_jsonl};
use selfreward::judge::Checks;
use selfreward::kernels::half::Half;
use selfreward::rng::record_id;
use selfreward::settings;
use selfreward::text::Prompt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model), or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    #[command(flatten)]
    input: Input,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Answers to each prompt
    #[arg(short, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    #[command(flatten)]
    sample: Flags<Answers>,
    #[command(flatten)]
    kept: Flags<Kept>,
    #[command(flatten)]
    dtype: DtypeArg,
    /// Cut the answer before this text; may be given several times
    #[arg(long, value_name = "S")]
    stop: Vec<String>,
    /// Write JSONL records here instead of text to stdout
    #[arg(long, value_name = "F.jsonl")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArg,
    #[command(flatten)]
    profile: ProfileArg,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// The prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with one {"prompt": TEXT or list of messages} a line, or a JSON list of texts
    #[arg(long, value_name = "F.jsonl")]
    prompts: Option<PathBuf>,
}

/// One answer to a prompt, as it is written.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// Place of the prompt, from 0.
    index: usize,
    sample: u32,
    /// Keys the random numbers of this answer, together with the seed.
    id: String,
    #[serde(flatten)]
    prompt: Prompt,
    #[serde(flatten)]
    checks: Checks,
    response: String,
    prompt_tokens: usize,
    tokens: usize,
    /// Whether the model ended the answer itself, or a stop text did; otherwise it was cut.
    stopped: bool,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if let Some(out) = &args.out {
        check_writable(out)?;
    }
    let prompts: Vec<AskedRecord> = match (&args.input.prompt, &args.input.prompts) {
        (_, Some(file)) => {
            let prompts: Vec<AskedRecord> = read_jsonl_or_texts(file, "prompt")?;
            ensure!(!prompts.is_empty(), "{}: holds no prompt", file.display());
            if let Some(i) = prompts.iter().position(|asked| asked.prompt.is_empty()) {
                anyhow::bail!("{}: prompt {} is empty", file.display(), i + 1);
            }
            prompts
        }
        (prompt, None) => {
            let alone = |text: &String| AskedRecord { prompt: text.clone().into(), checks: Checks::default() };
            prompt.iter().map(alone).collect()
        }
    };
    ensure!(!prompts.iter().any(|asked| asked.prompt.is_empty()), "the prompt is empty");
    ensure!(!args.stop.iter().any(String::is_empty), "--stop is empty");
    let (source, (gpu, peaks)) = app.source_beside(&args.model, || args.profile.gpu(app))?;
    let text = source.text()?;
    let ids: Vec<Vec<u32>> =
        prompts.iter().map(|p| p.prompt.encode(text, args.raw)).collect::<selfreward::Result<_>>()?;
    let key = |prompt: &[u32], sample| record_id(0, "generate", prompt, sample);
    let settings = sample::settings(&args.sample, &source, app.common.seed());
    let wave = wave(gpu.info().software, args.n);
    let request = |p: &Vec<u32>| Request { prompt: p.clone(), samples: (0..args.n).map(|s| key(p, s)).collect() };
    let first: Vec<Request> = ids.iter().take(wave).map(request).collect();
    let model = load_for(&gpu, &source, args.dtype.storage(), (&first, &settings, args.kept.kv))?;
    let plan = json!({
        "wave": wave, "data": digest(&ids), "model": source.path, "n": args.n,
        "sampling": settings::table(&*args.sample)?, "stop": args.stop, "seed": app.common.seed(),
        "dtype": args.dtype.half().map(Half::name), "kv": args.kept.kv, "invariant": app.common.invariant,
    });
    let mut partial = Partial::open(args.out.as_deref(), &args.resume, &plan)?;
    let most = u64::from(args.n) * ids.len() as u64 * settings.max_new_tokens as u64;
    app.progress.begin("generate", Some(most), "tokens");
    let mut answers: Vec<Answer> = Vec::new();
    for (at, ids) in (0..).step_by(wave).zip(ids.chunks(wave)) {
        answers.extend(partial.step(&at.to_string(), || {
            let requests: Vec<Request> = ids.iter().map(request).collect();
            let outputs = Generator::new(&gpu, &model).kv(args.kept.kv).run_with(
                &requests,
                &settings,
                &app.progress,
                &mut |_, _, _| {},
            )?;
            let mut made = Vec::new();
            for (i, samples) in outputs.iter().enumerate() {
                for (sample, output) in (0..).zip(samples) {
                    let mut answer = text.decode(&output.tokens)?;
                    let cut = args.stop.iter().filter_map(|s| answer.find(s.as_str())).min();
                    answer.truncate(cut.unwrap_or(answer.len()));
                    made.push(Answer {
                        index: at + i,
                        sample,
                        id: hex(key(&ids[i], sample)),
                        prompt: prompts[at + i].prompt.clone(),
                        checks: prompts[at + i].checks.clone(),
                        response: answer,
                        prompt_tokens: ids[i].len(),
                        tokens: output.tokens.len(),
                        stopped: output.stopped || cut.is_some(),
                    });
                }
            }
            Ok(made)
        })?);
    }
    app.progress.end();
    app.tell_peak(&gpu);
    args.profile.tell(app, &gpu, peaks.as_ref())?;
    if let Some(out) = &args.out {
        write_jsonl(out, &answers)?;
        discard(out)?;
    }
    if app.common.json {
        return app.json(&answers);
    }
    if args.out.is_none() {
        for answer in &answers {
            app.line(&answer.response)?;
        }
    }
    Ok(())
}
