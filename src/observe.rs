//! How the library tells its caller what it is doing. The library itself never prints.

/// Receives progress; the driver renders it as bars, a test ignores it.
pub trait Observer {
    /// A stage begins, with `total` units of work if that is known. Within it others may begin and end.
    fn begin(&self, _stage: &str, _total: Option<u64>, _unit: &str) {}
    /// `n` more units of the stage that began last are done.
    fn advance(&self, _n: u64) {}
    /// The stage that began last is over.
    fn end(&self) {}
    /// A sentence worth reading: a warning, a count of dropped records.
    fn note(&self, _sentence: &str) {}
    /// Whether the caller wants the work to stop at the next safe point.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// An [`Observer`] that ignores everything.
pub struct Silent;

impl Observer for Silent {}
