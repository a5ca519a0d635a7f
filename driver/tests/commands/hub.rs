//! Hub ids: `pull`, and ids in place of a model's path, against a hub on the loopback address.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use crate::hub_server::{COMMIT, REPO, Server, sha256};
use assert_cmd::cargo::cargo_bin_cmd;
use safetensors::tensor::{SafeTensors, TensorView};
use selfreward_testing::schema::{schema, validate};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const TOKEN: &str = "hf_secretsecret";
const WEIGHTS: &str = "model.safetensors";

/// The files of a folder.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

/// The small world's seed model, with files that nobody needs.
fn small_model() -> Vec<(String, Vec<u8>)> {
    let mut all = files("src/world/m1");
    all.extend([("README.md".into(), b"# A model".to_vec()), ("pytorch_model.bin".into(), vec![0; 200_000])]);
    all
}

fn content(all: &[(String, Vec<u8>)], name: &str) -> Vec<u8> {
    all.iter().find(|(known, _)| known == name).unwrap().1.clone()
}

/// The same, its weights in two shards with an index.
fn sharded_model() -> Vec<(String, Vec<u8>)> {
    let mut all = small_model();
    let whole = content(&all, WEIGHTS);
    let tensors = SafeTensors::deserialize(&whole).unwrap();
    let mut named: Vec<(String, TensorView<'_>)> = tensors.tensors();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let (first, second) = named.split_at(named.len() / 2);
    let mut map = serde_json::Map::new();
    for (i, part) in [first, second].into_iter().enumerate() {
        let shard = format!("model-{:05}-of-00002.safetensors", i + 1);
        part.iter().for_each(|(name, _)| drop(map.insert(name.clone(), json!(shard))));
        all.push((shard, safetensors::serialize(part.to_vec(), None).unwrap()));
    }
    all.retain(|(name, _)| name != WEIGHTS);
    all.push(("model.safetensors.index.json".into(), json!({"weight_map": map}).to_string().into_bytes()));
    all
}

/// A cache, and a hub to fill it from.
struct Setup {
    home: TempDir,
    endpoint: String,
}

impl Setup {
    fn new(endpoint: &str) -> Setup {
        Setup { home: tempfile::tempdir().unwrap(), endpoint: endpoint.into() }
    }

    /// Runs and returns (exit code, stdout, stderr); the token is in neither.
    fn outcome(&self, args: &[&str]) -> (i32, String, String) {
        self.outcome_with(args, &[("HF_TOKEN", TOKEN)])
    }

    fn outcome_with(&self, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = cargo_bin_cmd!("selfreward");
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"] {
            command.env_remove(name);
        }
        for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", self.home.path()).current_dir(self.home.path());
        let out = command.args(args).envs(env.iter().copied()).output().unwrap();
        let [stdout, stderr] = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(!stdout.contains(TOKEN) && !stderr.contains(TOKEN), "{args:?} shows the token: {stdout}{stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("signature="), "{args:?}: {stderr}");
        (out.status.code().unwrap(), stdout, stderr)
    }

    #[track_caller]
    fn pull(&self, args: &[&str]) -> Value {
        let (code, stdout, stderr) = self.outcome(&[&["pull"][..], args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {stderr}");
        let document: Value = serde_json::from_str(&stdout).unwrap();
        validate(&schema("pull"), &document, "pull").unwrap();
        document
    }

    #[track_caller]
    fn fails(&self, args: &[&str], words: &[&str]) {
        self.fails_with(args, &[("HF_TOKEN", TOKEN)], words);
    }

    #[track_caller]
    fn fails_with(&self, args: &[&str], env: &[(&str, &str)], words: &[&str]) {
        let (code, stdout, stderr) = self.outcome_with(args, env);
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}: {stderr}");
        assert_eq!(stderr.matches("error: ").count(), 1, "{args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?}: '{word}' is missing in: {stderr}");
        }
    }

    #[track_caller]
    fn generates(&self, model: &str, env: &[(&str, &str)]) -> String {
        let args =
            ["generate", "--model", model, "--prompt", "upper: ab", "--temperature", "0", "--max-new-tokens", "8"];
        let (code, stdout, stderr) = self.outcome_with(&args, env);
        assert_eq!(code, 0, "{stderr}");
        assert!(!stdout.trim().is_empty());
        stdout
    }

    fn repo(&self) -> PathBuf {
        self.home.path().join("hub/models--org--name")
    }

    /// Everything in the home folder that is neither the cache nor its locks.
    fn strays(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home.path())
            .unwrap()
            .chain(fs::read_dir(self.home.path().join("hub")).into_iter().flatten());
        let known = ["hub", ".locks", "models--org--name"];
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !known.iter().any(|name| path.ends_with(name))).collect()
    }
}

fn fetched(document: &Value) -> u64 {
    document["files"].as_array().unwrap().iter().map(|file| file["fetched_bytes"].as_u64().unwrap()).sum()
}

fn names(document: &Value) -> Vec<&str> {
    document["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect()
}

#[test]
fn a_pulled_model_answers_without_a_network() {
    let server = Server::new(small_model());
    let setup = Setup::new(&server.endpoint);
    let document = setup.pull(&[REPO]);
    let wanted = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS];
    assert_eq!(names(&document), wanted);
    assert_eq!((&document["commit"], &document["revision"]), (&json!(COMMIT), &json!("main")));

    // The layout of huggingface_hub.
    let weights = content(&server.state().files, WEIGHTS);
    let snapshot = setup.repo().join("snapshots").join(COMMIT);
    assert_eq!(document["path"], json!(snapshot));
    assert_eq!(fs::read_to_string(setup.repo().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(setup.repo().join("blobs").join(sha256(&weights))).unwrap(), weights);
    #[cfg(unix)]
    assert_eq!(fs::read_link(snapshot.join(WEIGHTS)).unwrap(), Path::new("../../blobs").join(sha256(&weights)));
    assert!(fs::read_dir(setup.repo().join("blobs")).unwrap().all(|b| b.unwrap().path().extension().is_none()));

    // The token goes to the hub, and not to where it redirects.
    {
        let state = server.state();
        assert!(!state.tokens[0].is_empty() && state.tokens[0].iter().all(|t| *t == format!("Bearer {TOKEN}")));
        assert!(state.tokens[1].is_empty() && state.served[WEIGHTS] == weights.len());
    }
    assert_eq!(fetched(&setup.pull(&[REPO])), 0);
    let requests = server.state().requests;
    let answer = setup.generates(REPO, &[]);
    assert_eq!(server.state().requests, requests, "what is cached needs no request");

    drop(server);
    for id in [REPO.to_owned(), format!("{REPO}@main"), format!("{REPO}@{COMMIT}")] {
        assert_eq!(setup.generates(&id, &[]), answer);
        assert_eq!(setup.generates(&id, &[("HF_HUB_OFFLINE", "1")]), answer);
    }
    setup.fails(&["pull", REPO], &["cannot be reached", "HF_ENDPOINT"]);
    let (code, stdout, _) = setup.outcome(&["export", "--model", REPO, "--out", "copy"]);
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert_eq!(fs::read(setup.home.path().join("copy").join(WEIGHTS)).unwrap().len(), weights.len());
}

#[test]
fn an_id_that_is_not_cached_is_fetched_shards_and_all() {
    let server = Server::new(sharded_model());
    let setup = Setup::new(&server.endpoint);
    let offline = [("HF_HUB_OFFLINE", "1")];
    let generate = ["generate", "--model", REPO, "--prompt", "upper: ab"];
    setup.fails_with(
        &generate,
        &offline,
        &[REPO, "not (wholly) in the cache", "HF_HUB_OFFLINE", "selfreward pull org/name"],
    );
    setup.fails_with(&["pull", REPO], &offline, &["HF_HUB_OFFLINE"]);
    assert_eq!(server.state().requests, 0);

    let (code, _, stderr) = setup.outcome(&generate);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("fetching") && stderr.contains(REPO), "{stderr}");
    let document = setup.pull(&[REPO]);
    assert_eq!((fetched(&document), names(&document).len()), (0, 7));

    let whole = Server::new(small_model());
    let other = Setup::new(&whole.endpoint);
    assert_eq!(setup.generates(REPO, &offline), other.generates(REPO, &[]));

    // A snapshot that lacks a shard is not a model.
    fs::remove_file(setup.repo().join("snapshots").join(COMMIT).join("model-00002-of-00002.safetensors")).unwrap();
    setup.fails_with(&generate, &offline, &["not (wholly) in the cache"]);
    setup.generates(REPO, &[]);

    // A repository that was renamed.
    let renamed = setup.pull(&["old/name"]);
    assert_eq!(renamed["id"], json!("old/name"));
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    let server = Server::new(small_model());
    let size = content(&server.state().files, WEIGHTS).len();
    let kept = size / 3;
    // Broken for good: the pull fails, the next one fetches the rest alone.
    server.state().break_at = Some((WEIGHTS.into(), kept));
    let setup = Setup::new(&server.endpoint);
    setup.fails(&["pull", REPO], &[&format!("{kept} of {size} bytes of {WEIGHTS} are kept")]);
    assert_eq!(server.state().served[WEIGHTS], kept);
    assert!(!setup.repo().join("refs/main").exists());
    setup.fails_with(&["generate", "--model", REPO, "--prompt", "a"], &[("HF_HUB_OFFLINE", "1")], &["not (wholly)"]);
    server.state().break_at = None;
    assert_eq!(fetched(&setup.pull(&[REPO])), (size - kept) as u64);
    assert_eq!(server.state().served[WEIGHTS], size);
    setup.generates(REPO, &[]);

    // Broken once: the same pull goes on.
    let again = Setup::new(&server.endpoint);
    {
        let mut state = server.state();
        state.served.clear();
        (state.break_at, state.breaks) = (Some((WEIGHTS.into(), kept)), 1);
    }
    again.pull(&[REPO]);
    assert_eq!(server.state().served[WEIGHTS], size);
}

#[test]
fn a_file_with_a_wrong_checksum_is_removed() {
    for name in [WEIGHTS, "config.json"] {
        let mut all = small_model();
        if name != WEIGHTS {
            // Small files are checked too.
            all.retain(|(known, _)| known != WEIGHTS);
            all.push((WEIGHTS.into(), vec![0; 100]));
        }
        let server = Server::new(all);
        let setup = Setup::new(&server.endpoint);
        if name == WEIGHTS {
            server.state().break_at = Some((WEIGHTS.into(), 50_000));
            setup.fails(&["pull", REPO], &["are kept"]);
            server.state().break_at = None;
        }
        server.state().corrupt = true;
        setup.fails(&["pull", REPO], &[name, "checksum", "removed"]);
        let blobs: Vec<_> = fs::read_dir(setup.repo().join("blobs")).unwrap().map(|b| b.unwrap().path()).collect();
        assert!(blobs.iter().all(|b| b.extension().is_none()), "{blobs:?}");
        server.state().corrupt = false;
        setup.pull(&[REPO]);
    }
}

#[test]
fn refusals_say_what_to_do() {
    let server = Server::new(small_model());
    let setup = Setup::new(&server.endpoint);
    let cases: [(u16, &str, &[&str]); 6] = [
        (401, "", &["401", "no such model, or it is private or gated", "HF_TOKEN"]),
        (401, "GatedRepo", &["401", "terms", "HF_TOKEN"]),
        (403, "GatedRepo", &["403", "terms", "HF_TOKEN"]),
        (404, "RevisionNotFound", &["404", "no revision v9"]),
        (404, "", &["404", "spelling"]),
        (503, "", &["503", "try again later"]),
    ];
    for (status, code, words) in cases {
        server.state().refuse = Some((status, code));
        let id = format!("{REPO}@v9");
        setup.fails_with(&["pull", &id], &[], &[words, &[REPO]].concat());
        setup.fails_with(&["generate", "--model", &id, "--prompt", "a"], &[], words);
    }
    server.state().refuse = Some((403, ""));
    setup.fails(&["pull", REPO], &["the token in use"]);
    assert_eq!(setup.strays(), Vec::<PathBuf>::new());
    // What cannot be an id is no question for the hub.
    let requests = server.state().requests;
    for (model, words) in [("name", "hub id (ORG/NAME)"), ("./org/name", "./org/name"), ("a/b/c", "a/b/c")] {
        setup.fails(&["generate", "--model", model, "--prompt", "a"], &[words, "does not exist"]);
        setup.fails(&["pull", model], &[model, "ORG/NAME"]);
    }
    assert_eq!(server.state().requests, requests);
}

#[test]
fn names_from_the_hub_lead_nowhere_else() {
    let server = Server::new(small_model());
    let setup = Setup::new(&server.endpoint);
    for name in ["../../x", "a/../../../x.gguf", "/etc/x", "..\\..\\x", "a\u{0}b"] {
        server.state().listed_too = vec![name.into()];
        setup.fails(&["pull", REPO], &["outside the model's folder"]);
    }
    server.state().listed_too.clear();
    for etag in ["../../x", "", "a/b", ".."] {
        server.state().etag = Some(etag.into());
        setup.fails(&["pull", REPO], &["ETag"]);
    }
    server.state().etag = None;
    for commit in ["../../x", "", "a/b"] {
        server.state().commit = commit.into();
        setup.fails(&["pull", REPO], &["commit"]);
    }
    server.state().commit = COMMIT.into();
    let index = json!({"weight_map": {"model.norm.weight": "../../x"}}).to_string().into_bytes();
    server.state().files.retain(|(name, _)| name != WEIGHTS);
    server.state().files.push(("model.safetensors.index.json".into(), index));
    setup.fails(&["pull", REPO], &["../../x", "is not a file name"]);
    assert_eq!(setup.strays(), Vec::<PathBuf>::new());
}

#[test]
fn one_of_several_gguf_files_is_named() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/llama");
    let [golden, tokens] = [&golden, &golden.join("tokens.json")].map(|path| path.to_str().unwrap().to_owned());
    let maker = Setup::new("");
    let made = [("a.gguf", "f32"), ("b.gguf", "f16")].map(|(out, dtype)| {
        maker.outcome(&["export", "--model", &golden, "--out", out, "--dtype", dtype]);
        (format!("q/{out}"), fs::read(maker.home.path().join(out)).unwrap())
    });
    let server = Server::new([&made[..], &[("config.json".into(), b"{}".to_vec())]].concat());
    let setup = Setup::new(&server.endpoint);
    let logits = |setup: &Setup, model: &str, env: &[(&str, &str)]| {
        let args = ["dump", "logits", "--model", model, "--tokens", &tokens, "--out", "out"];
        let (code, _, stderr) = setup.outcome_with(&args, env);
        assert_eq!(code, 0, "{stderr}");
        fs::read(setup.home.path().join("out")).unwrap()
    };
    let offline = [("HF_HUB_OFFLINE", "1")];
    setup.fails(&["pull", REPO], &["several GGUF files", "q/a.gguf, q/b.gguf"]);
    setup.fails(&["pull", REPO, "c.gguf"], &["no c.gguf", "q/a.gguf, q/b.gguf"]);
    setup.fails(&["pull", REPO, "config.json"], &["config.json", ".gguf"]);
    let document = setup.pull(&[REPO, "q/a.gguf"]);
    assert!(document["path"].as_str().unwrap().ends_with("q/a.gguf") && names(&document) == ["q/a.gguf"]);
    let a = logits(&setup, &format!("{REPO}/q/a.gguf"), &offline);
    // The only one that is here.
    assert_eq!(logits(&setup, REPO, &offline), a);
    assert_ne!(logits(&setup, &format!("{REPO}/q/b.gguf"), &[]), a);
    setup.fails(&["generate", "--model", REPO, "--prompt", "a"], &["q/a.gguf, q/b.gguf"]);
    server.state().files.remove(1);
    assert_eq!(logits(&Setup::new(&server.endpoint), REPO, &[]), a);
}

#[test]
fn a_gguf_model_in_parts_is_fetched_whole() {
    let parts = [1, 2].map(|n| format!("q/m-0000{n}-of-00002.gguf"));
    let server = Server::new(parts.iter().map(|name| (name.clone(), name.clone().into_bytes())).collect());
    for file in [None, Some(parts[1].as_str())] {
        let setup = Setup::new(&server.endpoint);
        let args: Vec<&str> = [REPO].into_iter().chain(file).collect();
        let document = setup.pull(&args);
        assert_eq!(names(&document), parts);
        assert!(document["path"].as_str().unwrap().ends_with(&parts[0]));
    }
    server.state().files.remove(1);
    Setup::new(&server.endpoint).fails(&["pull", REPO], &[&parts[1], "is missing"]);
}

#[test]
fn a_plain_file_server_will_do() {
    let server = Server::new(small_model());
    server.state().plain = true;
    server.state().break_at = Some((WEIGHTS.into(), 1000));
    server.state().breaks = 1;
    let setup = Setup::new(&server.endpoint);
    // Without ranges the transfer starts again.
    let size = content(&server.state().files, WEIGHTS).len();
    assert_eq!(setup.pull(&[REPO])["files"][4]["bytes"], json!(size));
    setup.generates(REPO, &[]);
}

#[test]
fn an_adapter_finds_its_base_on_the_hub() {
    let base = Server::new(files("tests/golden/llama"));
    let setup = Setup::new(&base.endpoint);
    let adapter = setup.home.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    for (name, bytes) in files("tests/golden/lora/all") {
        fs::write(adapter.join(name), bytes).unwrap();
    }
    let path = adapter.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!(REPO);
    fs::write(&path, config.to_string()).unwrap();
    let export = ["export", "--model", "adapter", "--merge", "--out", "merged"];
    setup.fails_with(&export, &[("HF_HUB_OFFLINE", "1")], &["not (wholly) in the cache"]);
    let (code, _, stderr) = setup.outcome(&export);
    assert_eq!(code, 0, "{stderr}");
    assert!(setup.home.path().join("merged").join(WEIGHTS).exists());
}
