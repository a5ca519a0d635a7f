//! `devices`: which GPUs there are and which one would be used.

use crate::app::{App, planned};
use crate::tables::Table;
use anyhow::Result;
use selfreward::gpu::{self, DeviceInfo};
use serde::Serialize;

#[derive(Serialize)]
struct Report<'a> {
    devices: &'a [DeviceInfo],
    /// Index of the device that would be used.
    chosen: usize,
    reason: String,
    /// Name of the kernel texts that the device would run.
    variant: &'static str,
    /// Bytes that its work would be planned with; none on a software adapter unless `--memory` gives them.
    planned_bytes: Option<u64>,
}

pub(crate) fn run(app: &App) -> Result<()> {
    let devices = gpu::list();
    let gpu = app.gpu()?;
    let info = gpu.info();
    let reason = match &app.common.device {
        Some(wanted) => format!("--device {wanted}"),
        None if devices.len() == 1 => "the only one".into(),
        None => format!("{}: a discrete GPU goes before an integrated one, any GPU before software", info.kind),
    };
    let report = Report {
        devices: &devices,
        chosen: info.index,
        reason,
        variant: gpu.variant().name(),
        planned_bytes: gpu.memory(),
    };
    if app.common.json {
        return app.json(&report);
    }
    let mut table =
        Table::new(&["index", "name", "kind", "backend", "driver", "memory", "binding", "workgroup", "features"]);
    for d in &devices {
        table.row([
            d.index.to_string(),
            d.name.clone(),
            d.kind.clone(),
            d.backend.clone(),
            d.driver.clone(),
            format!("{} MiB ({})", d.memory_bytes >> 20, d.memory_source),
            format!("{} MiB", d.max_binding_bytes >> 20),
            format!("{} KiB, {} lanes", d.max_workgroup_bytes >> 10, d.max_workgroup_invocations),
            d.features.join(" "),
        ]);
    }
    table.print()?;
    app.line(format!(
        "\nwould use {} ({}), with the {} kernels: {}",
        info.index, info.name, report.variant, report.reason
    ))?;
    app.line(planned(&gpu))
}
