//! The soft cap of logits (Gemma 2, arXiv 2408.00118).

use super::case::{Case, Kernel};
use super::scores::{capped, constant};
use super::sizes::{several, stream};
use super::way::{Traits, Way};
use crate::Result;
use crate::gpu::Value::{Float, Size};
use crate::gpu::{Launch, Recorder, Source, Tensor};

static SOURCE: Source = Source {
    name: "softcap",
    soft: include_str!("../../shaders/softcap.wgsl"),
    tile: include_str!("../../shaders/softcap.wgsl"),
    libs: &["grid", "cap"],
    tile_size: 64,
};

/// The kernel's row in [`super::ALL`].
pub(crate) const KERNEL: Kernel =
    Kernel { source: || &SOURCE, about: "the soft cap of logits", ways: |t| vec![way(t)], ordered: &[], cases };

fn way(traits: &Traits) -> Way {
    Way::new(&SOURCE, traits, "forward", constant(Some(1.0)).into_iter().collect::<Vec<_>>())
}

/// logits `[R, V]` become cap · tanh(logits / cap).
///
/// # Errors
/// What the recorder says.
pub(crate) fn forward(rec: &mut Recorder, logits: &Tensor, cap: f32) -> Result<()> {
    let way = way(&Traits::of(rec));
    rec.launch(Launch {
        source: way.source,
        entry: way.entry,
        constants: way.constants,
        params: &[("len4", Size(logits.len() / 4)), ("cap", Float(cap))],
        bind: &[logits],
        groups: several(&SOURCE, rec.variant(), logits.len() / 4),
        cost: stream(&[logits, logits], 20.0),
    })
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols, cap, scale) in [(1, 3, 30.0f32, 0.01f32), (7, 33, 2.0, 3.0), (610, 10, 30.0, 100.0)] {
        all.push(Case::new(format!("forward {rows}x{cols} cap={cap} up to {scale}"), 1e-6, move |t| {
            let v: Vec<f32> = t.values(rows * cols).iter().map(|x| x * scale).collect();
            let logits = t.gpu.upload(rows, cols, &v)?;
            forward(&mut t.rec, &logits, cap)?;
            t.expect("y", &logits, || v.iter().map(|x| capped(f64::from(*x), Some(cap))).collect());
            Ok(())
        }));
    }
    all.push(Case::new("forward of extremes", 1e-6, |t| {
        let v = [1e30f32, -1e30, 5e3, -5e3, 0.0, 1e-20, 14.9, 15.1];
        let logits = t.gpu.upload(2, 4, &v)?;
        forward(&mut t.rec, &logits, 30.0)?;
        t.expect("y", &logits, || v.iter().map(|x| capped(f64::from(*x), Some(30.0))).collect());
        Ok(())
    }));
    all
}
