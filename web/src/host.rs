//! What the page's worker gives the program: ears for its progress, a word that stops it, and a file for its journal.

use crate::show;
use js_sys::{Error, Reflect};
use selfreward::Observer;
use selfreward::disk::Journal;
use std::io;
use std::path::Path;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The worker's side.
    #[derive(Clone)]
    pub type Host;

    #[wasm_bindgen(method)]
    fn begin(this: &Host, stage: &str, total: Option<f64>, unit: &str);
    #[wasm_bindgen(method)]
    fn advance(this: &Host, n: f64);
    #[wasm_bindgen(method)]
    fn end(this: &Host);
    #[wasm_bindgen(method)]
    fn note(this: &Host, sentence: &str);
    #[wasm_bindgen(method)]
    pub(crate) fn stop(this: &Host) -> bool;
    #[wasm_bindgen(method)]
    fn standing(this: &Host, json: &str);
    #[wasm_bindgen(method)]
    pub(crate) fn preparing(this: &Host, kernel: &str);
    #[wasm_bindgen(method)]
    pub(crate) fn panicked(this: &Host, text: &str);
    #[wasm_bindgen(method)]
    pub(crate) fn piece(this: &Host, text: &str);
    #[wasm_bindgen(method, catch)]
    pub(crate) fn read(this: &Host, at: f64, to: &mut [u8]) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn append(this: &Host, bytes: &[u8]) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn flush(this: &Host) -> Result<(), JsValue>;
}

/// Tells the page of progress, and of scores as soon as there are new ones.
pub(crate) struct Page<'a> {
    pub(crate) host: &'a Host,
    pub(crate) run: &'a Path,
    shown: std::cell::Cell<usize>,
}

impl<'a> Page<'a> {
    pub(crate) fn new(host: &'a Host, run: &'a Path) -> Self {
        Self { host, run, shown: std::cell::Cell::new(usize::MAX) }
    }

    /// Shows the scores if there are other ones than before.
    pub(crate) fn renew(&self) {
        // What cannot be read yet is shown later.
        let Ok(standing) = selfreward::demo::standing::read(self.run) else { return };
        if self.shown.replace(standing.models.len()) != standing.models.len() {
            self.host.standing(&show(&standing));
        }
    }
}

impl Observer for Page<'_> {
    fn begin(&self, stage: &str, total: Option<u64>, unit: &str) {
        self.renew();
        self.host.begin(stage, total.map(|n| n as f64), unit);
    }

    fn advance(&self, n: u64) {
        self.host.advance(n as f64);
    }

    fn end(&self) {
        self.host.end();
    }

    fn note(&self, sentence: &str) {
        self.host.note(sentence);
    }

    fn stop_requested(&self) -> bool {
        self.host.stop()
    }
}

/// A file of the browser's, which only this page has open.
pub(crate) struct Kept(pub(crate) Host);

impl Journal for Kept {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.0.append(record).map_err(failure)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(failure)
    }
}

/// What a browser throws as an error of files.
pub(crate) fn failure(thrown: JsValue) -> io::Error {
    let name = Reflect::get(&thrown, &"name".into()).ok().and_then(|name| name.as_string()).unwrap_or_default();
    let said = thrown.dyn_into::<Error>().map_or_else(|_| name.clone(), |error| String::from(error.message()));
    match name.as_str() {
        "QuotaExceededError" => {
            io::Error::new(io::ErrorKind::StorageFull, "the browser's storage for this page is full")
        }
        "NotReadableError" => io::Error::other("the browser cannot read the file any more; choose it again"),
        _ => io::Error::other(format!("the browser: {said}")),
    }
}
