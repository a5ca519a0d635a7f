//! What the programs that ask llama.cpp share: GGUF files read by ggml.

use anyhow::{Context, Result, ensure};
use llama_cpp_sys_2 as sys;
use std::ffi::{CStr, CString};

/// A GGUF file with its data in memory.
pub struct File {
    context: *mut sys::ggml_context,
    gguf: *mut sys::gguf_context,
}

/// A tensor of a file, widened.
pub struct Tensor {
    pub kind: sys::ggml_type,
    /// The length of a row.
    pub width: i64,
    pub values: Vec<f32>,
}

impl File {
    pub fn open(path: &str) -> Result<File> {
        let name = CString::new(path)?;
        let mut context = std::ptr::null_mut();
        let params = sys::gguf_init_params { no_alloc: false, ctx: &mut context };
        // SAFETY: the name ends in 0; what comes back is kept as long as the program runs.
        let gguf = unsafe { sys::gguf_init_from_file(name.as_ptr(), params) };
        ensure!(!gguf.is_null(), "{path}: not read");
        Ok(File { context, gguf })
    }

    pub fn names(&self) -> Result<Vec<String>> {
        // SAFETY: the file is open, and the numbers are those of its tensors.
        let name = |i| unsafe { CStr::from_ptr(sys::gguf_get_tensor_name(self.gguf, i)) };
        let count = unsafe { sys::gguf_get_n_tensors(self.gguf) };
        (0..count).map(|i| Ok(name(i).to_str()?.to_owned())).collect()
    }

    pub fn get(&self, name: &str) -> Result<Tensor> {
        let stored = CString::new(name)?;
        // SAFETY: the tensor's data were read with the file, and the buffer holds all its values.
        unsafe {
            let tensor =
                sys::ggml_get_tensor(self.context, stored.as_ptr()).as_ref().with_context(|| format!("no {name}"))?;
            let mut values = vec![0.0f32; usize::try_from(sys::ggml_nelements(tensor))?];
            match tensor.type_ {
                sys::GGML_TYPE_F32 => {
                    std::ptr::copy_nonoverlapping(tensor.data.cast(), values.as_mut_ptr(), values.len())
                }
                kind => {
                    let widen = (*sys::ggml_get_type_traits(kind)).to_float.context("a type that does not widen")?;
                    widen(tensor.data, values.as_mut_ptr(), values.len() as i64);
                }
            }
            Ok(Tensor { kind: tensor.type_, width: tensor.ne[0], values })
        }
    }
}

pub fn rmse(values: &[f32], wanted: &[f32]) -> f64 {
    let squares = values.iter().zip(wanted).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
    (squares.sum::<f64>() / values.len() as f64).sqrt()
}

/// ggml's name of a type.
pub fn name(kind: sys::ggml_type) -> String {
    // SAFETY: it returns a text that lives as long as the program.
    unsafe { CStr::from_ptr(sys::ggml_type_name(kind)) }.to_string_lossy().into_owned()
}
