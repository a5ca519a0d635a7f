//! The page's program: the loop of the small world on the visitor's own GPU. The worker (`page/worker.js`) calls these
//! functions; those that wait for the GPU give promises.

#![expect(deprecated, reason = "wasm-bindgen marks JSPI as experimental so; its version is pinned")]

mod chat;
mod host;
mod zip;

pub use chat::{chat, load};
pub use host::Host;
use host::{Kept, Page};
use selfreward::demo::{DemoConfig, play, standing};
use selfreward::gpu::{Gpu, Preparing, Variant};
use selfreward::kernels::choice::{Selection, choose};
use selfreward::report::refresh;
use selfreward::{Error, disk};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::Path;
use wasm_bindgen::prelude::*;

/// The one run of a page.
const RUN: &str = "/run";
/// What the visitor chose for it.
const SETTINGS: &str = "/settings.json";

thread_local! {
    static GPU: RefCell<Option<Gpu>> = const { RefCell::new(None) };
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// What the visitor chose.
#[derive(Serialize, Deserialize)]
struct Choice {
    seed: u64,
    rounds: u32,
    prompts: usize,
    questions: usize,
    judge: String,
    train: String,
}

/// What went wrong, as the page is told.
#[derive(Serialize)]
struct Failure {
    kind: &'static str,
    text: String,
}

fn failed(error: Error) -> JsValue {
    let kind = match &error {
        Error::Stopped => "stopped",
        Error::DeviceLost(_) => "lost",
        Error::Io { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => "full",
        _ => "other",
    };
    if kind == "lost" {
        // The next call opens it anew.
        GPU.with_borrow_mut(|gpu| *gpu = None);
    }
    show(&Failure { kind, text: error.to_string() }).into()
}

/// A value as JSON.
fn show(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The GPU, which is opened once.
fn gpu() -> Result<Gpu, JsValue> {
    if let Some(gpu) = GPU.with_borrow(Clone::clone) {
        return Ok(gpu);
    }
    let gpu = Gpu::open(None, None).map_err(failed)?;
    gpu.watch(|what| {
        let kernel = match what {
            Preparing::Compiling(kernel) => kernel,
            Preparing::Tuning(_) | Preparing::Done => "",
        };
        HOST.with_borrow(|host| host.iter().for_each(|host| host.preparing(kernel)));
    });
    GPU.with_borrow_mut(|kept| *kept = Some(gpu.clone()));
    Ok(gpu)
}

/// Has `host` told what a bug says before it ends the program.
#[wasm_bindgen]
pub fn listen(host: Host) {
    HOST.with_borrow_mut(|kept| *kept = Some(host));
    std::panic::set_hook(Box::new(|info| {
        HOST.with_borrow(|host| host.iter().for_each(|host| host.panicked(&info.to_string())));
    }));
}

/// Makes the changes that a journal's records tell; returns the bytes of those that are whole.
#[wasm_bindgen]
pub fn restore(records: &[u8]) -> f64 {
    disk::restore(records) as f64
}

/// The records from which an empty tree becomes this one.
#[wasm_bindgen]
pub fn records() -> Vec<u8> {
    disk::records()
}

/// Tells every change of the files from now on to `host`.
#[wasm_bindgen]
pub fn keep(host: Host) {
    disk::keep_by(Box::new(Kept(host)));
}

/// The GPU, as JSON.
///
/// # Errors
/// There is none, or it cannot be opened.
#[wasm_bindgen(jspi)]
pub fn device() -> Result<String, JsValue> {
    Ok(show(gpu()?.info()))
}

/// What there is of a run: its settings, and its models as far as they are measured. JSON; null without a run.
///
/// # Errors
/// Its files are broken.
#[wasm_bindgen]
pub fn run() -> Result<String, JsValue> {
    #[derive(Serialize)]
    struct Run {
        settings: Choice,
        #[serde(flatten)]
        standing: standing::Standing,
    }
    let Ok(settings) = disk::read(SETTINGS) else { return Ok("null".into()) };
    let Ok(settings) = serde_json::from_slice(&settings) else { return Ok("null".into()) };
    let standing = standing::read(Path::new(RUN)).map_err(failed)?;
    Ok(show(&Run { settings, standing }))
}

/// Plays the loop: anew with `settings`, or on from where the run of before ended.
///
/// # Errors
/// A setting that is none; the device is lost; the storage is full; `host` asked for a stop.
#[wasm_bindgen(jspi)]
pub fn demo(settings: Option<String>, host: Host) -> Result<String, JsValue> {
    let resume = settings.is_none();
    let input = |what: String| failed(Error::Input(what));
    let text = match settings {
        Some(text) => text.into_bytes(),
        None => disk::read(SETTINGS).map_err(|_| input("there is no run to go on with; press Start".into()))?,
    };
    let choice: Choice = serde_json::from_slice(&text).map_err(|e| input(format!("the settings: {e}")))?;
    let config = DemoConfig {
        seed: choice.seed,
        rounds: choice.rounds,
        prompts: choice.prompts,
        questions: choice.questions,
        judge: choice.judge.parse().map_err(failed)?,
        train: choice.train.parse().map_err(failed)?,
        from_scratch: None,
        out: Some(RUN.into()),
        resume: resume && disk::is_folder(RUN),
    };
    if !resume {
        if disk::is_folder(RUN) {
            disk::remove_dir_all(RUN).map_err(Error::io(RUN)).map_err(failed)?;
        }
        disk::write(SETTINGS, &text).map_err(Error::io(SETTINGS)).map_err(failed)?;
    }
    let run = Path::new(RUN);
    let page = Page::new(&host, run);
    let report = selfreward::demo::run(&gpu()?, &config, &refresh, &page).map_err(failed)?;
    page.renew();
    Ok(show(&report))
}

/// A task of the small world, answered and marked by every model of the run. JSON.
///
/// # Errors
/// No task; no model; the device is lost.
#[wasm_bindgen(jspi)]
pub fn ask(task: String, host: Host) -> Result<String, JsValue> {
    let run = Path::new(RUN);
    play::play(&gpu()?, run, &task, &Page::new(&host, run)).map(|played| show(&played)).map_err(failed)
}

/// Every kernel of a variant (`soft`, `tile`) against its twin, or the one named `kernel`. JSON.
///
/// # Errors
/// There is no such variant or kernel; the device is lost.
#[wasm_bindgen(jspi)]
pub fn check(variant: Option<String>, kernel: Option<String>, host: Host) -> Result<String, JsValue> {
    #[derive(Serialize)]
    struct Checked {
        passed: usize,
        failed: Vec<String>,
    }
    let gpu = gpu()?;
    let variants: Vec<Variant> = match variant {
        None => vec![gpu.variant()],
        Some(name) => Variant::ALL.into_iter().filter(|variant| variant.name() == name).collect(),
    };
    let run = Path::new(RUN);
    let observer = Page::new(&host, run);
    let selection = Selection::default().names(kernel.into_iter().collect()).variants(variants).all(true);
    let chosen = choose(&gpu, &selection, &observer).map_err(failed)?;
    let rows = selfreward::kernels::check::run(&gpu, &chosen, &observer).map_err(failed)?;
    let wrong = rows.iter().filter(|row| !row.passed);
    let failed = wrong.map(|r| format!("{} {} {}: {}", r.kernel, r.variant, r.case, r.note)).collect::<Vec<_>>();
    Ok(show(&Checked { passed: rows.len() - failed.len(), failed }))
}

/// The bytes of a file of the run; nothing where there is no such file.
#[wasm_bindgen]
pub fn file(path: &str) -> Option<Vec<u8>> {
    disk::read(Path::new(RUN).join(path)).ok()
}

/// The run's folder as a zip file.
#[wasm_bindgen]
pub fn archive() -> Vec<u8> {
    let files = disk::files().into_iter().filter_map(|path| {
        let name = path.strip_prefix(RUN).ok()?.to_str()?.to_owned();
        Some((format!("run/{name}"), disk::read(&path).ok()?))
    });
    zip::stored(files, disk::crc32)
}
