//! A file that selfreward quantised beside llama.cpp's own quantising of the same model: `llama_mix PLAIN.gguf
//! OURS.gguf FTYPE`, where FTYPE is llama.cpp's number. Each tensor must have the same type, and an error of at most
//! 1.02 times llama.cpp's.

use anyhow::{Result, bail, ensure};
use llama_cpp_sys_2 as sys;
use peers::{File, name, rmse};
use std::ffi::CString;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [plain, ours, kind] = &args[..] else { bail!("usage: llama_mix PLAIN.gguf OURS.gguf FTYPE") };
    let theirs = format!("{ours}.llama");
    let (from, to) = (CString::new(plain.as_str())?, CString::new(theirs.as_str())?);
    // SAFETY: the names end in 0, and the parameters are llama.cpp's own but for the type.
    let failed = unsafe {
        sys::llama_log_set(Some(quiet), std::ptr::null_mut());
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = kind.parse()?;
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    ensure!(failed == 0, "llama.cpp does not quantise {plain}");
    let [plain, ours, their] = [plain, ours, &theirs].map(|path| File::open(path));
    let (plain, ours, their) = (plain?, ours?, their?);
    std::fs::remove_file(&theirs)?;
    let (mut worst, mut wrong) = (("", 0.0), 0);
    let names = plain.names()?;
    for tensor in &names {
        let (want, our, their) = (plain.get(tensor)?, ours.get(tensor)?, their.get(tensor)?);
        if our.kind != their.kind {
            println!("{tensor}: {}, llama.cpp takes {}", name(our.kind), name(their.kind));
            wrong += 1;
            continue;
        }
        let (our, their) = (rmse(&our.values, &want.values), rmse(&their.values, &want.values));
        let ratio = if our <= their { if their > 0.0 { our / their } else { 1.0 } } else { our / their };
        if ratio > worst.1 {
            worst = (tensor, ratio);
        }
    }
    println!(
        "{} tensors, {wrong} of another type; the largest error is {:.4} of llama.cpp's ({})",
        names.len(),
        worst.1,
        worst.0
    );
    ensure!(wrong == 0 && worst.1 <= 1.02, "not llama.cpp's types, or larger errors");
    Ok(())
}

unsafe extern "C" fn quiet(_: sys::ggml_log_level, _: *const std::ffi::c_char, _: *mut std::ffi::c_void) {}
