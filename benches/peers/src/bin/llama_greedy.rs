//! llama.cpp's greedy continuations on the CPU: `llama_greedy TOKENS MODEL.gguf [ADAPTER.gguf]`, with a prompt's token
//! ids in each line of the standard input. Prints a line for each prompt: for each token, its id and by how much its
//! logit is the best one.

use anyhow::{Context, Result, bail};
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use std::num::NonZeroU32;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tokens, path, adapter @ ..] = &args[..] else { bail!("usage: llama_greedy TOKENS MODEL.gguf [ADAPTER.gguf]") };
    let tokens: usize = tokens.parse()?;
    let mut backend = LlamaBackend::init()?;
    backend.void_logs();
    let mut model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default().with_n_gpu_layers(0))?;
    let mut adapter = adapter.first().map(|path| model.lora_adapter_init(path)).transpose()?;
    let threads = std::thread::available_parallelism()?.get() as i32;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(1024))
        .with_n_batch(1024)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let mut context = model.new_context(&backend, params)?;
    if let Some(adapter) = &mut adapter {
        context.lora_adapter_set(adapter, 1.0)?;
    }
    for line in std::io::stdin().lines() {
        let prompt: Vec<i32> = line?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        context.clear_kv_cache();
        let mut batch = LlamaBatch::new(prompt.len(), 1);
        for (i, id) in prompt.iter().enumerate() {
            batch.add(LlamaToken(*id), i as i32, &[0], i + 1 == prompt.len())?;
        }
        let mut told = Vec::new();
        for position in prompt.len()..prompt.len() + tokens {
            context.decode(&mut batch)?;
            let (id, gap) = best(context.get_logits_ith(batch.n_tokens() - 1))?;
            told.push(format!("{id}:{gap}"));
            batch.clear();
            batch.add(LlamaToken(id), position as i32, &[0], true)?;
        }
        println!("{}", told.join(" "));
    }
    Ok(())
}

/// The place of the greatest logit, and how far the next one lies below it.
fn best(logits: &[f32]) -> Result<(i32, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let [first, second, ..] = order[..] else { bail!("a vocabulary of one token") };
    let gap = logits[first] - logits[second];
    Ok((i32::try_from(first).context("a vocabulary beyond 32 bits")?, gap))
}
