//! Models of the Hugging Face hub, by their ids: found in the cache that Hugging Face's own tools share, fetched into
//! it.
//!
//! A cached model needs no network. The network itself (`http.rs`, `pull.rs`) is in the feature `hub`, which is on by
//! default.

mod cache;
mod files;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod pull;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Observer, Result};
use cache::Cache;

/// The revision of an id that names none.
const MAIN: &str = "main";

/// A model of the hub as the user names it: `ORG/NAME`, of a GGUF repository perhaps `ORG/NAME/FILE.gguf`, each perhaps
/// with `@REVISION` (a branch, a tag or a commit) behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `ORG/NAME`.
    pub repo: String,
    /// A branch, a tag or a commit; `main` unless the id names one.
    pub revision: String,
    /// The GGUF file's path in the repository.
    pub file: Option<String>,
}

impl HubId {
    /// Reads an id.
    ///
    /// # Errors
    /// The text is none.
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

    /// The same model's other file.
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
        if path.exists() { None } else { HubId::parse(path.to_str()?).ok() }
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

/// Where models come from and go to; made from the environment variables that Hugging Face's tools read.
pub struct Hub {
    /// HF_ENDPOINT, without a slash at its end.
    endpoint: String,
    cache: Cache,
    /// HF_TOKEN, else the file that `hf auth login` writes. It goes to the endpoint alone and into no message.
    token: Option<String>,
    /// HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE.
    offline: bool,
}

/// A model in the cache, after [`Hub::pull`].
#[derive(Clone, Debug, Serialize)]
pub struct Pulled {
    /// `ORG/NAME`.
    pub id: String,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit that it stands for.
    pub commit: String,
    /// The model: a folder, or a GGUF file.
    pub path: PathBuf,
    /// What the model is made of, in the order of fetching.
    pub files: Vec<PulledFile>,
}

/// A file of [`Pulled`].
#[derive(Clone, Debug, Serialize)]
pub struct PulledFile {
    /// Its path in the repository.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// How many of its bytes came over the network now; 0 if the cache had it.
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
        let token = token.or_else(|| std::fs::read_to_string(token_file?).ok());
        let on = |name: &str| var(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_ascii_lowercase()));
        Ok(Hub {
            endpoint: var("HF_ENDPOINT").unwrap_or("https://huggingface.co".into()).trim_end_matches('/').to_owned(),
            cache: Cache::new(root),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
        })
    }

    /// Brings a model's files into the cache, as the hub has them now, and says where they are. Of a transfer that
    /// breaks, what came stays; the next call goes on behind it. A file whose checksum is wrong is removed.
    ///
    /// # Errors
    /// No such model or file, no right to it, no network; a file that differs from its checksum; a full disk; `Stopped`
    /// when the observer asks for it.
    #[cfg(feature = "hub")]
    pub fn pull(&self, id: &HubId, observer: &dyn Observer) -> Result<Pulled> {
        if self.offline {
            return Err(Error::Hub(format!("{id}: cannot be fetched while HF_HUB_OFFLINE is set")));
        }
        pull::pull(self, id, observer)
    }

    /// Always an error: this build has no network.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "hub"))]
    pub fn pull(&self, id: &HubId, _observer: &dyn Observer) -> Result<Pulled> {
        let (endpoint, token) = (&self.endpoint, if self.token.is_some() { " and a token" } else { "" });
        let what = format!("this build has no network; build it with the feature hub to use {endpoint}{token}");
        Err(Error::Hub(format!("{id}: cannot be fetched: {what}")))
    }

    /// The model's folder or file: the cache's, else, with an observer to tell of it, fetched from the network.
    ///
    /// # Errors
    /// It is not cached and cannot be fetched.
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
                // Perhaps it was never meant to be an id.
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
