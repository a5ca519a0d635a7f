//! One kernel, checked against its f64 twin and timed: `cargo run --release --example one_kernel [KERNEL]`.

use selfreward::gpu::Gpu;
use selfreward::kernels::{check, peak};
use selfreward::{Result, Silent};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let kernel = std::env::args().nth(1).unwrap_or_else(|| "matmul".to_owned());
    let gpu = Gpu::open(None, None)?;
    println!("{} ({})", gpu.info().name, gpu.variant().name());
    for row in check::run(&gpu, Some(&kernel), &[gpu.variant()], &Silent)? {
        let word = if row.passed { "ok" } else { "OFF" };
        println!("{word:4} {:44} error {:.1e} of {:.0e}", row.case, row.max_error, row.tolerance);
    }
    let peaks = peak::measure(&gpu, gpu.form())?;
    for row in check::bench(&gpu, &check::timed(Some(&kernel), None)?, 5, &peaks, &Silent)? {
        println!("     {:44} {:.2} ms, {:.2} GFLOP/s, {:.2} GB/s", row.shape, row.median_ms, row.gflops, row.gbs);
    }
    Ok(())
}
