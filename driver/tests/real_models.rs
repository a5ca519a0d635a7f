//! The larger real models: Gemma 3 270M, a base model without a template, and Qwen2.5-Coder-0.5B-Instruct. Needs the
//! files that `scripts/fetch-models` fetches and some minutes without a GPU, so `scripts/test-full` runs it and plain
//! `cargo test` does not.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod real;

mod gemma {
    crate::real!("gemma": token_ids_of_strings, greedy_continuations, log_probs, perplexity_of_a_page, judges,
                 first_steps);
}

mod qwen {
    crate::real!("qwen": token_ids_of_strings, conversations, greedy_continuations, log_probs, perplexity_of_a_page,
                 judges, first_steps);
}
