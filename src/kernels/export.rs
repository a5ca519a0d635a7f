//! Writes the cases out, for another WebGPU implementation to run: `check --export`.

use super::case::{Expected, Trial};
use super::choice::{compared, named, seed};
use crate::disk;
use crate::durable::write_file;
use crate::gpu::{Gpu, Variant};
use crate::{Error, Observer, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Cases whose buffers hold more words than this are left out: the smaller ones take the same paths.
const MOST_WORDS: usize = 1 << 18;

/// Writes into `dir`: `N.wgsl`, each text once; `data.bin`, the buffers' words and the twins' f64 or u32 values,
/// little-endian; `cases.json`, a list of cases: `buffers` as [byte offset, bytes] in data.bin, `dispatches` (wgsl,
/// entry, params, bind: numbers of buffers for the bindings from 1 on, groups) and `outputs` (what, buffer, rows, cols,
/// ld, type, offset of the twin's values, which have no padding between rows). Kernels that need an optional feature
/// are left out. Gives the number of cases.
///
/// # Errors
/// A name that no kernel has, a shader that does not build, a folder that cannot be written, device errors.
pub fn write(gpu: &Gpu, dir: &Path, names: &[String], variants: &[Variant], observer: &dyn Observer) -> Result<usize> {
    disk::create_dir_all(dir).map_err(Error::io(dir))?;
    let (mut cases, mut data) = (Vec::new(), Vec::new());
    let mut texts: HashMap<String, String> = HashMap::new();
    for kernel in named(names)?.into_iter().filter(|k| !(k.source)().is_optional()) {
        for form in kernel.forms(gpu, variants) {
            for case in &compared(kernel) {
                if observer.stop_requested() {
                    return Err(Error::Stopped);
                }
                observer.advance(1);
                let mut trial = Trial::new(gpu, form, seed(case, 0), true);
                (case.run)(&mut trial)?;
                let Trial { rec, outputs, .. } = trial;
                let recording = rec.export(&outputs.iter().map(|(_, t, _)| t).collect::<Vec<_>>())?;
                if recording.buffers.iter().map(Vec::len).sum::<usize>() > MOST_WORDS {
                    continue;
                }
                let mut put = |bytes: &[u8]| {
                    data.extend_from_slice(bytes);
                    data.len() - bytes.len()
                };
                let buffers: Vec<[usize; 2]> =
                    recording.buffers.iter().map(|b| [put(bytemuck::cast_slice(b)), 4 * b.len()]).collect();
                let mut dispatches = Vec::new();
                for d in recording.dispatches {
                    let next = format!("{}.wgsl", texts.len());
                    if !texts.contains_key(&d.wgsl) {
                        write_file(&dir.join(&next), d.wgsl.as_bytes())?;
                    }
                    let wgsl = texts.entry(d.wgsl).or_insert(next);
                    dispatches.push(json!({
                        "wgsl": wgsl, "entry": d.entry, "params": d.params, "bind": d.bind, "groups": d.groups,
                    }));
                }
                let outputs: Vec<Value> = outputs
                    .iter()
                    .zip(&recording.places)
                    .map(|((what, t, expected), buffer)| {
                        let (kind, offset) = match expected {
                            Expected::Floats(v) => ("f32", put(bytemuck::cast_slice(v))),
                            Expected::Words(v) => ("u32", put(bytemuck::cast_slice(v))),
                        };
                        json!({
                            "what": what, "buffer": buffer, "rows": t.rows(), "cols": t.cols(), "ld": t.ld(),
                            "type": kind, "offset": offset,
                        })
                    })
                    .collect();
                cases.push(json!({
                    "kernel": kernel.name(), "variant": form.name(), "case": case.name, "tolerance": case.tolerance,
                    "buffers": buffers, "dispatches": dispatches, "outputs": outputs,
                }));
            }
        }
    }
    write_file(&dir.join("data.bin"), &data)?;
    let text = serde_json::to_vec(&cases).map_err(|e| Error::file(dir.join("cases.json"), e.to_string()))?;
    write_file(&dir.join("cases.json"), &text)?;
    Ok(cases.len())
}
