//! The list of kernels that tests, `check`, `bench` and the translations walk.

use super::case::Kernel;
use super::{
    adamw, attention, attention_backward, attention_decode, attention_tiles_cases, cast, column_sum, columns,
    delta_cases, dropout, embedding, experts, gated_norm, kv_write, log_softmax, lora, matmul_cases, matmul_matrix,
    output_gate, peak, qk_norm, rms_norm, rope, router, rows, sample, short_conv, softcap, swiglu, transpose,
};

/// Every kernel.
pub const ALL: &[Kernel] = &[
    embedding::KERNEL,
    rms_norm::KERNEL,
    matmul_cases::KERNEL,
    matmul_matrix::KERNEL,
    transpose::KERNEL,
    cast::KERNEL,
    column_sum::KERNEL,
    columns::KERNEL,
    lora::KERNEL,
    qk_norm::KERNEL,
    rope::KERNEL,
    attention::KERNEL,
    attention_backward::KERNEL,
    attention_tiles_cases::KERNEL,
    attention_decode::KERNEL,
    kv_write::KERNEL,
    swiglu::KERNEL,
    router::KERNEL,
    experts::KERNEL,
    short_conv::KERNEL,
    delta_cases::INPUTS,
    delta_cases::GATES,
    delta_cases::RULE,
    delta_cases::CHUNKS,
    delta_cases::STATE_GRADIENTS,
    delta_cases::INPUT_GRADIENTS,
    gated_norm::KERNEL,
    output_gate::KERNEL,
    dropout::KERNEL,
    rows::KERNEL,
    log_softmax::KERNEL,
    softcap::KERNEL,
    sample::KERNEL,
    adamw::KERNEL,
    peak::KERNEL,
    peak::F16,
    peak::MATRIX,
];
