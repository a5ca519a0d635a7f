//! Every kernel, in every variant, against its f64 twin on this machine's adapter, with the shaders' bounds checks on.

use selfreward::Silent;
use selfreward::gpu::{Gpu, Options, PipelineKey, Variant};
use selfreward::kernels::choice::{Selection, choose};
use selfreward::kernels::{ALL, Traits, check};
use std::collections::HashSet;

#[test]
fn every_kernel_agrees_with_its_twin() {
    let options = Options::default().checked(true).guarded(true);
    let gpu = Gpu::with(&options).expect("a GPU, if only a software one");
    let filter = std::env::var("KERNEL").ok();
    let selection = Selection::default().names(filter.iter().cloned().collect()).variants(Variant::ALL.to_vec());
    let chosen = choose(&gpu, &selection.all(true), &Silent).expect("kernels of that name");
    let rows = check::run(&gpu, &chosen, &Silent).expect("the device stays");
    let off: Vec<String> = rows
        .iter()
        .filter(|r| !r.passed)
        .map(|r| {
            format!(
                "{} {} {} {}: {:.2e} > {:.0e} {}",
                r.kernel, r.variant, r.case, r.inputs, r.max_error, r.tolerance, r.note
            )
        })
        .collect();
    assert!(off.is_empty(), "{} of {} cases are off:\n{}", off.len(), rows.len(), off.join("\n"));
    let known: HashSet<PipelineKey> = Traits::all()
        .iter()
        .flat_map(|traits| ALL.iter().flat_map(move |k| (k.ways)(traits)))
        .map(|way| way.key())
        .collect();
    let unknown: Vec<PipelineKey> = gpu.pipelines().into_iter().filter(|key| !known.contains(key)).collect();
    assert!(unknown.is_empty(), "launchers ask for what is not among the kernels' ways: {unknown:#?}");
    if filter.is_none() {
        let mut built = ALL.iter().filter(|k| gpu.can_build((k.source)()));
        assert!(built.all(|k| rows.iter().any(|r| r.kernel == k.name())), "a kernel has no case");
    }
}
