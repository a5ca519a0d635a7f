//! A hub on the loopback address: a list of files, HEAD and GET with
//! ranges, LFS files on another host behind a redirect.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) const REPO: &str = "org/name";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server holds, does wrong and has seen; a test changes it between requests.
pub(crate) struct State {
    /// Name and content; large ones are LFS files.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) commit: String,
    /// Names that are listed though there is no such file.
    pub(crate) listed_too: Vec<String>,
    /// Every request gets this status and error code.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// Transfers of this file end when so many bytes of it have been served in all.
    pub(crate) break_at: Option<(String, usize)>,
    /// So many transfers break; then all is well.
    pub(crate) breaks: usize,
    /// Bytes differ from their checksum.
    pub(crate) corrupt: bool,
    pub(crate) etag: Option<String>,
    /// A plain file server: no HEAD, no ranges, no redirects.
    pub(crate) plain: bool,
    /// Bytes of content sent, by file.
    pub(crate) served: HashMap<String, usize>,
    /// Authorization headers that came to the hub itself, and those that came to the other host.
    pub(crate) tokens: [Vec<String>; 2],
    pub(crate) requests: usize,
}

/// The server; dropping it closes its ports.
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    pub(crate) endpoint: String,
    ports: [u16; 2],
}

/// A file's SHA-256, as LFS has it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn git_hash(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn is_lfs(bytes: &[u8]) -> bool {
    bytes.len() > 100_000
}

impl Server {
    pub(crate) fn new(files: Vec<(String, Vec<u8>)>) -> Server {
        let state = State {
            files,
            commit: COMMIT.into(),
            listed_too: Vec::new(),
            refuse: None,
            break_at: None,
            breaks: usize::MAX,
            corrupt: false,
            etag: None,
            plain: false,
            served: HashMap::new(),
            tokens: [Vec::new(), Vec::new()],
            requests: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().port());
        for (host, listener) in listeners.into_iter().enumerate() {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    // Only `drop` sends a request that is not one.
                    if !answer(&mut stream, &state, host, ports[1]) {
                        return;
                    }
                }
            });
        }
        Server { state, endpoint: format!("http://127.0.0.1:{}", ports[0]), ports }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for port in self.ports {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = stream.write_all(b"STOP\r\n\r\n");
                // Until the listener is closed.
                let _ = stream.read_to_end(&mut Vec::new());
                while TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// Answers one request; false for the one that stops the server.
fn answer(stream: &mut TcpStream, state: &Mutex<State>, host: usize, cdn: u16) -> bool {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let Some((method, path)) = head.first().and_then(|line| line.split_once(' ')) else {
        return head.first().is_none_or(|line| line != "STOP");
    };
    let path = path.split(' ').next().unwrap();
    let header = |name: &str| {
        head.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let mut state = state.lock().unwrap();
    state.requests += 1;
    state.tokens[host].extend(header("authorization"));
    let reply = |stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]| {
        let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        if !headers.iter().any(|(key, _)| *key == "Content-Length") {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        headers.iter().for_each(|(key, value)| text += &format!("{key}: {value}\r\n"));
        let body = if method == "HEAD" { &[] } else { body };
        // A client that has enough may be gone.
        let _ = stream.write_all(&[text.as_bytes(), b"\r\n", body].concat());
    };
    if let Some((status, code)) = state.refuse {
        reply(stream, status, &[("X-Error-Code", code.into())], b"refused");
        return true;
    }
    if state.plain && method == "HEAD" {
        reply(stream, 501, &[], b"");
        return true;
    }
    if let Some(rest) = path.strip_prefix("/api/models/old/name") {
        reply(stream, 307, &[("Location", format!("/api/models/{REPO}{rest}"))], b"");
        return true;
    }
    if path == format!("/api/models/{REPO}/revision/main") {
        let names = state.files.iter().map(|(name, _)| name).chain(&state.listed_too);
        let siblings: Vec<_> = names.map(|name| serde_json::json!({"rfilename": name})).collect();
        let document = serde_json::json!({"id": REPO, "sha": state.commit, "siblings": siblings, "tags": []});
        reply(stream, 200, &[], document.to_string().as_bytes());
        return true;
    }
    let path = path.replace("/old/name/", "/org/name/");
    let resolve = format!("/{REPO}/resolve/{COMMIT}/");
    let name = path.strip_prefix(&resolve).or(path.strip_prefix("/cdn/")).unwrap_or_default();
    let name = name.split('?').next().unwrap();
    let Some((name, bytes)) = state.files.iter().find(|(known, _)| known == name).cloned() else {
        reply(stream, 404, &[("X-Error-Code", "EntryNotFound".into())], b"Entry not found");
        return true;
    };
    let etag = if is_lfs(&bytes) { sha256(&bytes) } else { git_hash(&bytes) };
    let etag = format!("\"{}\"", state.etag.clone().unwrap_or(etag));
    if host == 0 && is_lfs(&bytes) && !state.plain {
        let headers = [
            ("Location", format!("http://127.0.0.1:{cdn}/cdn/{name}?signature=secret")),
            ("X-Repo-Commit", COMMIT.into()),
            ("X-Linked-Size", bytes.len().to_string()),
            ("X-Linked-Etag", etag),
        ];
        reply(stream, 302, &headers, b"");
        return true;
    }
    let from = header("range").filter(|_| !state.plain).map_or(0, |range| {
        let range = range.trim_start_matches("bytes=").to_owned();
        range.split('-').next().unwrap().parse::<usize>().unwrap()
    });
    let mut body = bytes[from..].to_vec();
    let headers = [
        ("Content-Length", body.len().to_string()),
        ("ETag", etag),
        ("X-Repo-Commit", COMMIT.into()),
        ("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
    ];
    if method != "HEAD" {
        let served = state.served.get(&name).copied().unwrap_or(0);
        if let Some((broken, at)) = state.break_at.clone().filter(|_| state.breaks > 0)
            && broken == name
        {
            state.breaks -= 1;
            body.truncate(at.saturating_sub(served));
        }
        if state.corrupt
            && let Some(last) = body.last_mut()
        {
            *last ^= 1;
        }
        *state.served.entry(name).or_default() += body.len();
    }
    let (status, count) = if from > 0 { (206, 4) } else { (200, 3) };
    reply(stream, status, &headers[..count], &body);
    true
}
