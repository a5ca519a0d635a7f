//! One round of the loop by the library: the model writes prompts, answers them, judges its answers and is trained on
//! its own preferences: `cargo run --release --example self_reward -- MODEL RUN_FOLDER`.

use selfreward::{Gpu, Observer, RunConfig, RunOptions, run};

/// Prints what the loop has to say.
struct Printed;

impl Observer for Printed {
    #[expect(clippy::print_stderr, reason = "an example shows what goes on")]
    fn note(&self, sentence: &str) {
        eprintln!("{sentence}");
    }
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, out] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        return Err("usage: self_reward MODEL RUN_FOLDER".into());
    };
    let mut config = RunConfig::of_model(model);
    (config.run.out, config.run.rounds) = (out.into(), 1);
    (config.prompts.count, config.candidates.n) = (64, 4);
    let gpu = Gpu::open(None, None)?;
    let how = RunOptions::default().renewed(&selfreward::report::refresh);
    for round in run(&gpu, &config, &how, &Printed)?.rounds {
        println!(
            "round {}: {} pairs from {} answers, {} steps",
            round.round, round.pairs, round.candidates, round.steps
        );
    }
    println!("the report: {out}/report.html");
    Ok(())
}
