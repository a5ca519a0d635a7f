//! A training by several ranks, here threads that talk through memory, against one by itself.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::Result;
use selfreward::gpu::Gpu;
use selfreward::model::Model;
use selfreward::train::dpo::{self, DpoConfig, DpoStep, Labelled, Pair};
use selfreward::train::exchange::{Alone, Exchange};
use selfreward::train::objective::{Objective, parse};
use selfreward::train::sft::Example;
use selfreward::train::{Dropout, LearningRate, Optimiser, Trainer};
use selfreward::world::{self, text};
use std::sync::{Barrier, Mutex};

/// What the threads of a training share.
pub(crate) struct Room {
    barrier: Barrier,
    told: Mutex<Vec<Vec<f64>>>,
}

impl Room {
    /// For so many ranks.
    pub(crate) fn new(ranks: usize) -> Room {
        Room { barrier: Barrier::new(ranks), told: Mutex::new(vec![Vec::new(); ranks]) }
    }
}

/// One of them.
pub(crate) struct Seat<'r> {
    pub(crate) room: &'r Room,
    pub(crate) rank: usize,
}

impl Exchange for Seat<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.room.told.lock().unwrap().len()
    }

    fn sum(&self, values: &mut [f32]) -> Result<()> {
        let all = self.gather(&values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>())?;
        let n = values.len();
        values.iter_mut().enumerate().for_each(|(i, x)| *x = all.iter().skip(i).step_by(n).sum::<f64>() as f32);
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>> {
        self.room.told.lock().unwrap()[self.rank] = values.to_vec();
        self.room.barrier.wait();
        let all = self.room.told.lock().unwrap().concat();
        // Nobody says the next thing before all have heard this one.
        self.room.barrier.wait();
        Ok(all)
    }
}

const QUESTIONS: [&str; 7] =
    ["upper: cab", "upper: cab", "sort: hgfab", "reverse: abc", "upper: j", "sort: ba", "upper: cab"];

fn pairs(unpaired: bool) -> Vec<Pair> {
    let answer = |text: &str| [text::encode(text).unwrap(), vec![text::EOS]].concat();
    let of = |(i, question): (usize, &&str)| {
        let rejected = answer(&"jihg"[..1 + i % 4]);
        Pair::new(text::question(question).unwrap(), answer(&"ABCDEF"[..2 + i % 3]), rejected)
    };
    let pairs: Vec<Pair> = QUESTIONS.iter().enumerate().map(of).collect();
    if !unpaired {
        return pairs;
    }
    let single = |(i, p): (usize, Pair)| Labelled { prompt: p.prompt, completion: p.chosen, desirable: i % 3 > 0 };
    dpo::unpaired(&pairs.into_iter().enumerate().map(single).collect::<Vec<_>>(), 4)
}

/// Numbers of each step, and the weights at the end.
type Outcome = (Vec<Vec<f64>>, Vec<f32>);

fn numbers(s: &DpoStep) -> Vec<f64> {
    let rewards = [s.rewards_chosen, s.rewards_rejected, s.rewards_margins, s.rewards_accuracies];
    [&rewards[..], &[s.loss, s.logps_chosen, s.logps_rejected, s.grad_norm]].concat()
}

/// Four steps of preference training with this loss, or of supervised training.
fn train(loss: Option<&str>, dropout: f32, micro_rows: Option<usize>, exchange: &dyn Exchange) -> Outcome {
    let gpu = Gpu::open(None, None).unwrap();
    let model = Model::from_tensors(&gpu, &world::arch(), world::seed_model().unwrap()).unwrap();
    let mut trainer = Trainer::new(&gpu, model, Optimiser::default()).unwrap();
    trainer.set_exchange(exchange);
    trainer.set_dropout(Dropout { rate: dropout, seed: 7 });
    trainer.set_micro_rows(micro_rows);
    let mut steps = Vec::new();
    match loss {
        Some(loss) => {
            let objective = Objective::default().losses(parse(loss).unwrap());
            let pairs = pairs(objective.unpaired().unwrap());
            let lr = LearningRate::constant(1e-4);
            let config = DpoConfig::default().objective(objective).epochs(2).batch(4).lr(lr).seed(3);
            dpo::Training::new(&pairs, &config)
                .on_step(&mut |_, step| {
                    steps.push(numbers(step));
                    Ok(())
                })
                .run(&mut trainer)
                .unwrap();
        }
        None => {
            let example = |p: Pair| Example::new(p.prompt, p.chosen);
            let all: Vec<Example> = pairs(false).into_iter().map(example).collect();
            for _ in 0..4 {
                let step = trainer.sft_step(&[(&all[..5], 1.0), (&all[5..], 0.5)], 1e-4).unwrap();
                steps.push([&step.group_loss[..], &[step.loss, step.grad_norm, step.tokens as f64]].concat());
            }
        }
    }
    (steps, trainer.model().tensors(&gpu).unwrap().into_iter().flat_map(|t| t.data).collect())
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(x, y)| x - y)) / norm(&mut b.iter().copied())
}

#[test]
fn ranks_train_what_one_process_trains() {
    for (loss, dropout, micro_rows) in [
        (Some("sigmoid"), 0.0, None),
        (Some("aot"), 0.0, None),
        (Some("aot_unpaired,orpo:0.2"), 0.0, Some(30)),
        (Some("kto"), 0.0, None),
        (Some("aot"), 0.2, None),
        (None, 0.0, None),
        (None, 0.2, Some(20)),
    ] {
        let (steps, weights) = train(loss, dropout, micro_rows, &Alone);
        let wide = |w: &[f32]| w.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        // Five ranks have fewer records than there are of them in a step.
        for ranks in [2, 3, 5] {
            let room = Room::new(ranks);
            let all: Vec<Outcome> = std::thread::scope(|scope| {
                let seat = |rank| {
                    scope.spawn({
                        let room = &room;
                        move || train(loss, dropout, micro_rows, &Seat { room, rank })
                    })
                };
                let threads: Vec<_> = (0..ranks).map(seat).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let what = format!("{loss:?}, dropout {dropout}, {ranks} ranks");
            assert!(all.iter().all(|other| *other == all[0]), "{what}: the ranks differ");
            let difference = [apart(&wide(&all[0].1), &wide(&weights)), apart(&all[0].0.concat(), &steps.concat())];
            assert!(difference.iter().all(|d| *d < 1e-6), "{what}: {difference:?}");
        }
    }
}

#[test]
fn ranks_with_other_data_are_refused() {
    let room = Room::new(2);
    let say = |rank: usize| {
        let seat = Seat { room: &room, rank };
        let exchange: &dyn Exchange = &seat;
        assert!(exchange.any(rank == 1).unwrap() && !exchange.any(false).unwrap());
        exchange.agree("data", || rank as u32).unwrap_err().to_string()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| say(1));
        assert!(say(0).contains("ranks 0 and 1 differ in data"));
        assert_eq!(other.join().unwrap().split(';').next(), Some("ranks 0 and 1 differ in data"));
    });
}
