//! `chat`: a conversation in the terminal; answers appear as they are written.

use crate::app::{App, DtypeArg};
use crate::flags::Flags;
use crate::sample::{self, Answers, Kept};
use anyhow::{Result, bail};
use selfreward::generate::{Generator, Request, load_for};

use selfreward::rng::record_id;
use selfreward::text::Message;
use selfreward::{Error, Observer};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Hugging Face folder, GGUF file, PEFT folder, run folder (its newest model), or hub id
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sample: Flags<Answers>,
    #[command(flatten)]
    kept: Flags<Kept>,
    #[command(flatten)]
    dtype: DtypeArg,
}

pub(crate) fn run(app: &App, args: &Args) -> Result<()> {
    if app.common.json {
        bail!("chat has no --json; use generate");
    }
    let (source, gpu) = app.source_beside(&args.model, || app.gpu())?;
    let text = source.text()?;
    if !text.has_chat_template() {
        bail!("{}: has no chat template; use generate --raw", source.path.display());
    }
    let mut messages: Vec<Message> = args.system.iter().map(|s| Message::new("system", s)).collect();
    let settings = sample::settings(&args.sample, &source, app.common.seed());
    // What will be asked is not known yet; a question of usual length needs the same pipelines.
    let question = Message::new("user", "What is the capital of France, and how many people live there?");
    let likely = Request::new(text.encode_chat(&[&messages[..], &[question]].concat(), true)?, 1);
    let model = load_for(&gpu, &source, args.dtype.storage(), (&[likely], &settings, args.kept.kv))?;
    let mut generator = Generator::new(&gpu, &model).kv(args.kept.kv);
    let asks = std::io::stdin().is_terminal();
    if asks {
        app.progress.note("An empty line or Ctrl-D ends the conversation.");
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let mut stdout = std::io::stdout().lock();
        if asks {
            write!(stdout, "> ")?;
            stdout.flush()?;
        }
        let line = match app.progress.waiting(|| lines.next()) {
            Some(Ok(line)) => line,
            Some(Err(e)) if asks && e.kind() == std::io::ErrorKind::InvalidData => {
                app.progress.note("that was no text in UTF-8, and is left out");
                continue;
            }
            Some(Err(e)) => return Err(e.into()),
            None => return Ok(()),
        };
        if app.progress.stop_requested() {
            return Err(Error::Stopped.into());
        }
        if line.trim().is_empty() {
            return Ok(());
        }
        messages.push(Message::new("user", line));
        let prompt = text.encode_chat(&messages, true)?;
        let most = source.arch.max_position_embeddings;
        if asks && prompt.len() >= most {
            messages.pop();
            app.progress.note(&format!(
                "the conversation would have {} tokens, and the model takes {most} with its answer; ask less, or end \
                 it and begin anew",
                prompt.len()
            ));
            continue;
        }
        let request = Request { samples: vec![record_id(0, "chat", &prompt, 0)], prompt };
        let mut stream = text.stream();
        let mut failed: Option<anyhow::Error> = None;
        let mut show = |_: usize, _: usize, token: u32| {
            let shown = stream.push(token).map_err(anyhow::Error::from).and_then(|piece| {
                stdout.write_all(piece.as_bytes())?;
                Ok(stdout.flush()?)
            });
            failed = failed.take().or(shown.err());
        };
        let outputs = generator.run_with(&[request], &settings, &Stop(app), &mut show)?;
        if let Some(error) = failed {
            return Err(error);
        }
        writeln!(stdout, "{}", stream.finish()?)?;
        let tokens = outputs.first().and_then(|samples| samples.first()).map(|o| o.tokens.as_slice());
        messages.push(Message::new("assistant", text.decode(tokens.unwrap_or_default())?));
    }
}

/// An observer that passes Ctrl-C on but shows no bar, since the answer itself is the progress.
struct Stop<'a>(&'a App);

impl Observer for Stop<'_> {
    fn note(&self, sentence: &str) {
        self.0.progress.note(sentence);
    }

    fn stop_requested(&self) -> bool {
        self.0.progress.stop_requested()
    }
}
