//! Every shader variant validates and translates to SPIR-V, MSL and HLSL. With SHADERS_OUT=DIR the texts and their
//! translations are left there, for the validators that scripts/test runs over them.

#![expect(clippy::expect_used, reason = "a failed test may panic")]

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use selfreward::gpu::{Source, parameters};
use selfreward::kernels::{ALL, Traits};
use selfreward_testing::texts;
use std::collections::BTreeSet;
use std::path::PathBuf;

#[test]
fn every_variant_translates() {
    let out = std::env::var_os("SHADERS_OUT").map(PathBuf::from);
    let all = texts::texts().expect("the texts");
    assert!(all.len() > 100, "only {} texts", all.len());
    for (i, t) in all.iter().enumerate() {
        let (name, variant, entry, optional) =
            (t.kernel.name(), t.way.variant.name(), t.way.entry, t.way.is_optional());
        let label = format!("{name} {variant} {entry} {:?}", t.way.constants);
        let translated = translate(&label, entry, optional, &t.wgsl);
        // The validators know WebGPU without its optional parts.
        if let Some(dir) = out.as_ref().filter(|_| !optional) {
            keep(dir, &format!("{name}.{variant}.{entry}.{i}"), t.wgsl.as_bytes(), &translated);
        }
    }
}

/// docs/SHADERS.md has a row for every constant that launchers use, and for no other.
#[test]
fn every_constant_is_explained() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SHADERS.md")).expect("the page");
    let (_, table) = page.split_once("## Every constant").expect("the table");
    let names = table.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let explained: BTreeSet<&str> = names.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let ways = Traits::all().into_iter().flat_map(|traits| ALL.iter().flat_map(move |k| (k.ways)(&traits)));
    let mut used: BTreeSet<&str> = ways.flat_map(|way| way.constants).map(|(name, _)| name).collect();
    // What every text has, and the switch of loops over single items.
    used.extend(["WG", "PER", "ONCE"]);
    assert_eq!(explained, used);
}

/// SPIR-V, MSL and HLSL of one text.
struct Translated {
    spv: Vec<u32>,
    msl: String,
    hlsl: String,
}

fn keep(dir: &std::path::Path, stem: &str, wgsl: &[u8], translated: &Translated) {
    std::fs::create_dir_all(dir).expect("a folder");
    let spv: Vec<u8> = translated.spv.iter().flat_map(|word| word.to_le_bytes()).collect();
    let files =
        [("wgsl", wgsl), ("spv", &spv), ("metal", translated.msl.as_bytes()), ("hlsl", translated.hlsl.as_bytes())];
    for (extension, bytes) in files {
        std::fs::write(dir.join(format!("{stem}.{extension}")), bytes).expect("a file");
    }
}

fn translate(label: &str, entry: &str, optional: bool, text: &str) -> Translated {
    // unpack2x16float is a part of WebGPU; naga counts it as a capability for old OpenGL's sake.
    let capabilities = match optional {
        true => Capabilities::all(),
        false => Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    };
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(text)));
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{label}: {}", e.emit_to_string(text)));
    assert_eq!(module.entry_points.len(), 1, "{label}");
    assert_eq!(module.entry_points[0].name, entry, "{label}");
    bindings_are_in_order(label, &module);
    bindings_are_what_the_host_reads(label, &module, text);
    parameters_are_packed_words(label, &module, text);
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let spv = spv::write_vec(&module, &info, &options, None).unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    let (msl, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
    let options =
        hlsl::Options { fake_missing_bindings: true, zero_initialize_workgroup_memory: false, ..Default::default() };
    let mut hlsl = String::new();
    // Direct3D 12 has no matrix units, by wgpu.
    if !text.contains("coop_mat") {
        hlsl::Writer::new(&mut hlsl, &options, &hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
    }
    Translated { spv, msl, hlsl }
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

/// The host makes bind group layouts from the declarations' text; naga must see the same list.
fn bindings_are_what_the_host_reads(label: &str, module: &naga::Module, text: &str) {
    let mut seen: Vec<(u32, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| match (v.space, &v.binding) {
            (naga::AddressSpace::Storage { access }, Some(b)) => {
                Some((b.binding, !access.contains(naga::StorageAccess::STORE)))
            }
            _ => None,
        })
        .collect();
    seen.sort_unstable();
    let read_only: Vec<bool> = seen.into_iter().map(|(_, r)| r).collect();
    assert_eq!(Source::read_only_bindings(text), read_only, "{label}");
}

/// The host writes parameters as words one after another, at most 256 bytes of them, and compares their names and types
/// with what it reads in the text; naga must see the same.
fn parameters_are_packed_words(label: &str, module: &naga::Module, text: &str) {
    let read = parameters(text).expect("parameters");
    for (_, v) in module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::Uniform) {
        let naga::TypeInner::Struct { members, span } = &module.types[v.ty].inner else {
            panic!("{label}: the parameters are no struct");
        };
        let mut next = 0;
        assert_eq!(members.len(), read.len(), "{label}: parameters");
        for (member, read) in members.iter().zip(&read) {
            let name = member.name.as_deref().unwrap_or_default();
            let words = match module.types[member.ty].inner {
                naga::TypeInner::Scalar(s) if s.width == 4 => 1,
                naga::TypeInner::Vector { size, scalar } if scalar.width == 4 => size as u32,
                // Of vec4, as uniform arrays must be.
                naga::TypeInner::Array { size: naga::ArraySize::Constant(n), stride: 16, .. } => 4 * n.get(),
                _ => panic!("{label}: parameter {name} is made of no words"),
            };
            let float = module.types[member.ty].inner.scalar_kind() == Some(naga::ScalarKind::Float);
            assert_eq!((name, float, words as usize), (&*read.name, read.kind == "f32", read.words), "{label}");
            assert_eq!(member.offset, next, "{label}: there is a gap before parameter {name}");
            next += 4 * words;
        }
        assert!(*span <= 256, "{label}: {span} bytes of parameters");
    }
}
