//! What a measurement is written as: one row of the same columns in every output.

use super::model::Phase;
use crate::app::App;
use crate::common::LimitSet;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use selfreward::gpu::Gpu;
use selfreward::kernels::bench::BenchRow;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The number of the columns below; another number means other columns, or others of their meanings.
pub(super) const SCHEMA: u64 = 1;

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) commit: String,
    pub(super) version: String,
    pub(super) device: String,
    pub(super) driver: String,
    pub(super) backend: String,
    pub(super) limits: String,
    pub(super) features: String,
    pub(super) name: String,
    pub(super) variant: String,
    pub(super) shape: String,
    pub(super) dtype: String,
    pub(super) date: String,
    pub(super) n: u64,
    pub(super) mean_ms: f64,
    pub(super) sd_ms: f64,
    pub(super) median_ms: f64,
    pub(super) device_ms: Option<f64>,
    pub(super) drift: Option<f64>,
    pub(super) bytes: f64,
    pub(super) flops: f64,
    pub(super) gflops: f64,
    pub(super) gbs: f64,
    pub(super) share: f64,
    pub(super) cache: String,
    pub(super) tok_s: Option<f64>,
    pub(super) doubt: String,
    pub(super) schema: u64,
}

/// A column: its name, its type in SQL, and what it holds.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) about: &'static str,
}

const TEXT: &str = "TEXT NOT NULL";
const REAL: &str = "REAL NOT NULL";

/// The columns, in their order: those of [`Row`].
pub(super) const COLUMNS: [Column; 27] = {
    const fn column(name: &'static str, sql: &'static str, about: &'static str) -> Column {
        Column { name, sql, about }
    }
    [
        column("commit", TEXT, "of which commit the program was built; empty where it was no repository"),
        column("version", TEXT, "of the program"),
        column("device", TEXT, "the GPU's name"),
        column("driver", TEXT, "its driver, with the version"),
        column("backend", TEXT, "Vulkan, Metal or Dx12"),
        column("limits", TEXT, "device or webgpu: which limits were asked for"),
        column("features", TEXT, "the optional features that kernels used"),
        column("name", TEXT, "the kernel, or model"),
        column("variant", TEXT, "soft or tile, and the order of sums"),
        column("shape", TEXT, "the entry point and its sizes, or the phase of the model"),
        column("dtype", TEXT, "the type of the weights"),
        column("date", TEXT, "when it was measured, UTC"),
        column("n", "INTEGER NOT NULL", "timed runs"),
        column("mean_ms", REAL, "mean milliseconds of a run, by the host's clock"),
        column("sd_ms", REAL, "their standard deviation"),
        column("median_ms", REAL, "their median"),
        column("device_ms", "REAL", "the median by the device's own timestamps"),
        column("drift", "REAL", "how much slower the last third of the runs was than the first"),
        column("bytes", REAL, "bytes of a run, each tensor counted once"),
        column("flops", REAL, "floating-point operations of a run"),
        column("gflops", REAL, "10^9 of them a second"),
        column("gbs", REAL, "10^9 bytes a second"),
        column("share", REAL, "of the device's measured peak that bounds the run"),
        column("cache", TEXT, "cold, or warm where runs found their memory in caches"),
        column("tok_s", "REAL", "tokens a second, of a model's phases"),
        column("doubt", TEXT, "why the figures are not to be believed"),
        column("schema", "INTEGER NOT NULL", "number of this list of columns"),
    ]
};

/// The help of `--output`: its forms and the columns.
pub(super) fn help() -> String {
    let forms = FORMATS.map(|(name, _)| name).join(", ");
    let columns: String = COLUMNS.iter().map(|c| format!("\n  {:10} {}", c.name, c.about)).collect();
    format!(
        "Write rows to stdout, or with =FILE to a file, as {forms}; may be given several times. The columns, of \
         version {SCHEMA}:{columns}"
    )
}

/// What all rows of one run of the program share.
pub(super) struct Origin {
    row: Row,
}

impl Origin {
    pub(super) fn of(app: &App, gpu: &Gpu, warm: bool) -> Origin {
        let info = gpu.info();
        let row = Row {
            commit: env!("SELFREWARD_COMMIT").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: info.name.clone(),
            driver: info.driver.clone(),
            backend: info.backend.clone(),
            limits: if app.common.limits == LimitSet::Webgpu { "webgpu" } else { "device" }.to_owned(),
            features: gpu.features_in_use().join(" "),
            variant: gpu.form().name(),
            date: date(Timestamp::now()),
            cache: if warm { "warm" } else { "cold" }.to_owned(),
            schema: SCHEMA,
            ..Row::default()
        };
        Origin { row }
    }

    /// The row of a kernel.
    pub(super) fn kernel(&self, r: &BenchRow) -> Row {
        Row {
            name: r.name.clone(),
            variant: r.variant.clone(),
            shape: r.shape.clone(),
            dtype: r.dtype.clone(),
            n: r.n as u64,
            mean_ms: r.mean_ms,
            sd_ms: r.sd_ms,
            median_ms: r.median_ms,
            device_ms: r.device_ms,
            drift: Some(r.drift),
            bytes: r.bytes,
            flops: r.flops,
            gflops: r.gflops,
            gbs: r.gbs,
            share: r.share,
            doubt: r.doubt.clone(),
            ..self.row.clone()
        }
    }

    /// The row of a model's phase.
    pub(super) fn phase(&self, p: &Phase) -> Row {
        Row {
            name: "model".to_owned(),
            shape: p.name.clone(),
            dtype: p.dtype.clone(),
            n: p.n as u64,
            mean_ms: p.mean_ms,
            sd_ms: p.sd_ms,
            median_ms: p.ms,
            bytes: p.bytes,
            flops: p.flops,
            gflops: p.gflops,
            gbs: p.gbs,
            share: p.share,
            tok_s: p.tok_s,
            ..self.row.clone()
        }
    }
}

/// A time as text, to the second, in UTC.
fn date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A form in which rows are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    Md,
    Csv,
    Jsonl,
    Sql,
}

/// The forms, by name.
pub(super) const FORMATS: [(&str, Format); 4] =
    [("md", Format::Md), ("csv", Format::Csv), ("jsonl", Format::Jsonl), ("sql", Format::Sql)];

/// A form, and the file that it goes to; without one it goes to stdout.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    pub(super) file: Option<PathBuf>,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Output, String> {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) if !file.is_empty() => (name, Some(PathBuf::from(file))),
            Some((name, _)) => return Err(format!("a file is missing behind {name}=")),
            None => (text, None),
        };
        let found = FORMATS.iter().find(|(known, _)| *known == name).map(|(_, format)| *format);
        let names = || FORMATS.map(|(name, _)| name).join(", ");
        let format = found.ok_or_else(|| format!("there are {}, each alone or with =FILE", names()))?;
        Ok(Output { format, file })
    }
}

/// The cells of a row, in the order of the columns.
fn cells(row: &Row) -> Result<Vec<Value>> {
    let value = serde_json::to_value(row)?;
    Ok(COLUMNS.iter().map(|column| value.get(column.name).cloned().unwrap_or(Value::Null)).collect())
}

/// A cell as plain text.
fn plain(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A cell for eyes: four digits of a number.
fn short(cell: &Value) -> String {
    match cell.as_f64().filter(|_| cell.is_f64()) {
        None => plain(cell).replace('|', "/"),
        Some(x) if x != 0.0 && !(1e-3..1e7).contains(&x.abs()) => format!("{x:.3e}"),
        Some(x) => {
            let digits = (3 - x.abs().max(1e-3).log10().floor() as i32).clamp(0, 6) as usize;
            format!("{x:.digits$}")
        }
    }
}

/// The rows in a form.
pub(super) fn text(format: Format, rows: &[Row]) -> Result<String> {
    let mut out = String::new();
    let all = rows.iter().map(cells).collect::<Result<Vec<_>>>()?;
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    match format {
        Format::Md => {
            let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
            out += &line(names.iter().map(|name| (*name).to_owned()).collect());
            out += &line(vec!["---".to_owned(); names.len()]);
            all.iter().for_each(|cells| out += &line(cells.iter().map(short).collect()));
        }
        Format::Csv => {
            let quoted = |text: String| match text.contains(['"', ',', '\n', '\r']) {
                true => format!("\"{}\"", text.replace('"', "\"\"")),
                false => text,
            };
            writeln!(out, "{}", names.join(","))?;
            for cells in &all {
                let line: Vec<String> = cells.iter().map(|cell| quoted(plain(cell))).collect();
                writeln!(out, "{}", line.join(","))?;
            }
        }
        Format::Jsonl => {
            for row in rows {
                writeln!(out, "{}", serde_json::to_string(row)?)?;
            }
        }
        Format::Sql => {
            let columns: Vec<String> = COLUMNS.iter().map(|c| format!("  \"{}\" {}", c.name, c.sql)).collect();
            writeln!(out, "CREATE TABLE IF NOT EXISTS bench (\n{}\n);", columns.join(",\n"))?;
            let literal = |cell: &Value| match cell {
                Value::String(text) => format!("'{}'", text.replace('\'', "''")),
                Value::Null => "NULL".to_owned(),
                other => other.to_string(),
            };
            for cells in &all {
                let values: Vec<String> = cells.iter().map(literal).collect();
                writeln!(out, "INSERT INTO bench VALUES ({});", values.join(", "))?;
            }
        }
    }
    Ok(out)
}

/// The files of JSONL during the measurement: each row stands there as soon as there is one, so that what is
/// interrupted leaves what it has.
pub(super) struct Live(Vec<std::fs::File>);

impl Live {
    /// Begins the files anew. One that cannot be written fails in the end, with all rows.
    pub(super) fn open(outputs: &[Output]) -> Live {
        let files = outputs.iter().filter(|o| o.format == Format::Jsonl).filter_map(|o| o.file.as_ref());
        Live(files.filter_map(|file| std::fs::File::create(file).ok()).collect())
    }

    pub(super) fn add(&self, row: &Row) {
        let Ok(text) = text(Format::Jsonl, std::slice::from_ref(row)) else { return };
        for mut file in &self.0 {
            // The whole file is written in the end, where an error is told.
            let _ = std::io::Write::write_all(&mut file, text.as_bytes());
        }
    }
}

/// Writes the rows to all outputs; gives whether one of them was stdout.
pub(super) fn write(outputs: &[Output], rows: &[Row]) -> Result<bool> {
    let mut shown = false;
    for output in outputs {
        let text = text(output.format, rows)?;
        match &output.file {
            Some(file) => {
                std::fs::write(file, text).with_context(|| format!("{}: cannot be written", file.display()))?;
            }
            None => {
                std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
                shown = true;
            }
        }
    }
    Ok(shown)
}

/// An earlier measurement.
pub(super) struct Earlier {
    pub(super) rows: Vec<Row>,
    /// The figures of a model, which only the document of `--json` has.
    pub(super) model: Option<Value>,
}

/// Reads what `--output jsonl=FILE` or `--json` wrote.
pub(super) fn read(path: &Path) -> Result<Earlier> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
    if let Ok(document) = serde_json::from_str::<Value>(&text)
        && document.get("kernels").is_some()
    {
        return of_document(&document).with_context(|| format!("{name}: is no report of bench --json"));
    }
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("{name}:{number}: is no row of bench --output jsonl, nor is the file a report"))?;
        match value.get("schema").and_then(Value::as_u64) {
            Some(SCHEMA) => {}
            Some(other) => {
                bail!("{name}:{number}: the columns are of version {other}, this program reads version {SCHEMA}")
            }
            None => bail!("{name}:{number}: the row does not say of which version its columns are (schema)"),
        }
        rows.push(serde_json::from_value(value).with_context(|| format!("{name}:{number}"))?);
    }
    Ok(Earlier { rows, model: None })
}

/// The rows of a document of `--json`; older ones hold less.
fn of_document(document: &Value) -> Result<Earlier> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let device = &document["device"];
    let row = |value: &Value, ms: &str| -> Result<Row> {
        let median_ms = value[ms].as_f64().with_context(|| format!("a row has no {ms}"))?;
        let number = |key: &str| value[key].as_f64();
        Ok(Row {
            device: text(device, "name"),
            driver: text(device, "driver"),
            backend: text(device, "backend"),
            name: text(value, "name"),
            variant: text(value, "variant"),
            shape: text(value, "shape"),
            dtype: text(value, "dtype"),
            n: value["n"].as_u64().unwrap_or(1),
            mean_ms: number("mean_ms").unwrap_or(median_ms),
            // Of normal values the quartiles lie 0.6745 deviations from the median.
            sd_ms: number("sd_ms").or_else(|| Some(number("spread")? * median_ms / 0.6745)).unwrap_or(0.0),
            median_ms,
            device_ms: number("device_ms"),
            drift: number("drift"),
            bytes: number("bytes").unwrap_or(0.0),
            flops: number("flops").unwrap_or(0.0),
            gflops: number("gflops").unwrap_or(0.0),
            gbs: number("gbs").unwrap_or(0.0),
            share: number("share").unwrap_or(0.0),
            cache: if value["warm"] == Value::Bool(false) { "cold" } else { "warm" }.to_owned(),
            tok_s: number("tok_s"),
            schema: SCHEMA,
            ..Row::default()
        })
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rows = list(&document["kernels"]).iter().map(|k| row(k, "median_ms")).collect::<Result<Vec<_>>>()?;
    for phase in list(&document["model"]["phases"]) {
        let of = row(&phase, "ms")?;
        rows.push(Row { shape: of.name.clone(), name: "model".to_owned(), ..of });
    }
    Ok(Earlier { rows, model: document.get("model").cloned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_those_of_a_row() {
        let schema = include_str!("../../../../schemas/bench_row.json");
        let schema: Value = serde_json::from_str(schema).unwrap();
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        let of = |key: &str| schema[key].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(of("properties"), names);
        let begin = ["commit", "version", "device", "driver", "backend", "limits", "features", "name", "variant"];
        assert_eq!(names[..9], begin);
    }

    #[test]
    fn times_are_dates() {
        let after = |seconds| date(Timestamp::from_second(seconds).unwrap());
        assert_eq!(after(0), "1970-01-01T00:00:00Z");
        assert_eq!(after(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(after(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn numbers_for_eyes_have_four_digits() {
        let shown = |x: f64| short(&x.into());
        assert_eq!([0.0123456, 1.23456, 12345.678, 0.0].map(shown), ["0.01235", "1.235", "12346", "0.000000"]);
        assert_eq!([2.5e9, 1e-5].map(shown), ["2.500e9", "1.000e-5"]);
    }

    #[test]
    fn outputs_are_forms_with_or_without_files() {
        let read = |text: &str| text.parse::<Output>();
        assert!(read("csv").unwrap().file.is_none());
        assert_eq!(read("sql=a=b").unwrap().file.unwrap(), PathBuf::from("a=b"));
        assert!(read("xml").unwrap_err().contains("md, csv, jsonl, sql"));
        assert!(read("csv=").unwrap_err().contains("file is missing"));
    }
}
