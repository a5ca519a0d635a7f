//! Chat templates against transformers: expressions of Jinja one by one, and whole templates over whole chats.

#![expect(clippy::print_stdout, reason = "what is skipped is said")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::python::Date;
use super::template::{ChatInputs, Template, from_config};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jinja").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Seconds from 1970 to a date, which is counted day by day.
fn seconds(date: &Value) -> i64 {
    let part = |i: usize| date[i].as_i64().unwrap_or(0);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let years: i64 = (1970..part(0)).map(|year| 365 + i64::from(leap(year))).sum();
    let lengths = [31, 28 + i64::from(leap(part(0))), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: i64 = lengths.iter().take(part(1) as usize - 1).sum();
    (years + months + part(2) - 1) * 86400 + part(3) * 3600 + part(4) * 60 + part(5)
}

fn template(source: &str, tokens: &Value) -> Template {
    let mut config = tokens.clone();
    config["chat_template"] = source.into();
    from_config(&config).unwrap().unwrap()
}

/// What templates may not do here, though Jinja in Python does it: a part of the expression and of the refusal.
const REFUSED: [(&str, &str); 14] = [
    ("| random", "random is not supported"),
    ("wordwrap", "wordwrap is not supported"),
    ("striptags", "striptags is not supported"),
    ("urlize", "urlize is not supported"),
    ("pprint", "pprint is not supported"),
    ("encode()", "encode is not supported"),
    ("translate", "no method named translate"),
    ("maketrans", "no method named maketrans"),
    ("bit_count()", "no method named bit_count"),
    ("conjugate()", "no method named conjugate"),
    ("as_integer_ratio()", "no method named as_integer_ratio"),
    (".hex()", "no method named hex"),
    ("autoescape", "autoescape is not supported"),
    ("y=x", "a macro's default names another argument"),
];

/// What is written otherwise: entries of views and of lists by floats, the name `self`.
const OTHERWISE: [&str; 3] = ["{{ d.keys()[0] }}", "{{ l[1.0] }}", "{{ self is defined }}"];

/// The same of values of every kind: a template's end and the value. Where an argument with a default is given what is
/// not defined, the default is taken; `*none` and a namespace are no arguments.
const OTHERWISE_OF: [(&str, &str); 15] = [
    ("{{ v[0] }}", "{'a': 1}.items()"),
    ("{{ v[0] }}", "{'a': 1}.keys()"),
    ("{{ v[-1] }}", "{'a': 1}.items()"),
    ("{{ v[-1] }}", "{'a': 1}.keys()"),
    ("{{ v.0 }}", "{'a': 1}.items()"),
    ("{{ v.0 }}", "{'a': 1}.keys()"),
    ("'{0[0]}'.format(v) }}", "{'a': 1}.items()"),
    ("'{0[0]}'.format(v) }}", "{'a': 1}.keys()"),
    ("{{ v.__class__ }}", "u"),
    ("[3, 1, 2][v] }}", "-0.0"),
    ("'abc'[v] }}", "-0.0"),
    ("{{ f(v) }}{{ f(y=v) }}", "u"),
    ("{{ f(*v) }}", "none"),
    ("{{ f(*v) }}", "namespace(a=1)"),
    ("{{ f(**v) }}", "namespace(a=1)"),
];

/// Whether a template wrote what it does in Python, or was refused where it is there, or by name.
fn as_wanted(source: &str, have: &Result<String, String>, want: Option<&str>) -> bool {
    match (have, want, REFUSED.iter().find(|(part, _)| source.contains(part))) {
        (Err(error), Some(_), Some((_, what))) => error.contains(what),
        (Ok(have), Some(want), None) => have == want,
        (Err(_), None, _) => true,
        _ => false,
    }
}

#[test]
fn expressions_are_those_of_jinja_in_python() {
    let golden = golden("expressions.json");
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let mut differ = Vec::new();
    for row in golden["rows"].as_array().unwrap() {
        let (source, want) = (row[0].as_str().unwrap(), row[1].as_str());
        let inputs = ChatInputs {
            messages: golden["messages"].as_array().unwrap(),
            add_generation_prompt: true,
            variables: golden["values"].as_object(),
            ..ChatInputs::default()
        };
        let have = template(source, &tokens).render(inputs).map_err(|error| error.to_string());
        if as_wanted(source, &have, want) == OTHERWISE.contains(&source) {
            differ.push(format!("{source}\n  expected {want:?}\n  here     {have:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// Every filter, test, operator and method over every kind of value.
#[test]
fn values_of_every_kind_are_taken_as_in_python() {
    let golden = golden("matrix.json");
    let subjects: Vec<&str> = golden["subjects"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let message = [json!({"role": "user", "content": "Hi"})];
    let (mut differ, mut cells) = (Vec::new(), 0);
    for row in golden["rows"].as_array().unwrap() {
        let form = row[0].as_str().unwrap();
        for (subject, want) in subjects.iter().zip(row[1].as_array().unwrap()) {
            if want == false {
                continue;
            }
            cells += 1;
            let source = format!("{{% set v = {subject} %}}{form}");
            let inputs = ChatInputs { messages: &message, ..ChatInputs::default() };
            let have = template(&source, &json!({})).render(inputs).map_err(|error| error.to_string());
            let otherwise = OTHERWISE_OF.iter().any(|(end, value)| subject == value && form.ends_with(end));
            if as_wanted(form, &have, want.as_str()) == otherwise {
                differ.push(format!("{source}\n  expected {want}\n  here     {have:?}"));
            }
        }
    }
    assert!(cells > 10_000);
    assert!(differ.is_empty(), "{} differ\n{}", differ.len(), differ.join("\n"));
}

#[test]
fn dates_are_those_of_python() {
    let golden = golden("expressions.json");
    for row in golden["dates"].as_array().unwrap() {
        let micros = row[0][6].as_u64().unwrap() as u32;
        // The zone moves the time and is written nowhere.
        for ahead in [0, 5400, -3600] {
            let date = Date::new(seconds(&row[0]) - ahead, micros, ahead);
            let form = row[1].as_str().unwrap();
            assert_eq!(date.format(form), row[2].as_str().unwrap(), "{form} at {}", row[0]);
        }
    }
    let before = Date::new(-1, 0, 0);
    assert_eq!(before.format("%F %T %a %s %j"), "1969-12-31 23:59:59 Wed -1 365");
}

/// Where `scripts/fetch-templates` puts the templates of TRL.
const FETCHED: &str = "target/chat_templates";

/// The template in a GGUF file, found by its key.
fn gguf_template(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(64 << 20).read_to_end(&mut head).ok()?;
    let key = b"tokenizer.chat_template";
    let at = head.windows(key.len()).position(|bytes| bytes == key)? + key.len() + 4;
    let size = u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?) as usize;
    String::from_utf8(head.get(at + 8..at + 8 + size)?.to_vec()).ok()
}

/// The first digits of a text's SHA-256.
fn hash(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The templates that are at hand: those that `scripts/fetch-templates` put into `target/`, and those of the models.
fn at_hand() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = |folder: PathBuf, end: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|e| e == end)).collect()
    };
    let stem = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    let files = list(root.join(FETCHED), "jinja");
    let models = list(root.join("models"), "gguf");
    let mut all: Vec<(String, String)> =
        files.iter().map(|path| (stem(path), std::fs::read_to_string(path).unwrap())).collect();
    all.extend(
        models.iter().filter_map(|path| gguf_template(path)).map(|text| (format!("sha256:{}", hash(&text)), text)),
    );
    all
}

#[test]
fn whole_templates_write_what_they_do_in_transformers() {
    let golden = golden("templates.json");
    let (mut differ, mut seen) = (Vec::new(), 0);
    for (name, source) in at_hand() {
        let Some(hashes) = golden["hashes"].get(&name).and_then(Value::as_array) else { continue };
        let template = template(&source, &golden["tokens"]);
        seen += 1;
        for (i, (chat, want)) in golden["chats"].as_array().unwrap().iter().zip(hashes).enumerate() {
            let inputs = ChatInputs {
                messages: chat["messages"].as_array().unwrap(),
                tools: chat.get("tools"),
                add_generation_prompt: chat.get("prompt").is_none_or(|prompt| prompt == true),
                variables: chat.get("variables").and_then(Value::as_object),
            };
            let have = template.render_at(inputs, Date::new(seconds(&golden["time"]), 0, 0));
            if have.as_deref().ok().map(hash).as_deref() != want.as_str() {
                differ.push(format!("{name}, chat {i}: {have:?}"));
            }
        }
    }
    assert!(differ.is_empty(), "{} differ\n{}", differ.len(), differ.join("\n"));
    let all = golden["hashes"].as_object().unwrap();
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(FETCHED).exists();
    let of_trl = all.keys().filter(|name| !name.starts_with("sha256:")).count();
    assert!(!fetched || seen >= of_trl, "{seen} of the templates are there: {FETCHED} is not whole, fetch it again");
    println!("skipped: {} of {} templates (scripts/fetch-templates gets those of TRL)", all.len() - seen, all.len());
}
