//! One kernel, checked against its f64 twin and timed: `cargo run --release --example one_kernel [KERNEL]`.

use selfreward::gpu::Gpu;
use selfreward::kernels::bench::{self, Timing};
use selfreward::kernels::choice::{Selection, choose};
use selfreward::kernels::{check, peak};
use selfreward::{Result, Silent};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let kernel = std::env::args().nth(1).unwrap_or_else(|| "matmul".to_owned());
    let gpu = Gpu::open(None, None)?;
    println!("{} ({})", gpu.info().name, gpu.variant().name());
    let names = vec![kernel];
    let selection = Selection::default().names(names.clone()).variants(vec![gpu.variant()]);
    for row in check::run(&gpu, &choose(&gpu, &selection, &Silent)?, &Silent)? {
        let word = if row.passed { "ok" } else { "OFF" };
        println!("{word:4} {:44} error {:.1e} of {:.0e}", row.case, row.max_error, row.tolerance);
    }
    let mut peaks = peak::measure(&gpu, gpu.form())?;
    for row in bench::bench(&gpu, &bench::timed(&names, None)?, &Timing::default(), &mut peaks, &Silent, &mut |_| ())? {
        println!("     {:44} {:.2} ms, {:.2} GFLOP/s, {:.2} GB/s", row.shape, row.median_ms, row.gflops, row.gbs);
    }
    Ok(())
}
