//! One visibility rule: random forests agree with each path run alone, in scoring and in generation.

#![expect(clippy::expect_used, reason = "a failing test may panic")]

use proptest::prelude::*;
use selfreward::Silent;
use selfreward::arch::{
    Activation, Arch, Attention, DeltaNet, Experts, Gated, Layer, Mixer, Mlp, NamedTensor, Naming, Norms, QkNorm,
    QueryGrowth, Rope, ShortConv, Stretch, family,
};
use selfreward::generate::{Generator, Request, Sampling, Settings};
use selfreward::gpu::Gpu;
use selfreward::model::Model;
use selfreward::model::score::{Branch, logits, logps};
use selfreward::rng::Stream;
use std::sync::OnceLock;

const V: usize = 61;

/// A small model with odd sizes: grouped heads of 10 channels, a vocabulary that is no multiple of 4, and one block of
/// each kind: with a window and positions, without either and with experts, with a convolution, with a delta net, with
/// norms at both ends of its branches or at one.
fn model(gpu: &Gpu, window: Option<usize>) -> Model {
    let turns = |base: f32, n: i32| (0..n).map(|i| base.powf(-i as f32 / n as f32)).collect::<Vec<f32>>();
    let block = |window, rope, norms, qk_norm| Layer {
        mixer: Mixer::Attention(Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 10,
            window,
            rope,
            qkv_bias: true,
            o_bias: true,
            qk_norm,
            query_scale: Some(0.25),
            score_cap: Some(1.5),
            query_growth: Some(QueryGrowth { beta: 0.4, span: 7 }),
            output_gate: true,
            sinks: qk_norm.is_none(),
        }),
        norms,
        mlp: Mlp::Gated(Gated { width: 46, activation: Activation::GeluTanh, bias: true }),
    };
    let convolution = Layer {
        mixer: Mixer::ShortConv(ShortConv { taps: 3, bias: true }),
        norms: Norms::Before,
        ..block(None, None, Norms::Before, None)
    };
    let net = DeltaNet { key_heads: 2, value_heads: 4, key_dim: 6, value_dim: 5, taps: 4 };
    let net = Layer { mixer: Mixer::DeltaNet(net), ..convolution.clone() };
    let experts = Layer {
        mlp: Mlp::Experts(Experts {
            count: 5,
            chosen: 2,
            width: 14,
            activation: Activation::ClampedSwish,
            of_all: true,
            bias: true,
        }),
        ..block(None, None, Norms::Before, None)
    };
    let arch = Arch {
        model_type: "llama".to_owned(),
        vocab_size: V,
        hidden_size: 30,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        ropes: vec![
            Rope { inv_freq: turns(100.0, 5), scaling: 1.0, stretch: Stretch::Never },
            Rope { inv_freq: turns(50.0, 3), scaling: 1.1, stretch: Stretch::Never },
        ],
        layers: vec![
            block(
                window,
                Some(0),
                if window.is_some() { Norms::BeforeAndAfter } else { Norms::After },
                Some(QkNorm::Heads),
            ),
            experts,
            convolution,
            net,
            block(window.map(|w| w + 3), Some(1), Norms::After, Some(QkNorm::Whole)),
        ],
        tie_word_embeddings: false,
        norm_plus_one: true,
        embedding_scale: 5.5,
        residual_scale: 1.0,
        logits_scale: 0.5,
        logit_cap: Some(4.0),
        pad_token_id: None,
        router_aux_loss_coef: 0.0,
        naming: Naming::Apart,
    };
    let mut rng = Stream::new(1, 0);
    let mut next = move || (rng.uniform() - 0.5) * 0.6;
    let tensors = family::parameters(&arch)
        .into_iter()
        .map(|(name, shape)| {
            let data = (0..shape.iter().product()).map(|_| next()).collect();
            NamedTensor { name, shape, data }
        })
        .collect();
    Model::from_tensors(gpu, &arch, tensors).expect("a model")
}

fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| Gpu::open(None, None).expect("a GPU, if only a software one"))
}

fn ids(most: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..V as u32, 1..most)
}

fn greedy(tokens: usize) -> Settings {
    Settings::default().sampling(Sampling::default().temperature(0.0)).max_new_tokens(tokens).stop(vec![3])
}

/// Log-probs of `tokens[from ..]` by the logits of the whole sequence alone.
fn alone(model: &Model, tokens: &[u32], start: usize) -> Vec<f64> {
    let all = logits(gpu(), model, tokens).expect("logits");
    (start..tokens.len())
        .map(|i| {
            let row: Vec<f64> = all[(i - 1) * V..i * V].iter().map(|x| f64::from(*x)).collect();
            row[tokens[i] as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn branches_score_as_each_path_alone(
        prompts in prop::collection::vec((ids(40), prop::collection::vec(ids(20), 1..4)), 1..5),
        window in prop::option::of(1usize..30),
    ) {
        let model = model(gpu(), window);
        let branches: Vec<Branch> =
            prompts.iter().map(|(p, c)| Branch { prompt: p.clone(), completions: c.clone() }).collect();
        let got = logps(gpu(), &model, &branches, &Silent).expect("log-probs");
        for (branch, got) in branches.iter().zip(&got) {
            for (completion, got) in branch.completions.iter().zip(got) {
                let path = [&branch.prompt[..], completion].concat();
                for (g, w) in got.iter().zip(alone(&model, &path, branch.prompt.len())) {
                    prop_assert!((f64::from(*g) - w).abs() < 1e-4, "{} against {}", g, w);
                }
            }
        }
    }

    #[test]
    fn siblings_that_grow_together_are_each_path_alone(
        prompts in prop::collection::vec((ids(70), 1usize..4), 1..5),
        window in prop::option::of(2usize..40),
        tokens in 1usize..45,
    ) {
        let model = model(gpu(), window);
        let settings = greedy(tokens).sampling(Sampling::default());
        let requests: Vec<Request> = prompts
            .iter()
            .enumerate()
            .map(|(i, (prompt, n))| {
                let first = 100 * i as u64;
                Request { prompt: prompt.clone(), samples: (first..first + *n as u64).collect() }
            })
            .collect();
        let mut seen: Vec<Vec<Vec<u32>>> = requests.iter().map(|r| vec![vec![]; r.samples.len()]).collect();
        let together = Generator::new(gpu(), &model)
            .run_with(&requests, &settings, &Silent, &mut |r, s, t| seen[r][s].push(t))
            .expect("answers");
        for (r, (request, outputs)) in requests.iter().zip(&together).enumerate() {
            for (s, out) in outputs.iter().enumerate() {
                prop_assert_eq!(&seen[r][s], &out.tokens);
                prop_assert!(out.stopped || out.tokens.len() == tokens);
                prop_assert_eq!(out.stopped, out.tokens.last() == Some(&3));
                // A draw depends on (seed, record id, position) and the logits alone. Each token must be the one that
                // the sampler's own rule gives on the path's logits, unless the draw falls on a border.
                let path = [&request.prompt[..], &out.tokens].concat();
                let all = logits(gpu(), &model, &path).expect("logits");
                for (i, token) in out.tokens.iter().enumerate() {
                    let row = &all[(request.prompt.len() + i - 1) * V..][..V];
                    let u = f64::from(selfreward::rng::sampler_uniform(settings.seed, request.samples[s], i as u32));
                    let (want, near) =
                        selfreward::kernels::sample::twin(row, &[false; V], &settings.sampling, u);
                    prop_assert!(want == *token || near < 1e-4, "token {}: {} against {}", i, token, want);
                }
            }
        }
    }
}

#[test]
fn a_row_that_ends_early_leaves_the_others_alone() {
    let model = model(gpu(), None);
    let requests: Vec<Request> = (0..12u64)
        .map(|i| Request { prompt: vec![5 + i as u32; 1 + 7 * i as usize], samples: vec![i, i + 50] })
        .collect();
    let mut generator = Generator::new(gpu(), &model);
    let settings = greedy(60).sampling(Sampling::default().temperature(1.5));
    let all = generator.run(&requests, &settings).expect("answers");
    assert!(all.iter().flatten().any(|o| o.stopped), "the test wants some answers to stop early");
    for (request, want) in requests.iter().zip(&all) {
        let one = generator.run(std::slice::from_ref(request), &settings).expect("answers");
        assert_eq!(&one[0], want);
    }
}
