//! The root mean square errors of llama.cpp's quantisers without an importance matrix: `llama_quants MODEL.gguf`. It
//! prints what tests/golden/quants.json holds: of seeded matrices of 1,024 columns, and of some matrices of the model.

use anyhow::{Result, bail};
use llama_cpp_sys_2 as sys;
use peers::{File, rmse};
use std::ffi::CStr;

#[allow(dead_code, reason = "only the stream of random numbers is used here")]
#[path = "../../../../src/rng.rs"]
mod rng;

const LEGACY: [(&str, sys::ggml_type); 5] = [
    ("Q4_0", sys::GGML_TYPE_Q4_0),
    ("Q4_1", sys::GGML_TYPE_Q4_1),
    ("Q5_0", sys::GGML_TYPE_Q5_0),
    ("Q5_1", sys::GGML_TYPE_Q5_1),
    ("Q8_0", sys::GGML_TYPE_Q8_0),
];
const BY_256: [(&str, sys::ggml_type); 3] =
    [("Q4_K", sys::GGML_TYPE_Q4_K), ("Q5_K", sys::GGML_TYPE_Q5_K), ("Q6_K", sys::GGML_TYPE_Q6_K)];
/// Seeded matrices: the first about normal, the second with outliers.
const MATRICES: [(&str, bool); 2] = [("even", false), ("outliers", true)];
const TENSORS: [&str; 3] = ["blk.0.ffn_down.weight", "blk.14.ffn_down.weight", "blk.29.ffn_down.weight"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path] = &args[..] else { bail!("usage: llama_quants MODEL.gguf") };
    let mut matrices = Vec::new();
    for (i, (name, outliers)) in MATRICES.iter().enumerate() {
        let values = matrix(i as u64, *outliers);
        let all = LEGACY.iter().chain(&BY_256);
        matrices.push(row(name, all.map(|(name, kind)| (*name, error(*kind, &values, 1024)))));
    }
    let file = File::open(path)?;
    let mut tensors = Vec::new();
    for name in TENSORS {
        let tensor = file.get(name)?;
        tensors.push(row(name, BY_256.iter().map(|(name, kind)| (*name, error(*kind, &tensor.values, tensor.width)))));
    }
    // SAFETY: it returns a text that lives as long as the program.
    let version = unsafe { CStr::from_ptr(sys::ggml_version()) }.to_str()?;
    println!("{{\n  \"ggml\": \"{version}\",");
    println!("  \"matrices\": {{\n{}\n  }},", matrices.join(",\n"));
    println!("  \"SmolLM2-135M-Instruct.Q4_1\": {{\n{}\n  }}\n}}", tensors.join(",\n"));
    Ok(())
}

fn row<'a>(name: &str, errors: impl Iterator<Item = (&'a str, f64)>) -> String {
    let errors: Vec<String> = errors.map(|(kind, error)| format!("\"{kind}\": {error:.6e}")).collect();
    format!("    \"{name}\": {{{}}}", errors.join(", "))
}

/// 64 rows of 1,024: sums of four uniform numbers, where `outliers` divided by a fifth, which makes some of them large.
fn matrix(id: u64, outliers: bool) -> Vec<f32> {
    let mut draw = rng::Stream::new(22, id);
    let mut one = || {
        let sum = (draw.uniform() + draw.uniform()) + (draw.uniform() + draw.uniform()) - 2.0;
        if outliers { 0.0625 * sum / (0.0625 + draw.uniform()) } else { 0.0625 * sum }
    };
    (0..64 * 1024).map(|_| one()).collect()
}

fn error(kind: sys::ggml_type, values: &[f32], width: i64) -> f64 {
    let rows = values.len() as i64 / width;
    let mut back = vec![0.0f32; values.len()];
    // SAFETY: both buffers hold `rows` rows of this type; no importance matrix is a null pointer.
    unsafe {
        let mut bytes = vec![0u8; sys::ggml_row_size(kind, width) * rows as usize];
        sys::ggml_quantize_chunk(kind, values.as_ptr(), bytes.as_mut_ptr().cast(), 0, rows, width, std::ptr::null());
        let widen =
            (*sys::ggml_get_type_traits(kind)).to_float.unwrap_or_else(|| unreachable!("every one of these widens"));
        widen(bytes.as_ptr().cast(), back.as_mut_ptr(), back.len() as i64);
    }
    rmse(&back, values)
}
