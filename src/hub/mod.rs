//! Models of the Hugging Face hub, named by their ids. They are looked for in the cache that Hugging Face's own tools
//! share, and fetched into it.
//!
//! A cached model needs no network. The network itself (`http.rs`, `pull.rs`) is in the feature `hub`, which is on by
//! default.

mod cache;
mod files;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod pull;

use crate::disk::{self, OnDisk};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Observer, Result};
use cache::Cache;

/// The revision that is meant when an id names none.
pub(crate) const MAIN: &str = "main";

/// A model of the hub as the user names it: `ORG/NAME`, or `ORG/NAME/FILE.gguf` in a repository of GGUF files; either
/// may end with `@REVISION` (a branch, a tag or a commit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// The repository, `ORG/NAME`.
    pub repo: String,
    /// The revision: a branch, a tag or a commit; `main` unless the id names one.
    pub revision: String,
    /// The path of the GGUF file in the repository, where the id names one.
    pub file: Option<String>,
}

impl HubId {
    /// Reads an id from its text.
    ///
    /// # Errors
    /// The text is not an id.
    pub fn parse(text: &str) -> Result<HubId> {
        let (name, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let mut parts = name.splitn(3, '/');
        let (org, model, file) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        let file_fits = |file: &str| is_gguf(file) && files::is_plain(file);
        let fits =
            [org, model].iter().all(|part| is_repo_part(part)) && is_revision(revision) && file.is_none_or(file_fits);
        if !fits {
            let what =
                "a hub id is ORG/NAME, of one of several GGUF files ORG/NAME/FILE.gguf, each perhaps with @REVISION";
            return Err(Error::Input(format!("{text:?} is no hub id: {what}")));
        }
        Ok(HubId { repo: format!("{org}/{model}"), revision: revision.into(), file: file.map(str::to_owned) })
    }

    /// The id of another file in the same repository and revision.
    ///
    /// # Errors
    /// `file` is not the name of a GGUF file in a repository.
    pub fn with_file(self, file: &str) -> Result<HubId> {
        if !is_gguf(file) || !files::is_plain(file) {
            let what = "expected the name of a .gguf file in the repository (other models are fetched whole)";
            return Err(Error::Input(format!("{file:?}: {what}")));
        }
        Ok(HubId { file: Some(file.into()), ..self })
    }

    /// The id that `path` spells, if nothing on disk has that name.
    pub(crate) fn of_path(path: &Path) -> Option<HubId> {
        if path.is_there() { None } else { HubId::parse(path.to_str()?).ok() }
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// The hub's own rules for the names of users and repositories.
fn is_repo_part(part: &str) -> bool {
    let edge = |c: char| c == '-' || c == '.';
    (1..=96).contains(&part.len())
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !part.starts_with(edge)
        && !part.ends_with(edge)
        && !part.contains("--")
        && !part.contains("..")
}

fn is_revision(revision: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    files::is_plain(revision) && revision.chars().all(known)
}

fn is_gguf(file: &str) -> bool {
    file.to_ascii_lowercase().ends_with(".gguf")
}

/// A hub with its cache: where models come from and where they are kept. It is made from the environment variables that
/// Hugging Face's tools read.
pub struct Hub {
    /// HF_ENDPOINT, without a slash at its end.
    endpoint: String,
    cache: Cache,
    /// HF_TOKEN, or else the content of the file that `hf auth login` writes. It is sent to the endpoint alone and
    /// never printed.
    token: Option<String>,
    /// Whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids the network.
    offline: bool,
}

/// What [`Hub::pull`] has brought into the cache.
#[derive(Clone, Debug, Serialize)]
pub struct Pulled {
    /// The repository, `ORG/NAME`.
    pub id: String,
    /// The revision that was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit for which the revision stands.
    pub commit: String,
    /// The model on disk: a folder, or a GGUF file.
    pub path: PathBuf,
    /// The files of which the model is made, in the order of fetching.
    pub files: Vec<PulledFile>,
}

/// One file of a pulled model.
#[derive(Clone, Debug, Serialize)]
pub struct PulledFile {
    /// The path of the file in the repository.
    pub name: String,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// How many of the file's bytes came over the network now; 0 if the cache had it.
    pub fetched_bytes: u64,
}

impl Hub {
    /// The hub that the environment describes: HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, HF_TOKEN, HF_TOKEN_PATH,
    /// HF_HUB_OFFLINE.
    ///
    /// # Errors
    /// There is no home folder, and no variable names a cache.
    pub fn from_env() -> Result<Hub> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = var("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = var("XDG_CACHE_HOME").map(PathBuf::from);
            cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).map(|cache| cache.join("huggingface"))
        });
        let under_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let root = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(var).map(PathBuf::from);
        let root = root.or_else(|| under_home("hub")).ok_or_else(|| {
            Error::Input("there is no home folder to keep models in; set HF_HOME to the folder of the cache".into())
        })?;
        let token_file = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| under_home("token"));
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(var);
        let token = token.or_else(|| disk::read_to_string(token_file?).ok());
        let on = |name: &str| var(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_ascii_lowercase()));
        Ok(Hub {
            endpoint: var("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()).trim_end_matches('/').to_owned(),
            cache: Cache::new(root),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
        })
    }

    /// Brings a model's files, as the hub has them now, into the cache and says where they are. If a transfer breaks,
    /// the bytes that have come are kept and the next call continues behind them. A file whose checksum is wrong is
    /// removed.
    ///
    /// # Errors
    /// There is no such model or file, no right to it or no network; a file differs from its checksum; the disk is
    /// full; `Stopped` when the observer asks for it.
    #[cfg(feature = "hub")]
    pub fn pull(&self, id: &HubId, observer: &dyn Observer) -> Result<Pulled> {
        if self.offline {
            return Err(Error::Hub(format!("{id}: cannot be fetched while HF_HUB_OFFLINE is set")));
        }
        pull::pull(self, id, observer)
    }

    /// Is always an error, since this build has no network.
    ///
    /// # Errors
    /// Every call fails and says how to get a build with a network.
    #[cfg(not(feature = "hub"))]
    pub fn pull(&self, id: &HubId, _observer: &dyn Observer) -> Result<Pulled> {
        let (endpoint, token) = (&self.endpoint, if self.token.is_some() { " and a token" } else { "" });
        let what = format!("this build has no network; build it with the feature hub to use {endpoint}{token}");
        Err(Error::Hub(format!("{id}: cannot be fetched: {what}")))
    }

    /// The model's folder or file: from the cache, or else fetched, if there is an observer that can tell of it.
    ///
    /// # Errors
    /// The model is not cached and cannot be fetched.
    pub(crate) fn find(&self, id: &HubId, observer: Option<&dyn Observer>) -> Result<PathBuf> {
        if let Some(path) = self.cache.find(id)? {
            return Ok(path);
        }
        let missing = format!("{id}: no such file or folder here, and not (wholly) in the cache {}", self.cache);
        match observer {
            _ if self.offline => Err(Error::Hub(format!(
                "{missing}; HF_HUB_OFFLINE is set, so it is not fetched: unset it and run: selfreward pull {id}"
            ))),
            None => Err(Error::Hub(format!("{missing}; fetch it: selfreward pull {id}"))),
            Some(observer) => match self.pull(id, observer) {
                Ok(pulled) => Ok(pulled.path),
                // The name may have been meant as a path, not as an id.
                Err(Error::Hub(what)) => {
                    let what = what.strip_prefix(&format!("{id}: ")).unwrap_or(&what);
                    Err(Error::Hub(format!("{id}: there is no such file or folder, and as a hub id: {what}")))
                }
                Err(other) => Err(other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        let id = HubId::parse("org/name").unwrap();
        assert_eq!((id.repo.as_str(), id.revision.as_str(), &id.file), ("org/name", "main", &None));
        for text in
            ["org/name", "org/name@v1.0", "org/name@refs/pr/1", "o/n/a b.gguf", "o/n/q4/x.GGUF@main2", "a_b/c.d-e"]
        {
            assert_eq!(HubId::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "name",
            "/org/name",
            "./name",
            "../name",
            "~/name",
            "org/",
            "org//name",
            "org/name/",
            "org/name/more",
            "a/b/x.bin",
            "org/name@",
            "org/name@../x",
            "org/name@/x",
            "org/na me",
            "org/../x.gguf",
            "o/n/../x.gguf",
            "o/n//x.gguf",
            "o--x/n",
            "org/name@a b",
            "C:\\org\\name",
            "org/näme",
            "o/n/a\\x.gguf",
            "o/n@v@w",
        ] {
            assert!(HubId::parse(text).is_err(), "{text}");
        }
        assert!(id.clone().with_file("q4/x.gguf").is_ok());
        assert!(id.clone().with_file("../x.gguf").is_err());
        assert!(id.with_file("x.bin").is_err());
    }
}
