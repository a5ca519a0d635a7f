//! The disk of a system that has one: each function is `std::fs`'s own.

#![expect(clippy::disallowed_methods, reason = "this is the place that the others are sent to")]

use super::OnDisk;
use std::borrow::Cow;
use std::io::Result;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) use std::fs::{File, ReadDir, TryLockError};

/// The bytes of a file.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    std::fs::read(path)
}

/// The text of a file in UTF-8.
pub(crate) fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    std::fs::read_to_string(path)
}

/// A file to read.
pub(crate) fn open(path: impl AsRef<Path>) -> Result<File> {
    File::open(path)
}

/// A new file to write, empty if there was one.
pub(crate) fn create(path: impl AsRef<Path>) -> Result<File> {
    File::create(path)
}

/// A file that is there, to write.
pub(crate) fn open_to_write(path: impl AsRef<Path>) -> Result<File> {
    File::options().write(true).open(path)
}

/// A file to read and write, made if there is none; what is in it stays.
pub(crate) fn open_or_create(path: impl AsRef<Path>) -> Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Makes a folder and those above it.
pub(crate) fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    std::fs::create_dir_all(path)
}

/// Puts a file or folder in place of another name.
pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    std::fs::rename(from, to)
}

/// Removes a file.
pub(crate) fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    std::fs::remove_file(path)
}

/// Removes an empty folder.
pub(crate) fn remove_dir(path: impl AsRef<Path>) -> Result<()> {
    std::fs::remove_dir(path)
}

/// Removes a folder and all in it.
pub(crate) fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
    std::fs::remove_dir_all(path)
}

/// What is in a folder.
pub(crate) fn read_dir(path: impl AsRef<Path>) -> Result<ReadDir> {
    std::fs::read_dir(path)
}

/// A path without links, from the root on.
pub(crate) fn canonicalize(path: impl AsRef<Path>) -> Result<PathBuf> {
    std::fs::canonicalize(path)
}

/// A path from the root on.
pub(crate) fn absolute(path: impl AsRef<Path>) -> Result<PathBuf> {
    std::path::absolute(path)
}

/// The length of a file in bytes; None where there is none.
#[cfg(feature = "hub")]
pub(crate) fn file_length(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.len())
}

/// A file that grows at its end, made if there is none.
#[cfg(feature = "hub")]
pub(crate) fn open_to_append(path: impl AsRef<Path>) -> Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Gives what is in `file` another name, by a hard link where the system has one, else by a copy.
#[cfg(all(not(unix), feature = "hub"))]
pub(crate) fn link_or_copy(file: impl AsRef<Path>, name: impl AsRef<Path>) -> Result<()> {
    std::fs::hard_link(&file, &name).or_else(|_| std::fs::copy(&file, &name).map(drop))
}

/// Writes a file that needs no care: part of it may be there when this fails.
pub(crate) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, bytes)
}

/// A file's bytes, mapped into memory: they are fetched as they are looked at.
#[derive(Debug)]
pub(crate) struct Map(memmap2::Mmap);

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Some of the bytes. There must be so many.
    pub(crate) fn part(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(&self.0[range]))
    }
}

/// A file's bytes.
pub(crate) fn map(file: &File) -> Result<Map> {
    #[expect(
        unsafe_code,
        reason = "mapping is sound while nobody shortens or rewrites the file: this crate opens it for reading only \
                  and replaces files by renaming, which leaves a mapped one as it was"
    )]
    unsafe {
        memmap2::Mmap::map(file).map(Map)
    }
}

/// A number that no other program that runs now has.
pub(crate) fn process() -> u32 {
    std::process::id()
}

/// A folder for what is thrown away, of a name that no other process takes.
pub(crate) fn temporary(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("selfreward-{what}-{}", process()))
}

impl OnDisk for Path {
    fn is_there(&self) -> bool {
        self.exists()
    }

    fn is_folder(&self) -> bool {
        self.is_dir()
    }

    fn is_regular_file(&self) -> bool {
        self.is_file()
    }

    fn is_special(&self) -> bool {
        // /dev/stdout leads to a file where output is redirected, but that file is open and goes on.
        let open = self.is_symlink() && (self.starts_with("/dev") || self.starts_with("/proc"));
        open || self.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir())
    }

    fn is_link(&self) -> bool {
        self.is_symlink()
    }
}
