//! burn-wgpu: its autotuned matmul on Vulkan, for y = x W and the two products of the way back. `burn RUNS M,N,K…`;
//! prints one JSON object of GFLOP/s by product, medians of RUNS runs after the tuner's own and two more.

use anyhow::{Context, Result, bail};
use burn_tensor::backend::Backend;
use burn_tensor::{Distribution, Tensor};
use burn_wgpu::{Vulkan, WgpuDevice};
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [runs, shapes @ ..] = &args[..] else { bail!("usage: burn RUNS M,N,K…") };
    let runs: usize = runs.parse()?;
    let device = WgpuDevice::default();
    let mut rows = Vec::new();
    for shape in shapes {
        let sizes: Vec<usize> = shape.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [m, n, k] = sizes[..].try_into().ok().with_context(|| format!("{shape} is no M,N,K"))?;
        let random = |rows, cols| Tensor::<Vulkan, 2>::random([rows, cols], Distribution::Default, &device);
        let (x, w, dy) = (random(m, k), random(k, n), random(m, n));
        let products: [(&str, &dyn Fn() -> Tensor<Vulkan, 2>); 3] = [
            ("y", &|| x.clone().matmul(w.clone())),
            ("dx", &|| dy.clone().matmul(w.clone().transpose())),
            ("dw", &|| x.clone().transpose().matmul(dy.clone())),
        ];
        for (name, product) in products {
            let seconds = median(runs, &device, product)?;
            rows.push(format!(r#""{name} {m}x{n}x{k}": {}"#, 2e-9 * (m * n * k) as f64 / seconds));
        }
    }
    println!("{{{}}}", rows.join(", "));
    Ok(())
}

fn median(runs: usize, device: &WgpuDevice, product: &dyn Fn() -> Tensor<Vulkan, 2>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..runs.max(1) + 2 {
        Vulkan::<f32>::sync(device)?;
        let start = Instant::now();
        let result = product();
        Vulkan::<f32>::sync(device)?;
        times.push(start.elapsed().as_secs_f64());
        drop(result);
    }
    let measured = &mut times[2..];
    measured.sort_by(f64::total_cmp);
    Ok(measured[measured.len() / 2])
}
