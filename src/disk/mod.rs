//! Files and folders: the one place through which the library reaches the disk. Natively each function is `std::fs`'s
//! own. In a browser, which has no disk, the same functions reach a tree in memory; what is changed there is told to a
//! journal, from which the tree can be had again.

#[cfg(any(target_family = "wasm", test))]
mod journal;
#[cfg(target_family = "wasm")]
mod memory;
#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(any(target_family = "wasm", test))]
mod tree;

#[cfg(target_family = "wasm")]
pub use memory::*;
#[cfg(not(target_family = "wasm"))]
pub(crate) use native::*;

/// What is asked of a path. The names differ from those of `Path`, which would go before a trait's.
pub(crate) trait OnDisk {
    /// Whether there is something of this name.
    fn is_there(&self) -> bool;
    /// Whether it is a folder.
    fn is_folder(&self) -> bool;
    /// Whether it is a file.
    fn is_regular_file(&self) -> bool;
    /// Whether it is neither a file nor a folder, as a device or a pipe, or another name for what the process has open.
    fn is_special(&self) -> bool;
    /// Whether it is a symbolic link, wherever that leads.
    fn is_link(&self) -> bool;
}
