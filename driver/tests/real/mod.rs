//! A real model from its GGUF file against transformers and TRL, through the binary: token ids, conversations, greedy
//! continuations, log-probs, perplexities, judges' scores and the first step of training.

use assert_cmd::cargo::cargo_bin_cmd;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the two best logits lie closer than this, either token is right, and what follows is not compared. A token's
/// log-prob may be off by as much.
const CLOSE: f64 = 1e-3;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("tests/golden/real").join(name)).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|x| x.as_f64().unwrap()).collect()
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[track_caller]
fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got}, expected {want}");
}

/// A model with what is expected of it, and a folder to work in.
pub(crate) struct Real {
    golden: Value,
    inputs: Value,
    pub(crate) model: PathBuf,
    pub(crate) tmp: tempfile::TempDir,
}

impl Real {
    pub(crate) fn new(name: &str) -> Self {
        let golden = read(&format!("{name}.json"));
        let model = root().join("models").join(golden["origin"]["file"].as_str().unwrap());
        assert!(model.exists(), "{} is missing; scripts/fetch-models {name} fetches it", model.display());
        Self { golden, inputs: read("inputs.json"), model, tmp: tempfile::tempdir().unwrap() }
    }

    /// Writes `input` to a file that is named by `flag`, runs the command, gives what it wrote to `--out` and to the
    /// standard output, or its words where it fails.
    fn run(&self, command: &[&str], flag: &str, input: &str, more: &[&str]) -> Result<(PathBuf, Vec<u8>), String> {
        let (file, out) = (self.tmp.path().join("in"), self.tmp.path().join("out"));
        fs::write(&file, input).unwrap();
        let mut program = cargo_bin_cmd!("selfreward");
        program.args(command).arg("--model").arg(&self.model).arg(flag).arg(&file).args(more);
        if command[0] != "eval" {
            program.arg("--out").arg(&out);
        }
        let ended = program.output().unwrap();
        if ended.status.success() {
            Ok((out, ended.stdout))
        } else {
            Err(String::from_utf8_lossy(&ended.stderr).into())
        }
    }

    fn dump(&self, kind: &str, flag: &str, input: &Value, more: &[&str]) -> Vec<u8> {
        let (out, _) = self.run(&["dump", kind], flag, &input.to_string(), more).unwrap();
        fs::read(out).unwrap()
    }

    fn dump_json(&self, kind: &str, flag: &str, input: &Value, more: &[&str]) -> Value {
        serde_json::from_slice(&self.dump(kind, flag, input, more)).unwrap()
    }

    pub(crate) fn token_ids_of_strings(&self) {
        let strings = &self.inputs["strings"];
        assert!(list(strings).len() >= 200);
        let around = list(&self.golden["special"]);
        for (more, before) in [(&[][..], &[][..]), (&["--special"], around)] {
            let got = self.dump_json("tokens", "--text", strings, more);
            assert_eq!(list(&got).len(), list(strings).len());
            for ((got, want), text) in list(&got).iter().zip(list(&self.golden["strings"])).zip(list(strings)) {
                // Blanks beside a ▁ that was written are joined by transformers, but not by llama.cpp.
                if text != " ▁ " {
                    assert_eq!(list(got), [before, list(want)].concat(), "{text}");
                }
            }
        }
    }

    /// A conversation that transformers' template refuses is refused here too.
    pub(crate) fn conversations(&self) {
        let (mut taken, mut ids) = (Vec::new(), Vec::new());
        for (chat, want) in list(&self.inputs["chats"]).iter().zip(list(&self.golden["chats"])) {
            match want {
                Value::Null => {
                    let run = self.run(&["dump", "tokens"], "--text", &json!([chat]).to_string(), &[]);
                    assert!(run.is_err(), "taken, but the template fails: {chat}");
                }
                want => {
                    taken.push(chat);
                    ids.push(want);
                }
            }
        }
        assert!(taken.len() >= 24);
        let got = self.dump_json("tokens", "--text", &json!(taken), &[]);
        for ((got, want), chat) in list(&got).iter().zip(ids).zip(taken) {
            assert_eq!(got, want, "{chat}");
        }
    }

    pub(crate) fn greedy_continuations(&self) {
        let cases = list(&self.golden["continuations"]);
        let prompts: Vec<&Value> = cases.iter().map(|c| &c["prompt_ids"]).collect();
        let n = self.golden["max_new_tokens"].to_string();
        let got = self.dump_json("generate", "--tokens", &json!(prompts), &["--max-new-tokens", &n]);
        for (got, case) in list(&got).iter().zip(cases) {
            for (i, (want, gap)) in list(&case["greedy"]).iter().zip(numbers(&case["gaps"])).enumerate() {
                if got.get(i) != Some(want) {
                    let (text, got) = (&case["text"], got.get(i));
                    assert!(gap <= CLOSE, "{text}: token {i} is {got:?}, expected {want} (gap {gap})");
                    break;
                }
            }
        }
    }

    /// Up to a thousand tokens of text, code and other scripts.
    pub(crate) fn log_probs(&self) {
        let bytes = self.dump("logps", "--tokens", &json!([self.golden["text_ids"]]), &[]);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let got = floats(&tensors, "logps.0");
        let want = numbers(&self.golden["text_logps"]);
        assert!(want.len() > 500 && got.len() == want.len(), "{} log-probs", got.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            near(*got, *want, CLOSE, &format!("token {}", i + 1));
        }
    }

    pub(crate) fn perplexity_of_a_page(&self) {
        let page = fs::read_to_string(root().join("tests/golden/real/page.txt")).unwrap();
        let record = lines(&[json!({"text": page})]);
        for case in list(&self.golden["perplexity"]) {
            let (window, stride) = (case["window"].to_string(), case["stride"].to_string());
            let more = ["--task", "perplexity", "--json", "--window", &window, "--stride", &stride];
            let (_, printed) = self.run(&["eval"], "--data", &record, &more).unwrap();
            let got: Value = serde_json::from_slice(&printed).unwrap();
            for count in ["tokens", "windows"] {
                assert_eq!(got[0][count], case[count], "{count} with windows of {window}");
            }
            let nll = |of: &Value| of["nll"].as_f64().unwrap();
            near(nll(&got[0]), nll(case), 5e-5, &format!("nll with windows of {window}"));
        }
    }

    pub(crate) fn judges(&self) {
        let asked = list(&self.inputs["judged"]);
        let (out, _) = self.run(&["judge"], "--responses", &lines(asked), &["--mode", "yes,expected"]).unwrap();
        let written = fs::read_to_string(out).unwrap();
        assert_eq!(written.lines().count(), asked.len());
        for (i, line) in written.lines().enumerate() {
            let scored: Value = serde_json::from_str(line).unwrap();
            for mode in ["yes", "expected"] {
                let want = self.golden[mode][i].as_f64().unwrap();
                let got = scored["verdicts"][mode]["score"].as_f64().unwrap();
                near(got, want, 1e-3, &format!("{mode} of {}", scored["response"]));
            }
        }
    }

    /// Loss and gradients of one batch whose reference is the model itself.
    pub(crate) fn first_steps(&self) {
        for kind in ["sft", "dpo"] {
            let want = &self.golden[kind];
            let (out, _) = self.run(&["dump", kind], "--data", &lines(list(&want["records"])), &[]).unwrap();
            let got: Value = serde_json::from_slice(&fs::read(out.join("metrics.json")).unwrap()).unwrap();
            near(got["loss"].as_f64().unwrap(), want["loss"].as_f64().unwrap(), 1e-4, &format!("{kind}: loss"));
            for side in ["logps_chosen", "logps_rejected"].iter().filter(|_| kind == "dpo") {
                for (got, want) in numbers(&got[side]).iter().zip(numbers(&want[side])) {
                    near(*got, want, CLOSE, side);
                }
            }
            let bytes = fs::read(out.join("grads.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let square = |name: &str| floats(&tensors, name).iter().map(|x| x * x).sum::<f64>();
            let norms = want["grad_norms"].as_object().unwrap();
            for (name, want) in norms {
                let want = want.as_f64().unwrap();
                near(square(name).sqrt(), want, 1e-3 * want, &format!("{kind}: gradient of {name}"));
            }
            let whole = tensors.names().iter().map(|name| square(name)).sum::<f64>().sqrt();
            let want = want["grad_norm"].as_f64().unwrap();
            near(whole, want, 1e-3 * want, &format!("{kind}: gradient"));
            fs::remove_dir_all(out).unwrap();
        }
    }
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
}

/// The tests of a model by their names.
#[macro_export]
macro_rules! real {
    ($model:literal: $($test:ident),+) => {
        $(#[test]
        fn $test() {
            $crate::real::Real::new($model).$test();
        })+
    };
}
