//! What AMD's GPUs would make of the kernels, on a machine without one: every text of the tile variant is compiled by
//! RADV for RDNA2 (navi21) and RDNA3 (navi31). Nothing runs.
//!
//! `cargo bench --bench radv > docs/RADV.md` writes the table; `cargo bench --bench radv -- FILE.wgsl…` gives rows for
//! other texts, to choose between forms of one kernel; `cargo test --bench radv` compares the kernels with the table.

#![expect(
    unsafe_code,
    reason = "Vulkan is a C interface, and RADV is told by environment variables what to compile for"
)]
#![expect(clippy::print_stdout, reason = "the table is what a bench prints")]

mod vulkan;

use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use selfreward::gpu::{Source, Variant};
use selfreward::kernels::Way;
use selfreward_testing::texts;
use std::collections::HashSet;
use std::ffi::CString;
use vulkan::{Compiler, Executable};

const FAMILIES: [&str; 2] = ["navi21", "navi31"];
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/RADV.md");
const COLUMNS: [&str; 10] = [
    "VGPRs",
    "spilled",
    "scratch",
    "LDS",
    "waves",
    "packed, matrix",
    "instructions",
    "cycles",
    "FLOP/cycle",
    "bytes/cycle",
];
/// Places in [`COLUMNS`] of what the test guards.
const SPILLED: usize = 1;
const SCRATCH: usize = 2;
const WAVES: usize = 4;
const PACKED: usize = 5;

/// A kernel in the table's words, and by family one value of each column; none where the family lacks what it needs.
struct Row {
    name: String,
    by_family: Vec<Option<[u64; COLUMNS.len()]>>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let files: Vec<&String> = arguments.iter().filter(|a| a.ends_with(".wgsl")).collect();
    let Some(driver) = vulkan::driver_file() else {
        println!("skipped: RADV is not installed (on Debian: mesa-vulkan-drivers)");
        return;
    };
    let made = match files.is_empty() {
        true => kernels(),
        false => files.iter().map(|f| file(f)).collect(),
    };
    let (rows, version) = made.and_then(|all| compile(&driver, all)).unwrap_or_else(|e| panic!("{e}"));
    if arguments.iter().any(|a| a == "--bench") {
        print!("{}", if files.is_empty() { document(&rows, &version) } else { table(&rows) });
    } else {
        let table = std::fs::read_to_string(TABLE).unwrap_or_else(|e| panic!("{TABLE}: {e}"));
        let wrong = differences(&rows, &version, &table);
        assert!(wrong.is_empty(), "\n{}\nif meant: cargo bench --bench radv > docs/RADV.md", wrong.join("\n"));
        println!("{} kernels on {}: as docs/RADV.md says", rows.len(), FAMILIES.join(" and "));
    }
}

/// A text to compile.
struct Kernel {
    name: String,
    entry: String,
    spirv: Vec<u32>,
    storage: usize,
    /// Whether it needs matrix units.
    matrix: bool,
}

/// All different texts of the tile variant.
fn kernels() -> Result<Vec<Kernel>, String> {
    let all = texts::texts().map_err(|e| e.to_string())?;
    let mut seen = HashSet::new();
    let mut made = Vec::new();
    // RDNA's matrix units are 16 x 16 x 16 and its subgroups have 32 lanes at least; RADV takes others for such.
    let other = |way: &Way| way.constants.iter().any(|c| *c == ("SIZE", 8) || (c.0 == "WG" && c.1 < 128));
    for t in all.iter().filter(|t| t.way.variant == Variant::Tile && !other(&t.way)) {
        let constants: Vec<String> = t.way.constants.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let name = format!("{} {} {}", t.kernel.name(), t.way.entry, constants.join(" "));
        let kernel = translate(name.trim().to_owned(), &t.wgsl)?;
        if seen.insert(kernel.spirv.clone()) {
            made.push(kernel);
        }
    }
    Ok(made)
}

fn file(path: &str) -> Result<Kernel, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    translate(path.rsplit('/').next().unwrap_or(path).trim_end_matches(".wgsl").to_owned(), &text)
}

/// As wgpu does it for a trusted module without zeroed workgroup memory.
fn translate(name: String, wgsl: &str) -> Result<Kernel, String> {
    let mut module = naga::front::wgsl::Frontend::new_with_options(naga::front::wgsl::Options {
        parse_doc_comments: false,
        capabilities: Capabilities::all(),
    })
    .parse(wgsl)
    .map_err(|e| format!("{name}: {}", e.emit_to_string(wgsl)))?;
    naga::compact::compact(&mut module, naga::compact::KeepUnused::No);
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| format!("{name}: {}", e.emit_to_string(wgsl)))?;
    let options = spv::Options {
        lang_version: (1, 6),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let spirv = spv::write_vec(&module, &info, &options, None).map_err(|e| format!("{name}: {e}"))?;
    let entry = module.entry_points.first().map(|e| e.name.clone()).ok_or_else(|| format!("{name}: no entry point"))?;
    Ok(Kernel {
        name,
        entry,
        spirv,
        storage: Source::read_only_bindings(wgsl).len(),
        matrix: wgsl.contains("coop_mat"),
    })
}

/// Rows by kernel, and the driver's version.
fn compile(driver: &std::path::Path, kernels: Vec<Kernel>) -> Result<(Vec<Row>, String), String> {
    let mut rows: Vec<Row> = kernels.iter().map(|k| Row { name: k.name.clone(), by_family: Vec::new() }).collect();
    let mut version = String::new();
    for family in FAMILIES {
        let compiler = Compiler::open(driver, family)?;
        version.clone_from(&compiler.version);
        for (row, kernel) in rows.iter_mut().zip(&kernels) {
            let entry = CString::new(kernel.entry.as_str()).map_err(|e| e.to_string())?;
            // RADV ends the process over an instruction that its chip lacks.
            if kernel.matrix && !compiler.matrices {
                row.by_family.push(None);
                continue;
            }
            let made = compiler.compile(&kernel.spirv, &entry, kernel.storage as u32);
            row.by_family.push(Some(figures(&made.map_err(|e| format!("{} for {family}: {e}", kernel.name))?)));
        }
    }
    Ok((rows, version))
}

fn figures(e: &Executable) -> [u64; COLUMNS.len()] {
    let work = Work::of(&e.listing);
    let cycles = e.get("Inverse Throughput").max(1);
    let a_cycle = |of_a_lane: f64| (of_a_lane * 64.0 / cycles as f64).round() as u64;
    [
        e.get("VGPRs"),
        e.get("Spilled VGPRs") + e.get("Spilled SGPRs"),
        e.get("Scratch size"),
        e.get("LDS size"),
        e.get("Subgroups per SIMD"),
        work.packed,
        e.get("Instructions"),
        cycles,
        a_cycle(work.flops),
        a_cycle(work.bytes),
    ]
}

/// What a lane does, in the compiler's own reckoning: an outer loop runs 8 times, one inside it 4 times, others twice.
#[derive(Default)]
struct Work {
    flops: f64,
    bytes: f64,
    /// Packed and matrix instructions.
    packed: u64,
}

impl Work {
    fn of(listing: &str) -> Work {
        let (mut work, mut depth) = (Work::default(), 0i32);
        let listing = listing.split_once("\n## ACO IR").map_or("", |(_, rest)| rest);
        let listing = listing.split("\n## ").next().unwrap_or_default();
        for line in listing.lines() {
            if line.starts_with("/* logical preds") {
                depth += i32::from(line.contains("loop-header")) - i32::from(line.contains("loop-exit"));
                continue;
            }
            let words = || line.split_whitespace().filter(|w| !w.starts_with('('));
            let Some(op) = words().skip_while(|w| *w != "=").nth(1).or_else(|| words().next()) else { continue };
            // As aco_statistics.cpp weighs blocks, but for its discount of what stands under a condition.
            let times = [1.0, 8.0, 32.0].get(depth as usize).copied().unwrap_or(32.0 * 2f64.powi(depth - 2));
            let matrix = op.starts_with("v_wmma") || op.starts_with("v_swmma");
            work.packed += u64::from(op.starts_with("v_pk_") || matrix);
            work.flops += times
                * match op {
                    // 16 x 16 x 16 products by 64 lanes.
                    _ if matrix => 128.0,
                    _ if op.starts_with("v_pk_fma") => 4.0,
                    _ if op.starts_with("v_pk_") => 2.0,
                    _ if op.starts_with("v_fma") || op.starts_with("v_mad_f") => 2.0,
                    "v_mul_f32" | "v_add_f32" | "v_sub_f32" | "v_subrev_f32" => 1.0,
                    _ => 0.0,
                };
            let vector = op.starts_with("buffer_") || op.starts_with("global_");
            let words: f64 = op.rsplit_once('x').and_then(|(_, n)| n.parse().ok()).unwrap_or(1.0);
            if vector && (op.contains("_load_") || op.contains("_store_")) {
                work.bytes += times * 4.0 * words;
            }
        }
        work
    }
}

/// A row as the table has it: the families' figures beside one another where they differ.
fn line(row: &Row) -> String {
    let cell = |column: usize| {
        let mut all: Vec<String> =
            row.by_family.iter().map(|f| f.map_or("-".to_owned(), |f| f[column].to_string())).collect();
        all.dedup();
        all.join(" / ")
    };
    format!("| {} | {} |", row.name, (0..COLUMNS.len()).map(cell).collect::<Vec<_>>().join(" | "))
}

/// The table, with what its columns mean.
fn document(rows: &[Row], version: &str) -> String {
    let mut out = format!(
        "# The kernels as RADV compiles them\n\n\
         `cargo bench --bench radv > docs/RADV.md`, {version}, without a GPU: RADV's compiler alone, for {}\n\
         (RDNA2 and RDNA3; two figures where they differ). These are the compiler's estimates; they rank forms of one \
         kernel and are no times.\n\n\
         - *spilled*: registers that did not fit. *scratch*: bytes a wave of private arrays in memory. *LDS*: bytes of \
         workgroup memory. *waves*: how many a SIMD holds at a time;\n  \
         more of them hide more latency. SGPRs are always 128 on RDNA.\n\
         - *packed, matrix*: instructions v_pk_* and v_wmma_*.\n\
         - *cycles*: inverse throughput, the cycles that a wave keeps its SIMD busy, where an outer loop runs 8 times \
         and one inside it 4 times.\n\
         - *FLOP/cycle*, *bytes/cycle*: useful work in those cycles (multiplications and additions of f32; what vector \
         loads and stores move), counted\n  \
         in the compiler's listing with the same turns; what stands under a condition counts in full. A SIMD can do 64 \
         (navi21) or 128 (navi31)\n  FLOP in f32.\n\n",
        FAMILIES.join(" and ")
    );
    out += &table(rows);
    out
}

fn table(rows: &[Row]) -> String {
    let mut out = format!("| kernel | {} |\n|{}\n", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len() + 1));
    rows.iter().for_each(|row| out += &(line(row) + "\n"));
    out
}

/// What is worse than the table says.
fn differences(rows: &[Row], version: &str, table: &str) -> Vec<String> {
    // Another version of the compiler takes other registers.
    let same = table.contains(version);
    if !same {
        println!("docs/RADV.md is not of {version}: its waves are not compared");
    }
    let mut wrong = Vec::new();
    for row in rows {
        let start = format!("| {} | ", row.name);
        let Some(cells) = table.lines().find_map(|l| l.strip_prefix(start.as_str())) else {
            wrong.push(format!("{}: not in the table", row.name));
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").collect();
        for (i, (found, family)) in row.by_family.iter().zip(FAMILIES).enumerate() {
            let Some(found) = found else { continue };
            let stated = |column: usize| -> u64 {
                let values: Vec<&str> = cells.get(column).map_or(Vec::new(), |c| c.split(" / ").collect());
                values.get(i.min(values.len().saturating_sub(1))).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
            };
            let mut check = |bad: bool, column: usize| {
                if bad {
                    let (name, what) = (&row.name, COLUMNS[column]);
                    wrong.push(format!(
                        "{name} for {family}: {what} {}, the table has {}",
                        found[column],
                        stated(column)
                    ));
                }
            };
            check(found[SPILLED] > 0, SPILLED);
            check(found[SCRATCH] > stated(SCRATCH), SCRATCH);
            check(same && found[WAVES] < stated(WAVES), WAVES);
            check(found[PACKED] < stated(PACKED), PACKED);
        }
    }
    wrong
}
