//! Fetching a model: what its repository holds, each file's size and checksum, and transfers that continue where they
//! broke.

use crate::disk::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::{StatusCode, header};

use super::cache::{RepoFolder, is_word, make_folder};
use super::files::{self, ModelFiles};
use super::http::{Client, Method, shown};
use super::{Hub, HubId, Pulled, PulledFile};
use crate::weights::{INDEX, shards};
use crate::{Error, Observer, Result};

/// How often in a row a transfer may break without having brought a byte.
const FRUITLESS: usize = 3;
/// How long to wait before a broken transfer continues, and between looks at a file that another process is fetching.
const PAUSE: Duration = Duration::from_secs(1);
const BUFFER: usize = 1 << 16;
/// More bytes than any repository's list of files takes.
const MAX_LIST: u64 = 64 << 20;

/// What the hub says of a repository: its commit and its files.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// One file of a repository on the hub.
struct Remote {
    name: String,
    url: String,
    /// The ETag that names the file in the cache: for LFS files the SHA-256 of the content, for others the SHA-1 that
    /// git gives a blob.
    etag: String,
    size: u64,
}

struct Puller<'a> {
    client: Client<'a>,
    hub: &'a Hub,
    id: &'a HubId,
    repo: RepoFolder,
    commit: String,
    observer: &'a dyn Observer,
}

pub(super) fn pull(hub: &Hub, id: &HubId, observer: &dyn Observer) -> Result<Pulled> {
    let client = Client::new(hub, id);
    let Info { sha: commit, siblings } = info(&client, hub, id)?;
    let all: Vec<String> = siblings.into_iter().map(|file| file.rfilename).collect();
    if !is_word(&commit) {
        return Err(client.error(format!("the hub names the commit {commit:?}; expected a hash")));
    }
    if let Some(name) = all.iter().find(|name| !files::is_plain(name)) {
        let what =
            format!("the hub lists a file {name:?}, which would lie outside the model's folder; nothing is fetched");
        return Err(client.error(what));
    }
    let puller = Puller { client, hub, id, repo: hub.cache.repo(id), commit, observer };
    let snapshot = puller.repo.snapshot(&puller.commit);
    let (path, files) = match files::choose(id, &all)? {
        ModelFiles::Gguf(parts) => (snapshot.join(&parts[0]), puller.fetch_all(&parts)?),
        ModelFiles::Folder(names) => {
            let mut files = puller.fetch_all(&names)?;
            if names.iter().any(|name| name == INDEX) {
                let shards = shards(&snapshot.join(INDEX))?;
                if let Some(gone) = shards.iter().find(|shard| !all.contains(shard)) {
                    return Err(puller.client.error(format!("{INDEX} names {gone}, which is not in the repository")));
                }
                files.extend(puller.fetch_all(&shards)?);
            }
            (snapshot, files)
        }
    };
    // The reference is written last, so that a revision never stands for half a model.
    puller.repo.refer(&id.revision, &puller.commit)?;
    Ok(Pulled { id: id.repo.clone(), revision: id.revision.clone(), commit: puller.commit, path, files })
}

fn info(client: &Client<'_>, hub: &Hub, id: &HubId) -> Result<Info> {
    let url = format!("{}/api/models/{}/revision/{}", hub.endpoint, id.repo, id.revision.replace('/', "%2F"));
    let mut response = client.send(Method::Get { range: None }, &url, |_| false)?;
    if response.status() != StatusCode::OK {
        return Err(client.refusal("the question what it holds", &response));
    }
    let bytes = response.body_mut().with_config().limit(MAX_LIST).read_to_vec();
    let bytes = bytes.map_err(|error| client.error(format!("{}: {error}", shown(&url))))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| client.error(format!("{} is no list of a model's files: {error}", shown(&url))))
}

impl Puller<'_> {
    fn fetch_all(&self, names: &[String]) -> Result<Vec<PulledFile>> {
        let mut remotes = Vec::new();
        for name in names {
            self.check_stop()?;
            remotes.push(self.remote(name)?);
        }
        let missing: Vec<&Remote> = remotes.iter().filter(|file| !self.is_here(file)).collect();
        let total: u64 = missing.iter().map(|file| file.size).sum();
        if !missing.is_empty() {
            let (count, mb) = (missing.len(), total as f64 / 1e6);
            self.observer
                .note(&format!("fetching {count} files of {} ({mb:.1} MB) from {}", self.id, self.hub.endpoint));
        }
        self.observer.begin(&self.id.repo, Some(total), "bytes");
        let done = remotes.iter().map(|file| self.fetch(file)).collect();
        self.observer.end();
        done
    }

    fn check_stop(&self) -> Result<()> {
        if self.observer.stop_requested() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Asks for a file's size and checksum.
    fn remote(&self, name: &str) -> Result<Remote> {
        let url = format!("{}/{}/resolve/{}/{}", self.hub.endpoint, self.id.repo, self.commit, encode(name));
        let linked = |response: &ureq::http::Response<ureq::Body>| response.headers().contains_key("x-linked-etag");
        let mut response = self.client.send(Method::Head, &url, linked)?;
        if [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&response.status()) {
            // Plain mirrors answer GET alone.
            response = self.client.send(Method::Get { range: Some((0, Some(0))) }, &url, linked)?;
        }
        if !response.status().is_success() && !linked(&response) {
            return Err(self.client.refusal(&format!("the question for {name}"), &response));
        }
        let text = |key: &str| response.headers().get(key).and_then(|value| value.to_str().ok());
        let whole = text("content-range").and_then(|range| range.rsplit('/').next());
        let size = text("x-linked-size").or(whole).or(text("content-length")).and_then(|size| size.parse().ok());
        let etag = text("x-linked-etag").or(text("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        match size {
            _ if !is_word(&etag) => Err(self.client.error(format!("{name}: its ETag is {etag:?}; expected a hash"))),
            None => Err(self.client.error(format!("{name}: the hub does not say how long it is"))),
            Some(size) => Ok(Remote { name: name.to_owned(), url, etag, size }),
        }
    }

    fn is_here(&self, file: &Remote) -> bool {
        disk::file_length(self.repo.blob(&file.etag)) == Some(file.size)
    }

    fn fetch(&self, file: &Remote) -> Result<PulledFile> {
        let mut fetched_bytes = 0;
        if !self.is_here(file) {
            let _lock = self.lock(file)?;
            // Another process may have fetched it meanwhile.
            if !self.is_here(file) {
                let partial = self.repo.partial(&file.etag);
                fetched_bytes = self.transfer(file, &partial)?;
                self.verify(file, &partial)?;
                let blob = self.repo.blob(&file.etag);
                disk::rename(&partial, &blob).map_err(Error::io(&blob))?;
            }
        }
        self.repo.link(&self.commit, &file.name, &file.etag)?;
        Ok(PulledFile { name: file.name.clone(), bytes: file.size, fetched_bytes })
    }

    /// Locks the file against other processes that want to fetch it, those of huggingface_hub too.
    fn lock(&self, file: &Remote) -> Result<File> {
        let path = self.repo.lock(&file.etag);
        make_folder(path.parent())?;
        let lock = disk::open_to_append(&path).map_err(Error::io(&path))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(Error::io(&path)(error)),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        self.observer.note(&format!("{}: another process fetches it; waiting", file.name));
                    }
                    self.check_stop()?;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Fetches what `partial` lacks of the file; returns how many bytes came over the network.
    fn transfer(&self, file: &Remote, partial: &Path) -> Result<u64> {
        make_folder(partial.parent())?;
        let io = || Error::io(partial);
        let mut output = disk::open_to_append(partial).map_err(io())?;
        let mut have = output.metadata().map_err(io())?.len();
        if have > file.size {
            output.set_len(0).map_err(io())?;
            have = 0;
        }
        self.observer.advance(have);
        let (mut fetched, mut fruitless) = (0, 0);
        while have < file.size {
            let before = fetched;
            let broken = self.receive(file, partial, &mut output, &mut have, &mut fetched);
            let kept = format!(
                "{have} of {} bytes of {} are kept, the same command goes on behind them",
                file.size, file.name
            );
            match broken {
                Ok(None) => {}
                Ok(Some(why)) => {
                    fruitless = if fetched > before { 0 } else { fruitless + 1 };
                    if fruitless == FRUITLESS {
                        return Err(self.client.error(format!("the transfer broke again and again: {why}; {kept}")));
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(Error::Hub(what)) if have > 0 => return Err(Error::Hub(format!("{what}; {kept}"))),
                Err(error) => return Err(error),
            }
        }
        output.sync_all().map_err(io())?;
        Ok(fetched)
    }

    /// Sends one request for the missing bytes. If it ended too early, returns why.
    fn receive(
        &self,
        file: &Remote,
        partial: &Path,
        output: &mut File,
        have: &mut u64,
        fetched: &mut u64,
    ) -> Result<Option<String>> {
        let range = (*have > 0).then_some((*have, None));
        let response = self.client.send(Method::Get { range }, &file.url, |_| false)?;
        let from = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        match response.status() {
            StatusCode::PARTIAL_CONTENT if from.is_some_and(|from| from.starts_with(&format!("bytes {have}-"))) => {}
            StatusCode::OK => {
                // The server ignores ranges, so the file begins anew.
                output.set_len(0).map_err(Error::io(partial))?;
                *have = 0;
            }
            _ => return Err(self.client.refusal(&format!("the request for {}", file.name), &response)),
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        while *have < file.size {
            self.check_stop()?;
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(Some("the connection was closed".into())),
                Ok(count) => (count as u64).min(file.size - *have),
                Err(error) => return Ok(Some(error.to_string())),
            };
            output.write_all(&buffer[..count as usize]).map_err(Error::io(partial))?;
            *have += count;
            *fetched += count;
            self.observer.advance(count);
        }
        Ok(None)
    }

    /// Compares a whole file with its checksum and removes it if they differ. ETags of other hubs may not be hashes;
    /// then there is nothing to compare.
    fn verify(&self, file: &Remote, partial: &Path) -> Result<()> {
        if !file.etag.chars().all(|c| c.is_ascii_hexdigit()) || ![40, 64].contains(&file.etag.len()) {
            return Ok(());
        }
        let (mut sha256, mut git, mut sha1) = (Sha256::new(), Sha1::new(), Sha1::new());
        git.update(format!("blob {}\0", file.size));
        let long = file.etag.len() == 64;
        let mut input = disk::open(partial).map_err(Error::io(partial))?;
        let mut buffer = vec![0; BUFFER];
        self.observer.begin("checksum", Some(file.size), "bytes");
        loop {
            self.check_stop()?;
            let count = input.read(&mut buffer).map_err(Error::io(partial))?;
            match &buffer[..count] {
                [] => break,
                bytes if long => sha256.update(bytes),
                bytes => {
                    git.update(bytes);
                    // Some mirrors give a plain SHA-1.
                    sha1.update(bytes);
                }
            }
            self.observer.advance(count as u64);
        }
        self.observer.end();
        let found =
            if long { vec![hex(&sha256.finalize())] } else { vec![hex(&git.finalize()), hex(&sha1.finalize())] };
        if found.contains(&file.etag.to_ascii_lowercase()) {
            return Ok(());
        }
        disk::remove_file(partial).map_err(Error::io(partial))?;
        let (name, want) = (&file.name, &file.etag);
        Err(self.client.error(format!(
            "{name}: the checksum of what came is {}, the hub says {want}; it was removed, try again",
            found[0]
        )))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file's path as a part of a URL.
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_urls() {
        assert_eq!(encode("a b/ü#?%.gguf"), "a%20b/%C3%BC%23%3F%25.gguf");
    }
}
