//! The crate's one error type. Each message says what was given, what was expected and, where there is one, what to do.

use std::path::{Path, PathBuf};

/// Anything that can go wrong, typed by what a caller would do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own words. No `source`, for the message has them already.
        error: std::io::Error,
    },
    /// A file was read but its content is not what it should be.
    #[error("{path}: {what}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, tensor or key, what it holds and what was expected.
        what: String,
    },
    /// A value handed in by the caller is out of its range or does not fit another one.
    #[error("{0}")]
    Input(String),
    /// A fault of this library: no input should lead here, and whoever sees one should report it.
    #[error("a fault of this library, please report it: {0}")]
    Bug(String),
    /// The hub has no such model, refuses it, cannot be reached, or sent something else.
    #[error("{0}")]
    Hub(String),
    /// No usable GPU, or the GPU cannot do what was asked.
    #[error("{0}")]
    Device(String),
    /// The GPU has not enough memory.
    #[error("out of GPU memory: {0}")]
    OutOfMemory(String),
    /// The device went away (driver reset, unplugged, suspended). A run can be resumed.
    #[error("the GPU device was lost: {0}; what was finished is on the disk, and a resume goes on from there")]
    DeviceLost(String),
    /// A loss or gradient is NaN or infinite; nothing was updated.
    #[error("{0}")]
    NonFinite(String),
    /// The caller asked to stop (Ctrl-C); everything finished so far is on disk.
    #[error("stopped")]
    Stopped,
}

/// `std::result::Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] for `path`; made for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        move |error| Error::Io { path: path.as_ref().to_path_buf(), error }
    }

    /// An [`Error::File`] for `path`.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), what: what.into() }
    }
}
