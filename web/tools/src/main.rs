//! What the page is built and tried with: `glue MODULE.wasm FOLDER` writes the JavaScript beside a module, and
//! `serve FOLDER PORT` serves a folder to this machine alone.

mod serve;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["glue", module, folder] => glue(module, folder),
        ["serve", folder, port] => match port.parse() {
            Ok(port) => serve::folder(Path::new(folder), port).map_err(|e| format!("port {port}: {e}")),
            Err(_) => Err(format!("{port} is no port: expected a number from 0 (any free one) to 65535")),
        },
        _ => {
            eprintln!("usage: selfreward-web-tools glue MODULE.wasm FOLDER | serve FOLDER PORT");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn glue(module: &str, folder: &str) -> Result<(), String> {
    let mut glue = wasm_bindgen_cli_support::Bindgen::new();
    let made = glue.input_path(module).web(true).map(|glue| glue.typescript(false).remove_name_section(true));
    made.and_then(|glue| glue.generate(folder)).map_err(|error| format!("{module}: {error:#}"))
}
