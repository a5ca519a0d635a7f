//! The disk of a browser: one tree in memory.

use super::OnDisk;
use super::tree::{Content, Tree, absolute as from_root};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::tree::{Given, Journal};
pub(crate) use std::fs::TryLockError;

thread_local! {
    static TREE: RefCell<Tree> = RefCell::default();
}

fn tree<T>(act: impl FnOnce(&mut Tree) -> T) -> T {
    TREE.with_borrow_mut(act)
}

/// Makes the changes that a journal's records tell, until one is torn; returns the bytes of those before it.
pub fn restore(records: &[u8]) -> usize {
    tree(|t| t.replay(records))
}

/// The records from which an empty tree becomes this one.
pub fn records() -> Vec<u8> {
    tree(|t| t.records())
}

/// Tells every change from now on to `journal`.
pub fn keep_by(journal: Box<dyn Journal>) {
    tree(|t| t.keep_by(journal));
}

/// Every file's path, in order.
pub fn files() -> Vec<PathBuf> {
    tree(|t| t.files())
}

/// The checksum of zip files.
pub fn crc32(bytes: &[u8]) -> u32 {
    super::journal::crc32(bytes)
}

/// Puts a given file into the root folder, in place of one of the same name. No journal is told of it.
pub fn give(name: &str, given: Box<dyn Given>) {
    tree(|t| t.give(name, given));
}

/// A file that is open.
#[derive(Debug)]
pub struct File {
    content: Arc<Content>,
    at: u64,
}

impl File {
    pub(crate) fn sync_all(&self) -> Result<()> {
        tree(|t| t.flush())
    }

    pub(crate) fn set_len(&self, length: u64) -> Result<()> {
        tree(|t| t.set_length(&self.content, length))
    }

    pub(crate) fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata { length: self.content.length() })
    }

    /// There is no other process.
    pub(crate) fn try_lock(&self) -> std::result::Result<(), TryLockError> {
        Ok(())
    }

    /// There is no other process.
    pub(crate) fn try_lock_shared(&self) -> std::result::Result<(), TryLockError> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        let left = self.content.length().saturating_sub(self.at);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(to.len());
        to[..n].copy_from_slice(&self.content.part(self.at as usize..self.at as usize + n)?);
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        tree(|t| t.write(&self.content, self.at, bytes))?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.content.length(), by),
            SeekFrom::Current(by) => (self.at, by),
        };
        self.at = from.checked_add_signed(by).ok_or(ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// What is known of a file.
pub(crate) struct Metadata {
    length: u64,
}

impl Metadata {
    pub(crate) fn is_file(&self) -> bool {
        true
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }
}

/// Something in a folder.
pub(crate) struct DirEntry(PathBuf);

impl DirEntry {
    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }

    pub(crate) fn file_name(&self) -> OsString {
        self.0.file_name().unwrap_or_default().to_owned()
    }
}

/// A file's bytes, of which parts are read as they are looked at.
#[derive(Debug)]
pub(crate) struct Map(Arc<Content>);

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.0.length() as usize
    }

    /// Some of the bytes.
    pub(crate) fn part(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        self.0.part(range).map(Cow::Owned)
    }
}

/// The bytes of a file.
///
/// # Errors
/// There is no such file.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let content = tree(|t| t.content(path.as_ref()))?;
    content.part(0..content.length() as usize)
}

/// The text of a file in UTF-8.
pub(crate) fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))
}

/// A file to read.
pub(crate) fn open(path: impl AsRef<Path>) -> Result<File> {
    tree(|t| t.content(path.as_ref())).map(|content| File { content, at: 0 })
}

/// A new file to write, empty if there was one.
pub(crate) fn create(path: impl AsRef<Path>) -> Result<File> {
    let file = open_or_create(path)?;
    if file.metadata()?.len() > 0 {
        file.set_len(0)?;
    }
    Ok(file)
}

/// A file that is there, to write.
pub(crate) fn open_to_write(path: impl AsRef<Path>) -> Result<File> {
    open(path)
}

/// A file to read and write, made if there is none; what is in it stays.
pub(crate) fn open_or_create(path: impl AsRef<Path>) -> Result<File> {
    tree(|t| t.content_or_new(path.as_ref())).map(|content| File { content, at: 0 })
}

/// Makes a folder and those above it.
pub(crate) fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    tree(|t| t.create_dir_all(path.as_ref()))
}

/// Puts a file or folder in place of another name.
pub(crate) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    tree(|t| t.rename(from.as_ref(), to.as_ref()))
}

/// Removes a file.
pub(crate) fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    tree(|t| t.remove_file(path.as_ref()))
}

/// Removes an empty folder.
pub(crate) fn remove_dir(path: impl AsRef<Path>) -> Result<()> {
    tree(|t| t.remove_dir(path.as_ref(), false))
}

/// Removes a folder and all in it.
///
/// # Errors
/// There is no such folder, or the change cannot be kept.
pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
    tree(|t| t.remove_dir(path.as_ref(), true))
}

/// What is in a folder.
pub(crate) fn read_dir(path: impl AsRef<Path>) -> Result<std::vec::IntoIter<Result<DirEntry>>> {
    let paths = tree(|t| t.read_dir(path.as_ref()))?;
    Ok(paths.into_iter().map(|path| Ok(DirEntry(path))).collect::<Vec<_>>().into_iter())
}

/// A path without links, from the root on.
pub(crate) fn canonicalize(path: impl AsRef<Path>) -> Result<PathBuf> {
    let path = from_root(path.as_ref());
    if path.is_there() { Ok(path) } else { Err(ErrorKind::NotFound.into()) }
}

/// A path from the root on.
pub(crate) fn absolute(path: impl AsRef<Path>) -> Result<PathBuf> {
    Ok(from_root(path.as_ref()))
}

/// Whether there is a folder of this name.
pub fn is_folder(path: impl AsRef<Path>) -> bool {
    path.as_ref().is_folder()
}

/// Writes a file that needs no care: part of it may be there when this fails.
///
/// # Errors
/// There is no folder for it, or the change cannot be kept.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    create(path)?.write_all(bytes.as_ref())
}

/// A file's bytes.
pub(crate) fn map(file: &File) -> Result<Map> {
    match usize::try_from(file.content.length()) {
        Ok(_) => Ok(Map(Arc::clone(&file.content))),
        Err(_) => {
            Err(std::io::Error::new(ErrorKind::FileTooLarge, "a browser's program reads at most 4 GiB of a file"))
        }
    }
}

/// There is no other program.
pub(crate) fn process() -> u32 {
    0
}

/// A folder for what is thrown away.
pub(crate) fn temporary(what: &str) -> PathBuf {
    PathBuf::from("/tmp").join(what)
}

impl OnDisk for Path {
    fn is_there(&self) -> bool {
        tree(|t| t.kind(self)).is_some()
    }

    fn is_folder(&self) -> bool {
        tree(|t| t.kind(self)) == Some(true)
    }

    fn is_regular_file(&self) -> bool {
        tree(|t| t.kind(self)) == Some(false)
    }

    fn is_special(&self) -> bool {
        false
    }

    fn is_link(&self) -> bool {
        false
    }
}
