//! The lock that keeps other processes out of a folder.

use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// Name of the file that [`Lock`] locks.
pub(crate) const LOCK_FILE: &str = "lock";

/// Keeps other processes out of a folder until it is dropped or the process ends, in whatever way: it is the operating
/// system's lock on a file.
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Locks the folder for this process alone or, with `File::try_lock_shared`, for all processes that share it.
    ///
    /// # Errors
    /// Another process holds the lock, or the file cannot be made.
    pub(crate) fn take(folder: &Path, how: fn(&File) -> std::result::Result<(), TryLockError>) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        match how(&file) {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(folder, "is in use by another process; wait for it or stop it"))
            }
            Err(TryLockError::Error(e)) => Err(Error::io(&path)(e)),
        }
    }
}
