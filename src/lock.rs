//! The lock that keeps other processes out of a folder.

use crate::clock;
use crate::disk::{self, File, TryLockError};
use crate::{Error, Observer, Result};
use std::path::Path;
use std::time::Duration;

/// The file that [`Lock`] locks.
pub(crate) const LOCK_FILE: &str = "lock";

/// Keeps other processes out of a folder until it is dropped, however the process ends: the operating system's lock on
/// a file.
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// How long a lock is waited for: a process that was killed holds its lock until the system has taken its memory back.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(100);

impl Lock {
    /// Locks the folder, to this process or, with `File::try_lock_shared`, to those that share it. Where another
    /// process has it, it is waited for up to [`PATIENCE`], and the observer is told.
    ///
    /// # Errors
    /// Another process has it; the file cannot be made; `Stopped` when the observer asks for it.
    pub(crate) fn take(
        folder: &Path,
        how: fn(&File) -> std::result::Result<(), TryLockError>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let path = folder.join(LOCK_FILE);
        let file = disk::open_or_create(&path).map_err(Error::io(&path))?;
        let start = clock::now();
        let mut told = false;
        loop {
            match how(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    if observer.stop_requested() {
                        return Err(Error::Stopped);
                    }
                    if !told {
                        let seconds = PATIENCE.as_secs();
                        let what = "is in use by another process: waiting for it";
                        observer.note(&format!("{} {what} for up to {seconds} seconds", folder.display()));
                        told = true;
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::file(folder, "is in use by another process; wait for it or stop it"));
                }
                Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    /// Keeps what it is told.
    struct Notes(std::sync::Mutex<Vec<String>>);

    impl Observer for Notes {
        fn note(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    #[test]
    fn a_lock_is_waited_for_and_then_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let first = Lock::take(tmp.path(), File::try_lock, &Silent).unwrap();
        let notes = Notes(std::sync::Mutex::new(Vec::new()));
        let refused = Lock::take(tmp.path(), File::try_lock, &notes).err().unwrap().to_string();
        assert!(refused.contains("in use by another process"), "{refused}");
        assert_eq!(notes.0.lock().unwrap().len(), 1, "said once");
        // One that goes meanwhile, as a killed process does.
        let going = std::thread::spawn(move || {
            std::thread::sleep(PATIENCE / 2);
            drop(first);
        });
        Lock::take(tmp.path(), File::try_lock, &Silent).unwrap();
        going.join().unwrap();
    }
}
