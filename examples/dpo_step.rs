//! A few DPO steps on one preference of the small world's seed model: `cargo run --release --example dpo_step`.

use selfreward::Result;
use selfreward::gpu::Gpu;
use selfreward::model::Model;
use selfreward::train::dpo::{self, DpoConfig, Pair};
use selfreward::train::{LearningRate, Optimiser, Trainer};
use selfreward::world::{self, text};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let gpu = Gpu::open(None, None)?;
    let model = Model::from_tensors(&gpu, &world::arch(), world::seed_model()?)?;
    let mut trainer = Trainer::new(&gpu, model, Optimiser::default())?;
    let pair = Pair::new(text::question("sort: caje")?, text::completion("acej")?, text::completion("cajj")?);
    let config = DpoConfig::default().epochs(5).batch(1).lr(LearningRate::constant(5e-4));
    dpo::Training::new(&[pair], &config)
        .on_step(&mut |_, step| {
            println!(
                "step {}: loss {:.4}, margin {:+.4}, gradient norm {:.2}",
                step.step, step.loss, step.rewards_margins, step.grad_norm
            );
            Ok(())
        })
        .run(&mut trainer)
}
