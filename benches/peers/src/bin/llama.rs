//! llama.cpp: tokens a second of one model in prefill and decode. `llama MODEL.gguf gpu|cpu`; prints one JSON object.
//! As llama-bench does it, tokens are fixed and nothing is sampled; the logits of every row are read back.

use anyhow::{Context, Result, bail};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};
use std::num::NonZeroU32;
use std::time::Instant;

const PREFILL: usize = 128;
/// Prompt tokens of a sequence that decodes.
const PROMPT: usize = 16;
const DECODE: usize = 16;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, place] = &args[..] else { bail!("usage: llama MODEL.gguf gpu|cpu") };
    let mut backend = LlamaBackend::init()?;
    backend.void_logs();
    let devices = list_llama_ggml_backend_devices();
    let gpu = devices.iter().find(|d| {
        matches!(d.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
    });
    let (params, device) = match place.as_str() {
        "gpu" => {
            let gpu = gpu.context("llama.cpp sees no Vulkan device")?;
            (LlamaModelParams::default().with_n_gpu_layers(999).with_devices(&[gpu.index])?, gpu.description.clone())
        }
        "cpu" if gpu.is_none() => (LlamaModelParams::default().with_n_gpu_layers(0), "CPU".to_owned()),
        "cpu" => bail!("for the CPU, hide the Vulkan devices: GGML_VK_VISIBLE_DEVICES= in the environment"),
        _ => bail!("usage: llama MODEL.gguf gpu|cpu"),
    };
    let model = LlamaModel::load_from_file(&backend, path, &params)?;
    let threads = std::thread::available_parallelism()?.get() as i32;
    let context = |sequences: usize| -> Result<LlamaContext> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new((256 * sequences) as u32))
            .with_n_batch(512)
            .with_n_seq_max(sequences as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        Ok(model.new_context(&backend, params)?)
    };
    let prefill = prefill(&mut context(1)?)?;
    let [one, eight] = [1, 8].map(|n| decode(&mut context(n)?, n));
    println!(
        r#"{{"device": "{device}", "prefill_tok_s": {prefill}, "decode_tok_s": {{"1": {}, "8": {}}}}}"#,
        one?, eight?
    );
    Ok(())
}

/// Some token of the vocabulary.
fn token(sequence: usize, position: usize) -> LlamaToken {
    LlamaToken(1000 + (sequence * 631 + position * 97) as i32 % 20_000)
}

/// One call with a prompt, after one to warm up.
fn prefill(context: &mut LlamaContext) -> Result<f64> {
    let mut seconds = 0.0;
    for _ in 0..2 {
        context.clear_kv_cache();
        let start = Instant::now();
        prompts(context, 1, PREFILL)?;
        seconds = start.elapsed().as_secs_f64();
    }
    Ok(PREFILL as f64 / seconds)
}

/// `DECODE` calls with a token of each of `n` sequences, after a whole round to warm up.
fn decode(context: &mut LlamaContext, n: usize) -> Result<f64> {
    let mut seconds = 0.0;
    let mut batch = LlamaBatch::new(n, 1);
    for _ in 0..2 {
        context.clear_kv_cache();
        prompts(context, n, PROMPT)?;
        let start = Instant::now();
        for position in PROMPT..PROMPT + DECODE {
            batch.clear();
            for sequence in 0..n {
                batch.add(token(sequence, position), position as i32, &[sequence as i32], true)?;
            }
            context.decode(&mut batch)?;
            (0..n as i32).for_each(|i| assert!(context.get_logits_ith(i)[0].is_finite()));
        }
        seconds = start.elapsed().as_secs_f64();
    }
    Ok((n * DECODE) as f64 / seconds)
}

/// The first `length` tokens of `n` sequences, with the logits of each one's last row.
fn prompts(context: &mut LlamaContext, n: usize, length: usize) -> Result<()> {
    let mut batch = LlamaBatch::new(n * length, 1);
    for sequence in 0..n {
        for position in 0..length {
            batch.add(token(sequence, position), position as i32, &[sequence as i32], position + 1 == length)?;
        }
    }
    context.decode(&mut batch)?;
    assert!(context.get_logits_ith((n * length) as i32 - 1)[0].is_finite());
    Ok(())
}
