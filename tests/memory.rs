//! Memory that changes hands: what a recorded launch still reads stays as it was until it ran.

use selfreward::gpu::{Gpu, Options};
use selfreward::kernels::matmul::{self, Epilogue};
use selfreward::kernels::rows;
use selfreward::kernels::weight::Weight;

#[test]
fn tuning_leaves_recorded_launches_alone() {
    let gpu = Gpu::with(&Options { forgetful: true, ..Options::default() }).unwrap();
    let (m, k, n) = (64, 36, 128);
    let values: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
    let (a, b) = (gpu.zeros(m, k).unwrap(), Weight::from(gpu.zeros(k, n).unwrap()));
    let (kept, c) = (gpu.zeros(m, n).unwrap(), gpu.zeros(m, n).unwrap());
    let all = gpu.vector(&(0..m as u32).collect::<Vec<_>>()).unwrap();
    let mut rec = gpu.record();
    // The launch alone holds x from here on; the product behind it is the first of its class, so it is tuned at once, on
    // a result of x's size.
    let x = gpu.upload(m, n, &values).unwrap();
    rows::gather(&mut rec, &x, &all, &kept).unwrap();
    drop(x);
    matmul::forward(&mut rec, &a, &b, &c, Epilogue::default()).unwrap();
    rec.submit().unwrap();
    assert_eq!(gpu.download::<f32>(&kept).unwrap(), values);
}
