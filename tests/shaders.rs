//! Every shader variant validates and translates to SPIR-V, MSL and HLSL.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use selfreward::gpu::Variant;
use selfreward::kernels::ALL;

/// Constants that launchers pass to some entry points; a text that does not use one is none the worse for it.
const OTHERS: &[(&str, u32)] = &[
    ("MR", 4),
    ("BIAS", 1),
    ("ADD", 1),
    ("BITS", 4),
    ("D4", 16),
    ("CHUNK", 128),
    ("HD", 64),
    ("DP", 64),
    ("LDA", 64),
    ("ROT", 64),
    ("QK_NORM", 1),
    ("OFFSET", 1),
    ("GELU", 1),
];

#[test]
fn every_variant_translates() {
    let mut texts = 0;
    for kernel in ALL {
        let source = (kernel.source)();
        for variant in Variant::ALL {
            for entry in source.entries(variant) {
                for row in kernel.constants {
                    let mut constants = row.to_vec();
                    constants.extend(OTHERS.iter().filter(|(n, _)| !row.iter().any(|(m, _)| m == n)));
                    let label = format!("{} {} {entry} {row:?}", source.name, variant.name());
                    let text = source.wgsl(variant, entry, &constants).expect("a text");
                    translate(&label, entry, &text);
                    texts += 1;
                }
            }
        }
    }
    assert!(texts > 100, "only {texts} texts");
}

fn translate(label: &str, entry: &str, text: &str) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(text)));
    assert_eq!(module.entry_points.len(), 1, "{label}");
    assert_eq!(module.entry_points[0].name, entry, "{label}");
    bindings_are_in_order(label, &module);
    spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
    let options = hlsl::Options { fake_missing_bindings: true, ..Default::default() };
    let mut out = String::new();
    hlsl::Writer::new(&mut out, &options, &hlsl::PipelineOptions::default())
        .write(&module, &info, None)
        .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
}

/// The host binds the uniform at 0 and the tensors from 1 on without a gap; at most 8 of them, WebGPU's default
/// limit of storage buffers a stage.
fn bindings_are_in_order(label: &str, module: &naga::Module) {
    let mut bound: Vec<(u32, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| v.binding.map(|b| (b.binding, v.space == naga::AddressSpace::Uniform)))
        .collect();
    bound.sort_unstable();
    for (i, (binding, uniform)) in bound.iter().enumerate() {
        assert_eq!((*binding as usize, *uniform), (i, i == 0), "{label}: binding {i}");
    }
    assert!(bound.len() <= 9, "{label}: {} storage buffers", bound.len() - 1);
}
