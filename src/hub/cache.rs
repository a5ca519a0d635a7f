//! The layout of the cache, which is that of huggingface_hub:
//! `models--ORG--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/ETAG}`.

use crate::disk::{self, OnDisk};
#[cfg(feature = "hub")]
use std::path::Path;
use std::path::PathBuf;

use super::{HubId, files};
#[cfg(feature = "hub")]
use crate::Error;
use crate::Result;

/// The folder that holds all cached models.
pub(super) struct Cache(PathBuf);

/// The folders of one repository in the cache.
#[cfg(feature = "hub")]
pub(super) struct RepoFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl std::fmt::Display for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}

fn folder_name(id: &HubId) -> String {
    format!("models--{}", id.repo.replace('/', "--"))
}

/// Whether a word that the hub sent (a commit, an ETag) can be a file's name.
pub(super) fn is_word(word: &str) -> bool {
    (1..=128).contains(&word.len()) && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

impl Cache {
    pub(super) fn new(root: PathBuf) -> Cache {
        Cache(root)
    }

    /// The folder or the GGUF file of a model that is wholly in the cache.
    pub(super) fn find(&self, id: &HubId) -> Result<Option<PathBuf>> {
        let root = self.0.join(folder_name(id));
        let reference = root.join("refs").join(&id.revision);
        let commit = match disk::read_to_string(&reference) {
            Ok(commit) => commit.trim().to_owned(),
            // A revision without a reference may be a commit, which names itself.
            Err(_) => id.revision.clone(),
        };
        if !is_word(&commit) {
            return Ok(None);
        }
        let snapshot = root.join("snapshots").join(commit);
        if snapshot.is_folder() { files::complete(id, &snapshot) } else { Ok(None) }
    }

    #[cfg(feature = "hub")]
    pub(super) fn repo(&self, id: &HubId) -> RepoFolder {
        let name = folder_name(id);
        RepoFolder { root: self.0.join(&name), locks: self.0.join(".locks").join(name) }
    }
}

#[cfg(feature = "hub")]
impl RepoFolder {
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The file that holds what has come of a blob so far; huggingface_hub gives it the same name.
    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Makes file `name` of the snapshot `commit` a link to the blob `etag`.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        make_folder(path.parent())?;
        if path.is_link() || path.is_there() {
            disk::remove_file(&path).map_err(Error::io(&path))?;
        }
        // From snapshots/COMMIT/a/b up to the repository's folder.
        let up = "../".repeat(2 + name.matches('/').count());
        point(Path::new(&format!("{up}blobs/{etag}")), &self.blob(etag), &path).map_err(Error::io(&path))
    }

    /// Writes down which commit a revision stands for.
    pub(super) fn refer(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        make_folder(path.parent())?;
        crate::durable::write_file(&path, commit.as_bytes())
    }
}

#[cfg(feature = "hub")]
pub(super) fn make_folder(folder: Option<&Path>) -> Result<()> {
    folder.map_or(Ok(()), |folder| disk::create_dir_all(folder).map_err(Error::io(folder)))
}

#[cfg(all(unix, feature = "hub"))]
fn point(relative: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

/// Windows allows symbolic links only with a privilege, hard links and copies without one.
#[cfg(all(not(unix), feature = "hub"))]
fn point(_relative: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    disk::link_or_copy(blob, link)
}
