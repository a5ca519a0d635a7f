//! Asks a model one question and prints its answer as it is written:
//! `cargo run --release --example chat -- MODEL "Why is the sky blue?"`, where MODEL is a folder, a `.gguf` file or a
//! hub id.

use selfreward::{Generator, Gpu, Message, Model, ModelSource, Request, Sampling, Settings, Silent};
use std::io::Write;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, question] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: chat MODEL QUESTION".into());
    };
    let source = ModelSource::open_or_fetch(model.as_ref(), &Silent)?;
    let gpu = Gpu::open(None, None)?;
    let model = Model::load(&gpu, &source)?;
    let text = source.text()?;
    let request = Request::new(text.encode_chat(&[Message::new("user", question)], true)?, 1);
    let sampling = Sampling::default().temperature(0.7).top_p(0.9);
    let settings = Settings::default().sampling(sampling).max_new_tokens(200).stop(source.stop_ids.clone());
    let mut words = text.stream();
    Generator::new(&gpu, &model).run_with(&[request], &settings, &Silent, &mut |_, _, token| {
        print!("{}", words.push(token).unwrap_or_default());
        let _ = std::io::stdout().flush();
    })?;
    println!("{}", words.finish()?);
    Ok(())
}
