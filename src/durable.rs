//! The file operations on which a run's safety depends. All durable writes go through this module, so that the tests
//! can make any one of them fail (`faults`).

use crate::disk::{self, File, OnDisk};
use crate::{Error, Result};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Makes a folder, and those above it that are missing.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    if path.is_folder() {
        return Ok(());
    }
    #[cfg(test)]
    faults::step(path)?;
    disk::create_dir_all(path).map_err(Error::io(path))
}

/// Makes a new, empty file; one that exists is emptied.
pub(crate) fn create(path: &Path) -> Result<File> {
    #[cfg(test)]
    faults::step(path)?;
    disk::create(path).map_err(Error::io(path))
}

/// Writes all of `bytes`. If that fails, any part of them may have been written.
pub(crate) fn write(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    #[cfg(test)]
    faults::step(path).inspect_err(|_| drop(file.write_all(&bytes[..bytes.len() / 2])))?;
    file.write_all(bytes).map_err(Error::io(path))
}

/// Waits until the file's content is on the disk.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    #[cfg(test)]
    faults::step(path)?;
    file.sync_all().map_err(Error::io(path))
}

/// Renames a file or folder, in place of another if there is one. From then on it is there whole, whatever happens.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    #[cfg(test)]
    faults::step(to)?;
    disk::rename(from, to).map_err(Error::io(to))
}

/// Removes a file; it need not exist.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    if !path.is_there() {
        return Ok(());
    }
    #[cfg(test)]
    faults::step(path)?;
    disk::remove_file(path).map_err(Error::io(path))
}

/// Removes a folder and all that it holds; it need not exist.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    if !path.is_there() {
        return Ok(());
    }
    #[cfg(test)]
    faults::step(path)?;
    disk::remove_dir_all(path).map_err(Error::io(path))
}

/// Waits until the names in `folder` (`None`: the working directory) are on the disk.
pub(crate) fn sync_folder(folder: Option<&Path>) {
    let folder = folder.filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Some systems (Windows) cannot open a folder; there the rename alone has to do.
    if let Ok(file) = disk::open(folder) {
        let _ = file.sync_all();
    }
}

/// The path `.NAME.tmp` in the same folder. The name is fixed, so a resume overwrites what a killed run left behind.
pub(crate) fn beside(path: &Path) -> Result<PathBuf> {
    match path.file_name() {
        Some(name) => Ok(path.with_file_name(format!(".{}.tmp", name.to_string_lossy()))),
        None => Err(Error::Input(format!("{} does not end in a file or folder name", path.display()))),
    }
}

/// Calls `fill` with a temporary name beside `path`, syncs what it wrote and renames it to `path`. Where that is a
/// link to a file, that file is replaced; a device, a pipe or an open file of the process is written to as it is.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.is_special() {
        return fill(path);
    }
    let end = if path.is_link() { disk::canonicalize(path).ok() } else { None };
    let path = end.as_deref().unwrap_or(path);
    let temporary = beside(path)?;
    let done = fill(&temporary)
        .and_then(|()| {
            let file = disk::open_to_write(&temporary).map_err(Error::io(&temporary))?;
            sync(&file, &temporary)
        })
        .and_then(|()| rename(&temporary, path));
    if done.is_err() {
        // The first error is the one to report; the next attempt overwrites what is left.
        let _ = disk::remove_file(&temporary);
    }
    done?;
    sync_folder(path.parent());
    Ok(())
}

/// Writes a small file so that it appears whole or not at all.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |temporary| write(&mut create(temporary)?, temporary, bytes))
}

/// A file that grows by lines at its end. When it is opened again, a line that a kill or a full disk has torn is cut
/// off.
pub(crate) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file or makes it; returns the whole lines in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        #[cfg(test)]
        faults::step(path)?;
        let mut file = disk::open_or_create(path).map_err(Error::io(path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path))?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(whole);
        let mut lines = Self { path: path.to_path_buf(), file };
        lines.cut(whole)?;
        Ok((lines, bytes))
    }

    /// Keeps the first `len` bytes and removes the rest.
    pub(crate) fn cut(&mut self, len: usize) -> Result<()> {
        let done = self.file.set_len(len as u64).and_then(|()| self.file.seek(SeekFrom::End(0)));
        done.map(drop).map_err(Error::io(&self.path))
    }

    /// Appends a line, which includes its end, and waits until it is on the disk.
    pub(crate) fn push(&mut self, line: &[u8]) -> Result<()> {
        write(&mut self.file, &self.path, line)?;
        sync(&self.file, &self.path)
    }

    /// Appends a line without waiting for the disk, for what a run can do without.
    pub(crate) fn push_unsynced(&mut self, line: &[u8]) -> Result<()> {
        write(&mut self.file, &self.path, line)
    }
}

/// Failures on demand, in the thread that asks for them.
#[cfg(test)]
pub(crate) mod faults {
    use super::{Error, Path, Result};
    use std::cell::Cell;
    use std::io::ErrorKind;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Lets `operations` operations succeed and every one after them fail as on a full disk; `None` ends that.
    pub(crate) fn fail_after(operations: Option<usize>) {
        LEFT.set(operations);
    }

    pub(super) fn step(path: &Path) -> Result<()> {
        match LEFT.get() {
            Some(0) => Err(Error::io(path)(ErrorKind::StorageFull.into())),
            left => {
                LEFT.set(left.map(|n| n - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_what_is_no_file_is_not_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let [file, link, socket] = ["file", "link", "socket"].map(|name| tmp.path().join(name));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&file).unwrap() == "new");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(socket.is_special() && write_file(&socket, b"new").is_err() && socket.is_special());
    }

    #[test]
    fn lines_go_on_after_a_torn_one() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("log.jsonl");
        fs::write(&path, "{\"a\":1}\n{\"a\":2").unwrap();
        let (mut lines, whole) = Lines::open(&path).unwrap();
        assert_eq!(whole, b"{\"a\":1}\n");
        lines.push(b"{\"a\":3}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":3}\n");
        lines.cut(8).unwrap();
        lines.push_unsynced(b"{}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{}\n");
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a.json");
        write_file(&path, b"old").unwrap();
        // The four operations make the file, write it, sync it and rename it.
        for operations in 0..4 {
            faults::fail_after(Some(operations));
            let failed = write_file(&path, b"new and longer").unwrap_err();
            faults::fail_after(None);
            assert!(failed.to_string().contains("a.json"), "{failed}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1);
        }
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    /// On a disk that is really full, if the system has one, the error names the file.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let full = Path::new("/dev/full");
        let failed = create(full).and_then(|mut file| write(&mut file, full, b"{}\n")).unwrap_err().to_string();
        assert!(failed.starts_with("/dev/full: ") && failed.contains("space"), "{failed}");
    }
}
