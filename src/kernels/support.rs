//! Which ops a device has, each tried on the quickest cases that meet its entry points.

use super::check;
use super::choice::{Chosen, Selection, least, own};
use super::inputs::DTYPES;
use super::list::ALL;
use super::matmul_cases;
use crate::gpu::Gpu;
use crate::{Observer, Result};

/// An op on one device.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SupportRow {
    /// The op's stem, of products also the type of the weights.
    pub op: String,
    /// soft or tile where its results are those of the twin.
    pub variant: Option<String>,
    /// Why the device has not got it, or what was off.
    pub note: String,
    /// Whether it was tried and something was off.
    pub off: bool,
}

/// The shape of the products that are tried in every type of weights.
const SHAPE: (usize, usize, usize) = (9, 64, 36);

/// Tries every op in the device's own variant.
///
/// # Errors
/// A device that was lost.
pub fn support(gpu: &Gpu, observer: &dyn Observer) -> Result<Vec<SupportRow>> {
    let selection = Selection::default().variants(vec![gpu.variant()]);
    let mut rows = Vec::new();
    let mut tried = |op: String, chosen: Result<Chosen>| -> Result<()> {
        let mut row = SupportRow { op, variant: None, note: String::new(), off: false };
        match chosen {
            Ok(chosen) => {
                let off = check::run(gpu, &chosen, observer)?.into_iter().find(|r| !r.passed);
                row.off = off.is_some();
                row.note = off.map_or(String::new(), |r| format!("{}: {}", r.case, r.note));
                row.variant = (!row.off).then(|| gpu.form().name());
            }
            Err(e) => row.note = e.to_string(),
        }
        rows.push(row);
        Ok(())
    };
    for kernel in ALL {
        let there = gpu.expect_buildable((kernel.source)());
        tried(kernel.name().to_owned(), there.and_then(|()| least(gpu, kernel)))?;
    }
    for dtype in DTYPES {
        let cases = matmul_cases::compared(SHAPE, dtype).map(|all| all.into());
        let chosen = cases.map(|cases| own(gpu, &matmul_cases::KERNEL, cases, &selection));
        tried(format!("matmul of weights in {dtype}"), chosen)?;
    }
    Ok(rows)
}
