//! What is planned against what is measured: the peak of live buffers of generation, SFT and DPO, of all weights and of
//! adapters, on bases in every type, with and without checkpointing; of all stages of a run; and that a cap is kept.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use selfreward::arch::lora::{Adapter, LoraConfig};
use selfreward::arch::{Dtype, NamedTensor, family};
use selfreward::config::RunConfig;
use selfreward::generate::{ChatLanguage, Generator, KvType, Sampling, Settings};
use selfreward::gpu::{Gpu, Part, Peak};
use selfreward::kernels::half::Half;
use selfreward::model::{Model, Storage};
use selfreward::plan::{self, RunShape, ids};
use selfreward::recipe::run::{self, RunOptions};
use selfreward::recipe::supervised::Supervision;
use selfreward::source::ModelSource;
use selfreward::text::Language;
use selfreward::train::dpo::Pair;
use selfreward::train::exchange::Alone;
use selfreward::train::fit::{Cut, Fit};
use selfreward::train::job::{Data, Job};
use selfreward::train::objective::Objective;
use selfreward::train::run::train;
use selfreward::train::sft::Example;
use selfreward::train::{LearningRate, LoraSettings, Optimiser, OptimiserKind, TrainSettings, WeightType};
use selfreward::weights::{ModelParts, save_gguf, save_model_parts};
use selfreward::{Observer, Silent, world};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Within 10 %.
#[track_caller]
fn close(what: &str, planned: &Peak, measured: &Peak) {
    let ratio = planned.bytes as f64 / measured.bytes as f64;
    assert!((0.9..1.1).contains(&ratio), "{what}: planned {planned}, measured {measured}");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The small world's model as a folder in f32, and as a GGUF file in 8-bit blocks.
fn models(dir: &Path) -> [PathBuf; 2] {
    let (folder, gguf) = (dir.join("M"), dir.join("M.gguf"));
    world::save(&folder, &world::init(0)).unwrap();
    let source = ModelSource::open(&folder).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let parts = ModelParts {
        config: &source.config,
        generation_config: None,
        text: None,
        tensors: &tensors,
        dtype: Dtype::Q8_0,
    };
    save_gguf(&gguf, &parts).unwrap();
    [folder, gguf]
}

fn lora(dropout: f32) -> LoraConfig {
    LoraSettings::default().rank(8).dropout(dropout).config()
}

struct Case {
    name: &'static str,
    model: PathBuf,
    storage: Storage,
    lora: Option<LoraConfig>,
    half: Option<Half>,
    weights: WeightType,
    optimiser: OptimiserKind,
    dropout: f32,
    loss: &'static str,
    sft: bool,
    micro_rows: Option<usize>,
}

/// Lengths of prompt, chosen and rejected answer.
const LENGTHS: [[usize; 3]; 8] =
    [[60, 50, 50], [61, 49, 50], [40, 60, 30], [60, 50, 49], [20, 40, 60], [60, 48, 52], [10, 20, 30], [58, 50, 50]];

impl Case {
    fn load(&self, gpu: &Gpu) -> Model {
        let source = ModelSource::open(&self.model).unwrap();
        let adapter = self.lora.as_ref().map(|config| Adapter::fresh(&source.arch, config, 0).unwrap());
        Model::load_as(gpu, &source, self.storage).unwrap().with_adapter(gpu, adapter.as_ref()).unwrap()
    }

    /// Calls `with` the data and the settings of a training.
    fn with<R>(&self, with: impl FnOnce(Data, &TrainSettings) -> R) -> R {
        let losses = vec![(self.loss.to_owned(), 1.0)];
        let objective = Objective::default().losses(losses);
        let settings = TrainSettings::default()
            .epochs(2)
            .batch(8)
            .lr(LearningRate::constant(1e-4))
            .optimiser(Optimiser::default().kind(self.optimiser))
            .save_every(100)
            .micro_rows(self.micro_rows)
            .weights(self.weights)
            .half(self.half)
            .dropout(self.dropout);
        let tokens = |key: usize, n| ids(60, key as u64, n);
        let pair =
            |(i, l): (usize, &[usize; 3])| Pair::new(tokens(i, l[0]), tokens(i + 50, l[1]), tokens(i + 99, l[2]));
        let pairs: Vec<Pair> = LENGTHS.iter().enumerate().map(pair).collect();
        let example = |p: &Pair| Example::new(p.prompt.clone(), p.chosen.clone());
        let examples: Vec<Example> = pairs.iter().map(example).collect();
        match self.sft {
            true => with(Data::Examples(&examples), &settings),
            false => with(Data::Pairs { pairs: &pairs, objective: &objective, reference: None }, &settings),
        }
    }

    fn fit<R>(&self, gpu: &Gpu, with: impl FnOnce(&Fit) -> R) -> R {
        let load = |gpu: &Gpu| Ok(self.load(gpu));
        self.with(|data, settings| with(&Fit { gpu, model: &load, data: &data, settings, others: 0 }))
    }

    /// The peak of a training, and its steps as they are logged.
    fn train(&self, memory: Option<u64>) -> selfreward::Result<(Peak, String)> {
        let dir = tempfile::tempdir().unwrap();
        let gpu = Gpu::open(None, memory).unwrap();
        self.with(|data, settings| {
            let job = Job { settings, dir: dir.path(), observer: &Silent, exchange: &Alone };
            train(&gpu, self.load(&gpu), data, &job, None).map(drop)
        })?;
        Ok((gpu.peak(), std::fs::read_to_string(dir.path().join("steps.jsonl")).unwrap()))
    }
}

fn cases(dir: &Path) -> Vec<Case> {
    let [f32, q8] = models(dir);
    let plain = |name, model: &Path| Case {
        name,
        model: model.to_path_buf(),
        storage: Storage::F32,
        lora: None,
        half: None,
        weights: WeightType::F32,
        optimiser: OptimiserKind::AdamW,
        dropout: 0.0,
        loss: "sigmoid",
        sft: false,
        micro_rows: None,
    };
    let bf16 = Storage::Half(Half::Bf16);
    vec![
        plain("dpo", &f32),
        Case { sft: true, ..plain("sft", &f32) },
        Case { micro_rows: Some(320), ..plain("dpo in micro-batches", &f32) },
        Case { micro_rows: Some(320), sft: true, ..plain("sft in micro-batches", &f32) },
        Case { micro_rows: Some(320), loss: "aot", ..plain("coupled pairs", &f32) },
        Case { loss: "orpo", ..plain("prompts scored too", &f32) },
        Case { half: Some(Half::Bf16), ..plain("dpo on copies", &f32) },
        Case { optimiser: OptimiserKind::AdamW8bit, ..plain("dpo with moments in 8 bits", &f32) },
        Case { weights: WeightType::Bf16, optimiser: OptimiserKind::AdamW8bit, ..plain("dpo of bf16 weights", &f32) },
        Case { dropout: 0.1, ..plain("dpo with dropout", &f32) },
        Case { lora: Some(lora(0.0)), ..plain("LoRA on f32", &f32) },
        Case { lora: Some(lora(0.1)), storage: bf16, ..plain("LoRA on bf16 with dropout", &f32) },
        Case { lora: Some(lora(0.0)), storage: Storage::Own, ..plain("LoRA on blocks", &q8) },
        Case { lora: Some(lora(0.0)), storage: Storage::Own, sft: true, ..plain("LoRA on blocks, sft", &q8) },
        plain("an untied family", &golden("llama")),
        plain("norms behind the branches", &golden("gemma3")),
    ]
}

#[test]
fn trainings_take_what_is_planned_and_checkpointing_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let gpu = Gpu::open(None, None).unwrap();
    for case in cases(dir.path()) {
        let (cut, planned) = case.fit(&gpu, |fit| {
            let cut = fit.untold().unwrap();
            (cut, fit.peak(cut).unwrap())
        });
        assert!(!cut.checkpoint, "{}", case.name);
        let (measured, steps) = case.train(None).unwrap();
        close(case.name, &planned, &measured);
        // A cap below which only the blocks' inputs can be kept.
        let inputs = case.fit(&gpu, |fit| fit.peak(Cut { checkpoint: true, ..cut }).unwrap());
        assert!(inputs.bytes < planned.bytes, "{}", case.name);
        let cap = inputs.bytes.midpoint(planned.bytes);
        assert!(cap > inputs.bytes / 63 * 64, "{}", case.name);
        let choice = case.fit(&gpu, |fit| fit.choose(cap).unwrap());
        assert!(choice.fits && choice.peak.bytes <= cap, "{}: {choice:?}", case.name);
        let (measured, capped) = case.train(Some(cap)).unwrap();
        assert!(measured.bytes <= cap, "{}", case.name);
        close(case.name, &choice.peak, &measured);
        if choice.cut.micro_rows >= cut.micro_rows.min(LENGTHS.as_flattened().iter().sum()) {
            assert_eq!(capped, steps, "{}", case.name);
        }
    }
}

#[test]
fn a_training_that_cannot_fit_says_so_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let case = &cases(dir.path())[0];
    let gpu = Gpu::open(None, None).unwrap();
    let least = case.fit(&gpu, |fit| fit.choose(0).unwrap());
    assert!(!least.fits && least.cut.checkpoint);
    case.train(Some(least.peak.bytes / 63 * 64)).unwrap();
    let error = case.train(Some(least.peak.bytes - 1)).unwrap_err().to_string();
    for word in ["this training takes", "weights", "moments", "--lora-rank", "selfreward plan"] {
        assert!(error.contains(word), "{word} is missing in: {error}");
    }
}

/// A model whose logits take more than all else.
fn wide(folder: &Path) {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
        "tie_word_embeddings": true
    });
    let value = |(name, shape): (String, Vec<usize>)| {
        let data = vec![0.01; shape.iter().product()];
        NamedTensor { name, shape, data }
    };
    let tensors: Vec<NamedTensor> =
        family::parameters(&family::arch(&config).unwrap()).into_iter().map(value).collect();
    let parts =
        ModelParts { config: &config, generation_config: None, text: None, tensors: &tensors, dtype: Dtype::F32 };
    save_model_parts(folder, &parts).unwrap();
}

/// What is only context of an answer has no logits, and the longest records need not be those with the most targets.
#[test]
fn targets_are_planned_as_they_are_learnt() {
    let dir = tempfile::tempdir().unwrap();
    wide(dir.path());
    let source = ModelSource::open(dir.path()).unwrap();
    let tokens = |key: usize, n| ids(4096, key as u64, n);
    let turns =
        |i: usize| Example { prompt: tokens(i, 20), completion: tokens(i + 50, 140), context: vec![8..70, 78..132] };
    let answer = |i: usize| Example::new(tokens(i, 10), tokens(i + 50, 140));
    let asked = |i: usize| Example::new(tokens(i, 150), tokens(i + 50, 10));
    let short = |i: usize| Pair::new(tokens(i, 150), tokens(i + 50, 5), tokens(i + 99, 5));
    let long = |i: usize| Pair::new(tokens(i, 10), tokens(i + 50, 70), tokens(i + 99, 70));
    let objective = Objective::default();
    let records = [
        ("turns", None, (0..8).map(turns).collect(), vec![]),
        ("long questions", Some(1), (0..6).map(asked).chain((6..8).map(answer)).collect(), vec![]),
        ("long conversations", Some(1), (0..6).map(turns).chain((6..8).map(answer)).collect(), vec![]),
        ("pairs", Some(1), vec![], (0..6).map(short).chain((6..8).map(long)).collect()),
    ];
    for (name, rows, examples, pairs) in records {
        let data = || match pairs.is_empty() {
            true => Data::Examples(&examples),
            false => Data::Pairs { pairs: &pairs, objective: &objective, reference: None },
        };
        let settings = TrainSettings::default().epochs(2).batch(8).save_every(100).micro_rows(rows);
        let gpu = Gpu::open(None, None).unwrap();
        let model = |gpu: &Gpu| Model::load_as(gpu, &source, Storage::F32);
        let fit = Fit { gpu: &gpu, model: &model, data: &data(), settings: &settings, others: 0 };
        let planned = fit.peak(fit.untold().unwrap()).unwrap();
        let out = tempfile::tempdir().unwrap();
        let job = Job { settings: &settings, dir: out.path(), observer: &Silent, exchange: &Alone };
        train(&gpu, model(&gpu).unwrap(), data(), &job, None).unwrap();
        close(name, &planned, &gpu.peak());
    }
}

/// Every part of a planned training stands where it belongs.
#[test]
fn parts_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let cases = cases(dir.path());
    let find = |name| cases.iter().find(|c| c.name == name).unwrap();
    let [full, adapter] = [find("dpo"), find("LoRA on blocks")];
    let gpu = Gpu::open(None, None).unwrap();
    let parts = |case: &Case| case.fit(&gpu, |fit| fit.peak(fit.untold().unwrap()).unwrap());
    let of = |peak: &Peak, part: Part| peak.held().find(|(p, _)| *p == part).map_or(0, |(_, bytes)| bytes);
    let peak = parts(full);
    let (weights, gradients) = (of(&peak, Part::Weights), of(&peak, Part::Gradients));
    let parameters: usize = world::init(0).iter().map(|t| t.data.len()).sum();
    // Buffers are multiples of 256 bytes.
    assert!((gradients as f64 / (4 * parameters) as f64 - 1.0).abs() < 0.02, "{peak}");
    // Beside them the moments' part holds the tables of the 8-bit codes: two of 256 values and their borders.
    let twice = |peak: &Peak| of(peak, Part::Moments) == 2 * of(peak, Part::Gradients) + 2 * 2 * 256 * 4;
    assert!(weights >= gradients && twice(&peak), "{weights} {gradients} {}: {peak}", of(&peak, Part::Moments));
    assert_eq!(peak.held().map(|(_, bytes)| bytes).sum::<u64>(), peak.bytes);
    let adapter = parts(adapter);
    assert!(of(&adapter, Part::Gradients) < gradients && of(&adapter, Part::Weights) < weights, "{adapter}");
    assert!(twice(&adapter), "{adapter}");
}

#[test]
fn generation_takes_what_is_planned_and_fits_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let [f32, q8] = models(dir.path());
    let settings = |answer| Settings::default().sampling(Sampling::default()).max_new_tokens(answer);
    for (model, storage) in [(&f32, Storage::F32), (&f32, Storage::Half(Half::Bf16)), (&q8, Storage::Own)] {
        let source = ModelSource::open(model).unwrap();
        for (prompts, prompt, n, answer) in [(1, 40, 1, 40), (6, 33, 4, 24), (12, 8, 2, 60)] {
            let requests = plan::requests(60, prompts, prompt, n);
            let measure = |memory: Option<u64>| {
                let gpu = Gpu::open(None, memory).unwrap();
                let model = Model::load_as(&gpu, &source, storage).unwrap();
                let out = Generator::new(&gpu, &model).run(&requests, &settings(answer));
                out.map(|out| (gpu.peak(), out))
            };
            let gpu = Gpu::open(None, None).unwrap();
            let load = |gpu: &Gpu| Model::load_as(gpu, &source, storage);
            let (counted, at_once) = plan::generation(&gpu, &load, &requests, (answer, KvType::F32), None).unwrap();
            let what = format!("{storage:?}, {prompts} prompts of {prompt}, {n} answers of {answer}");
            assert_eq!(at_once, prompts * n, "{what}");
            let (measured, free) = measure(None).unwrap();
            close(&what, &counted.peak(), &measured);
            let first = plan::requests(60, 1, prompt, 1);
            let one = plan::generation(&gpu, &load, &first, (answer, KvType::F32), None).unwrap().0.peak();
            if at_once > 1 {
                let cap = one.bytes.midpoint(measured.bytes);
                let (counted, some) =
                    plan::generation(&gpu, &load, &requests, (answer, KvType::F32), Some(cap)).unwrap();
                assert!((1..at_once).contains(&some), "{what}: {some} at once");
                let (capped, out) = measure(Some(cap)).unwrap();
                assert!(capped.bytes <= cap, "{what}");
                close(&what, &counted.peak(), &capped);
                assert_eq!(out.len(), free.len());
            }
            let error = measure(Some(one.bytes - 1)).unwrap_err().to_string();
            assert!(error.contains("takes") && error.contains("selfreward plan"), "{what}: {error}");
        }
    }
}

/// Notes the peak of each stage of a run, by what the stage is called in a plan.
struct Stages<'a> {
    gpu: &'a Gpu,
    /// The stages that are open, the outermost first.
    open: RefCell<Vec<String>>,
    peaks: RefCell<BTreeMap<&'static str, Peak>>,
}

impl Observer for Stages<'_> {
    fn begin(&self, stage: &str, _: Option<u64>, _: &str) {
        let mut open = self.open.borrow_mut();
        if open.is_empty() || stage == "validation" {
            self.note(&open);
        }
        open.push(stage.to_owned());
    }

    fn end(&self) {
        let mut open = self.open.borrow_mut();
        if open.len() == 1 || open.last().is_some_and(|stage| stage == "validation") {
            self.note(&open);
        }
        open.pop();
    }
}

impl Stages<'_> {
    /// Takes the peak down for the innermost stage, and begins a new one.
    fn note(&self, open: &[String]) {
        let known = ["gate", "candidates", "verdicts", "training", "validation", "evaluation"];
        let within = |stage: &String| known.into_iter().find(|known| stage.starts_with(known));
        let mut peaks = self.peaks.borrow_mut();
        if let Some(stage) = open.last().and_then(within) {
            let name = match stage {
                "verdicts" => "judge",
                // That of M1 comes before all else.
                "training" if !peaks.contains_key("candidates") => "sft",
                other => other,
            };
            let peak = peaks.entry(name).or_default();
            if self.gpu.peak().bytes > peak.bytes {
                *peak = self.gpu.peak();
            }
        }
        self.gpu.reset_peak();
    }
}

#[test]
fn the_stages_of_a_run_take_what_is_planned() {
    let words = ["abc", "badge", "cab", "heh", "fed", "cafe", "gig", "jig"];
    for (name, more, kv) in [("adapters", "lora = { rank = 4 }\n", "f32"), ("all weights", "", "f16")] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let [model, _] = models(dir.path());
        let lines = |words: &[&str]| -> String {
            words.iter().map(|word| format!("{{\"prompt\": \"upper: {word}\"}}\n")).collect()
        };
        fs::write(at("seed.jsonl"), lines(&words)).unwrap();
        fs::write(at("held-out.jsonl"), lines(&["jab", "bad"])).unwrap();
        let keyed: String = words.map(|w| format!("{{\"prompt\": \"sort: {w}{w}\", \"answer\": \"{w}\"}}\n")).concat();
        fs::write(at("keyed.jsonl"), keyed).unwrap();
        fs::write(
            at("choose.jsonl"),
            "{\"context\": \"upper: abc\", \"choices\": [\"ABC\", \"abc\"], \"answer\": 0}\n",
        )
        .unwrap();
        let learnt: String =
            words.map(|w| format!("{{\"prompt\": \"upper: {w}\", \"response\": \"{w}{w}\"}}\n")).concat();
        fs::write(at("sft.jsonl"), learnt).unwrap();
        let told: String = words.map(|w| format!("{{\"text\": \"{w}{w}{w}{w}\"}}\n")).concat();
        fs::write(at("texts.jsonl"), told).unwrap();
        let ranked = |w| format!("{{\"prompt\": \"sort: {w}\", \"responses\": [\"{w}{w}{w}\", \"{w}{w}\"]}}\n");
        fs::write(at("ranked.jsonl"), words.map(ranked).concat()).unwrap();
        fs::write(at("judge.txt"), "{{ question }} {{ answer }}\n").unwrap();
        fs::write(
            at("run.toml"),
            format!(
                "{more}model.path = {model:?}\nrun = {{ out = {:?}, rounds = 2 }}\n\
                 prompts = {{ seed_file = {:?}, from_seed = 4, count = 0 }}\n\
                 judge = {{ mode = \"expected\", template = {:?}, ranked = {:?}, floor = 0.0, wave = 4 }}\n\
                 controls = {{ random = true, sft_best = true }}\n\
                 pairs = {{ select = \"all\", most = 2, min_gap = 0.0 }}\n\
                 evaluation = {{ prompts = {:?}, texts = {:?}, mode = \"expected\", tasks = [\
                     {{ task = \"exact\", data = {:?}, samples = 8 }}, \
                     {{ task = \"choice\", data = {:?} }}] }}\n\
                 dpo = {{ lr = 1e-4, batch = 4 }}\n\
                 sft = {{ files = [{:?}], lr = 1e-9, batch = 4 }}\n\
                 validation = {{ prompts = {:?}, every = 1, samples = 3 }}\n\
                 candidates = {{ n = 4, temperature = 1.0, max_new_tokens = 24, wave = 4, kv = {kv:?} }}\n",
                at("run"),
                at("seed.jsonl"),
                at("judge.txt"),
                at("ranked.jsonl"),
                at("held-out.jsonl"),
                at("texts.jsonl"),
                at("keyed.jsonl"),
                at("choose.jsonl"),
                at("sft.jsonl"),
                at("held-out.jsonl"),
            ),
        )
        .unwrap();
        let config = RunConfig::read(&at("run.toml")).unwrap();
        let source = ModelSource::open(&model).unwrap();
        let language = ChatLanguage::new(&source).unwrap();
        let supervision = Supervision::read(&config.sft, &source, 0, &Silent).unwrap();
        let gpu = Gpu::open(None, None).unwrap();
        let adapter = config.lora.as_ref().map(|lora| lora.config());
        let storage = if adapter.is_some() { Storage::Own } else { Storage::F32 };
        let shape = RunShape {
            model: &|gpu| Model::load_as(gpu, &source, storage),
            adapter,
            prompt: words.iter().map(|w| language.ask(&format!("upper: {w}")).unwrap().len()).max().unwrap(),
            judge: plan::judge_prompt(&config.judge, &language).unwrap(),
            ranked: plan::ranked_answer(&config, Some(&language)).unwrap(),
            supervision: supervision.as_ref(),
        };
        let planned = plan::of_run(&gpu, &shape, &config, None).unwrap();
        let seen = Stages { gpu: &gpu, open: RefCell::default(), peaks: RefCell::default() };
        run::run(&gpu, &config, &RunOptions::default(), &seen).unwrap();
        let peaks = seen.peaks.borrow();
        assert_eq!(
            planned.stages.iter().map(|s| s.name).collect::<Vec<_>>(),
            ["sft", "candidates", "gate", "judge", "training", "validation", "controls", "evaluation"]
        );
        for stage in planned.stages {
            // The controls train and are measured as the round is.
            let seen = match stage.name {
                "controls" => peaks["training"].bytes.max(peaks["evaluation"].bytes),
                stage => peaks[stage].bytes,
            };
            let ratio = stage.peak.bytes as f64 / seen as f64;
            assert!((0.9..1.1).contains(&ratio), "{name}: {}: planned {}, measured {seen}", stage.name, stage.peak);
            assert!(stage.fits && stage.cost.flops > 0.0 && stage.cost.bytes > 0.0, "{name}: {}", stage.name);
        }
    }
}
