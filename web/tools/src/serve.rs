//! A server of files for this machine.

use std::fs;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How long a browser may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of a request.
const REQUEST: u64 = 64 << 10;

/// Serves the files of a folder until the program is ended. Port 0 is any free one; the address is printed.
pub(crate) fn folder(root: &Path, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("http://{}/", listener.local_addr()?);
    std::io::stdout().flush()?;
    for stream in listener.incoming().flatten() {
        let root = root.to_path_buf();
        // A browser that goes away is no fault of the server.
        std::thread::spawn(move || drop(answer(&stream, &root)));
    }
    Ok(())
}

fn answer(stream: &TcpStream, root: &Path) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(REQUEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let found = match method {
        "GET" | "HEAD" => file(root, path).and_then(|file| Some((kind(&file), fs::read(&file).ok()?))),
        _ => return head(stream, "405 Method Not Allowed", "text/plain", 0),
    };
    let Some((kind, bytes)) = found else { return head(stream, "404 Not Found", "text/plain", 0) };
    head(stream, "200 OK", kind, bytes.len())?;
    let mut stream = stream;
    if method == "GET" { stream.write_all(&bytes) } else { Ok(()) }
}

fn head(mut stream: &TcpStream, status: &str, kind: &str, length: usize) -> Result<()> {
    let rest = "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nConnection: close";
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{rest}\r\n\r\n")
}

/// The file that a path of an address names, if it lies in the folder.
fn file(root: &Path, path: &str) -> Option<PathBuf> {
    let path = path.split(['?', '#']).next()?.strip_prefix('/')?;
    let path = Path::new(if path.is_empty() { "index.html" } else { path });
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    Some(root.join(path)).filter(|file| inside && file.is_file())
}

/// The content's type by the file's ending; a browser insists on those of scripts and modules.
fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_folder_are_served() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(file(root, "/Cargo.toml?x=1"), Some(root.join("Cargo.toml")));
        assert_eq!(file(root, "/src/serve.rs").map(|f| kind(&f)), Some("application/octet-stream"));
        for path in ["/../Cargo.toml", "/src", "/none", "Cargo.toml", "//etc/passwd", "/src/../../Cargo.toml", ""] {
            assert_eq!(file(root, path), None, "{path}");
        }
        assert_eq!(kind(Path::new("a.wasm")), "application/wasm");
    }
}
