//! Whether launches wrote outside of their tensors.

use super::Gpu;
use super::buffer::Raw;
use super::record::Plan;
use crate::Result;
use std::ops::Range;
use std::sync::Arc;

/// Bytes in front of a guarded tensor: the largest alignment of a binding's beginning, so that they are not bound.
const BEFORE: u64 = 256;
/// Bytes behind it, which are bound with it: an index that goes on where a row or a block ends meets them, and one that
/// a shader's own bounds checks hold back ends in their last word.
const BEHIND: u64 = 16 << 10;
/// Bytes that a guarded tensor's buffer has more than the tensor.
pub(super) const AROUND: u64 = BEFORE + BEHIND;
/// What stands there, and where nobody wrote yet: a NaN, which shows in every result that it gets into; a signaling
/// one, which adding to it changes.
const UNTOUCHED: u32 = 0x7f85_a5a5;

impl Raw {
    /// What a launch binds: all that a tensor may have, and what stands behind a guarded one.
    pub(super) fn binding(&self) -> wgpu::BufferBinding<'_> {
        wgpu::BufferBinding { buffer: &self.buffer, offset: self.first, size: None }
    }
}

impl Plan {
    /// Each buffer once, with the launch and the binding where it stands first.
    pub(super) fn buffers(&self) -> Vec<(&Arc<Raw>, (usize, u32))> {
        let mut all: Vec<(&Arc<Raw>, (usize, u32))> = Vec::new();
        for (launch, step) in self.steps.iter().enumerate() {
            for (i, raw) in step.buffers.iter().enumerate() {
                if !all.iter().any(|(known, _)| Arc::ptr_eq(known, raw)) {
                    let own = step.pipeline.own_bindings.as_ref();
                    all.push((raw, (launch, own.map_or(i as u32 + 1, |own| own[i]))));
                }
            }
        }
        all
    }
}

impl Gpu {
    /// A buffer for a tensor of `used` bytes, which may have `bytes`.
    pub(super) fn guarded(&self, used: u64, bytes: u64) -> Result<Raw> {
        let size = bytes + AROUND;
        let raw = Raw { buffer: self.buffer(size)?, bytes, first: BEFORE, guarded: Some(used) };
        if !self.counts() {
            let words = vec![UNTOUCHED; size as usize / 4];
            self.0.queue.write_buffer(&raw.buffer, 0, bytemuck::cast_slice(&words));
        }
        Ok(raw)
    }

    /// Which tensor of the plan somebody wrote outside of, and where; None where all is as it was, or nothing is
    /// guarded.
    ///
    /// # Errors
    /// Device errors.
    pub(crate) fn overrun(&self, plan: &Plan) -> Result<Option<Overrun>> {
        let buffers = plan.buffers();
        let guarded: Vec<(&Raw, u64, (usize, u32))> =
            buffers.iter().filter_map(|(raw, place)| raw.guarded.map(|used| (&***raw, used, *place))).collect();
        let sides = |(raw, used): (&Raw, u64)| [0..raw.first, raw.first + used..raw.first + raw.bytes + BEHIND];
        let parts: Vec<(&Raw, Range<u64>)> =
            guarded.iter().flat_map(|(raw, used, _)| sides((raw, *used)).map(|side| (*raw, side))).collect();
        if parts.is_empty() {
            return Ok(None);
        }
        self.read_back(&parts, |bytes| {
            let mut words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
            for ((raw, side), (_, used, (launch, binding))) in parts.iter().zip(guarded.iter().flat_map(|g| [g, g])) {
                for at in side.clone().step_by(4) {
                    let Some(word) = words.next().filter(|word| *word != UNTOUCHED) else { continue };
                    let key = &plan.steps[*launch].key;
                    return Some(Overrun {
                        launch: format!("{}.{}", key.name, key.entry),
                        binding: *binding,
                        index: (at as i64 - raw.first as i64) / 4,
                        last: at + 4 == raw.first + raw.bytes + BEHIND,
                        elements: used / 4,
                        word,
                    });
                }
            }
            None
        })
    }
}

/// A write outside of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Overrun {
    /// A launch that has the tensor.
    pub(crate) launch: String,
    /// The number of the binding.
    pub(crate) binding: u32,
    /// The first element that was written, counted from the tensor's first.
    pub(crate) index: i64,
    /// Whether that is the last that is bound, where bounds checks hold back what lies beyond.
    last: bool,
    /// How many elements the tensor has.
    elements: u64,
    word: u32,
}

impl Overrun {
    /// Where, and what was written there.
    pub(crate) fn place(&self) -> String {
        let (beyond, value) = (if self.last { " or beyond" } else { "" }, f32::from_bits(self.word));
        format!("element {}{beyond} of {} was written ({value}, {:#010x})", self.index, self.elements, self.word)
    }
}

impl std::fmt::Display for Overrun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "binding {} of {}: {}", self.binding, self.launch, self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Cost, Launch, Options, Source, Tensor, Value};

    static SOURCE: Source = Source { name: "stray", soft: TEXT, tile: TEXT, libs: &[], tile_size: 1 };

    const TEXT: &str = "struct Params {
    at: u32,
}

//@ add
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [6], with its padding 8
@compute @workgroup_size(WG)
fn add() {
    y[p.at] += 1.0;
}
";

    /// A plan that adds 1 to one element of y.
    fn plan(gpu: &Gpu, y: &Tensor, at: usize) -> Plan {
        let mut rec = gpu.record();
        rec.launch(Launch {
            source: &SOURCE,
            entry: "add",
            constants: vec![],
            params: &[("at", Value::Size(at))],
            bind: &[y],
            groups: [1, 1, 1],
            cost: Cost::default(),
        })
        .unwrap();
        rec.compile()
    }

    #[test]
    fn a_write_behind_a_tensor_is_found_and_named() {
        let gpu = Gpu::with(&Options::default().guarded(true)).unwrap();
        for (at, found) in [(0, None), (7, None), (8, Some("element 8 of 8")), (100, Some("element 100 of 8"))] {
            let y = gpu.upload(1, 6, &[0f32; 6]).unwrap();
            let plan = plan(&gpu, &y, at);
            gpu.run(&plan).unwrap();
            let told = gpu.overrun(&plan).unwrap();
            assert_eq!(told.is_some(), found.is_some(), "{at}: {told:?}");
            if let (Some(told), Some(found)) = (told.map(|o| o.to_string()), found) {
                assert!(told.contains(found) && told.contains("binding 1 of stray.add"), "{told}");
            }
        }
    }

    #[test]
    fn what_nobody_wrote_is_nan_and_a_plan_starts_again_from_what_was_kept() {
        let gpu = Gpu::with(&Options::default().guarded(true)).unwrap();
        let empty = gpu.empty(2, 3).unwrap();
        assert!(gpu.download::<f32>(&empty).unwrap().iter().all(|x| x.is_nan()));
        let y = gpu.upload(1, 6, &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let plan = plan(&gpu, &y, 1);
        let kept = gpu.keep(&plan);
        let after = |gpu: &Gpu| {
            gpu.run(&plan).unwrap();
            gpu.download::<f32>(&y).unwrap()[1]
        };
        assert_eq!([after(&gpu), after(&gpu)], [3.0, 4.0]);
        gpu.put_back(&kept);
        assert_eq!(after(&gpu), 3.0);
    }
}
