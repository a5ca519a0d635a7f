//! Four sampled answers of the small world's seed model: `cargo run --release --example generation ["sort: cab"]`.

use selfreward::Result;
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::model::Model;
use selfreward::world::{self, text};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "sort: caje".to_owned());
    let gpu = Gpu::open(None, None)?;
    let model = Model::from_tensors(&gpu, &world::arch(), world::seed_model()?)?;
    let request = Request { prompt: text::question(&question)?, samples: vec![1, 2, 3, 4] };
    let settings = Settings::default()
        .sampling(Sampling::default().temperature(0.8).top_p(0.95))
        .max_new_tokens(17)
        .stop(vec![text::EOS]);
    let answers = Generator::new(&gpu, &model).run(&[request], &settings)?;
    for answer in &answers[0] {
        println!("{question} -> {}", text::decode(&answer.tokens));
    }
    Ok(())
}
