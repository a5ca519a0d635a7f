//! Model files from outside: what is written comes back, and broken or lying files give errors that name the place.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use std::fs;
use std::path::Path;

use super::gguf_file::{GgufFile, config, tensors, truth};
use proptest::prelude::*;
use selfreward::Error;
use selfreward::arch::Dtype;
use selfreward::arch::{NamedTensor, family};
use selfreward::source::{ModelSource, SOURCE_FILE, save_model};
use selfreward::text::{Message, Text};
use selfreward::weights::{ModelParts, save_model_parts, write_safetensors};
use serde_json::{Value, json};

fn tokenizer() -> Text {
    let vocab = json!({"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<end>": 4});
    let added = json!([{"id": 4, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}]);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": [["a", "b"]]}
    });
    let template = "{% for m in messages %}{{ m.content }}<end>{% endfor %}";
    Text::from_json(json.to_string(), json!({"chat_template": template})).unwrap()
}

fn save(folder: &Path, config: &Value, tensors: &[NamedTensor]) -> selfreward::Result<()> {
    let text = tokenizer();
    let generation_config = json!({"eos_token_id": [5, 5, 6]});
    let (generation_config, text) = (Some(&generation_config), Some(&text));
    save_model_parts(folder, &ModelParts { config, generation_config, text, tensors, dtype: Dtype::F32 })
}

fn error(path: &Path) -> String {
    match ModelSource::open(path).and_then(|source| source.tensors_f32()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{} was accepted", path.display()),
    }
}

#[test]
fn a_saved_model_comes_back() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    let tensors = tensors(&config());
    save(&folder, &config(), &tensors).unwrap();
    let source = ModelSource::open(&folder).unwrap();
    assert_eq!(source.tensors_f32().unwrap(), tensors);
    assert_eq!(source.stop_ids, [5, 6, 4], "generation_config's, then the template's");
    assert_eq!(source.config["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(source.config["dtype"], "float32");
    assert_eq!(source.text().unwrap().encode("ab<end>a").unwrap(), [3, 4, 1]);
    assert!(source.warnings.is_empty(), "{:?}", source.warnings);

    // Again into the same folder: the model is replaced, other files stay, nothing temporary is left.
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    let mut changed = tensors;
    changed[0].data[0] = -1.0;
    save_model(&folder, &source, &changed, Dtype::F32).unwrap();
    assert_eq!(ModelSource::open(&folder).unwrap().tensors_f32().unwrap(), changed);
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
}

#[test]
fn tensors_that_do_not_fit_are_not_saved() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    let good = tensors(&config());
    let mut short = good.clone();
    short.pop();
    assert!(save(&folder, &config(), &short).unwrap_err().to_string().contains("model.norm.weight [32] is missing"));
    let mut surplus = good.clone();
    surplus.push(NamedTensor { name: "x".into(), shape: vec![1], data: vec![0.0] });
    assert!(save(&folder, &config(), &surplus).unwrap_err().to_string().contains("tensor x does not belong"));
    let mut wrong = good;
    wrong[0].shape = vec![32, 11];
    let message = save(&folder, &config(), &wrong).unwrap_err().to_string();
    assert!(message.contains("[32, 11]") && message.contains("[11, 32]"), "{message}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_config_that_disagrees_is_named_with_both_shapes() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    save(&folder, &config(), &tensors(&config())).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        error(&folder)
    };
    let message = with("vocab_size", json!(12));
    assert!(
        message.contains("model.embed_tokens.weight has shape [11, 32]") && message.contains("[12, 32]"),
        "{message}"
    );
    assert!(with("num_hidden_layers", json!(2)).contains("model.layers.1.self_attn.q_proj.weight [32, 32]"));
    assert!(with("tie_word_embeddings", json!(false)).contains("lm_head.weight [11, 32]"));
    assert!(with("model_type", json!("mamba")).contains("known are gemma2, gemma3_text, gpt_oss, granite, "));
    assert!(with("hidden_act", json!("gelu")).contains("hidden_act"));
    fs::write(folder.join("config.json"), "{").unwrap();
    assert!(error(&folder).contains("config.json: is not JSON"));
}

#[test]
fn surplus_tensors() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    save(&folder, &config(), &tensors(&config())).unwrap();
    let file = folder.join("model.safetensors");
    let extra = |name: &str| {
        let mut list = tensors(&config());
        list.push(NamedTensor { name: name.into(), shape: vec![1], data: vec![0.0] });
        write_safetensors(&file, &list, Dtype::BF16).unwrap();
    };
    extra("lm_head.weight");
    assert!(error(&folder).contains("lm_head.weight has shape [1]"));
    extra("vision.weight");
    assert!(ModelSource::open(&folder).unwrap().warnings[0].contains("vision.weight"));
    extra("model.layers.0.self_attn.q_proj.bias");
    assert!(error(&folder).contains("q_proj.bias has no place"));
}

/// As transformers 5.24 reads a folder whose configuration ties input and output.
#[test]
fn tied_folders_mean_what_their_tensors_say() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    save(&folder, &config(), &tensors(&config())).unwrap();
    let want = ModelSource::open(&folder).unwrap().tensors_f32().unwrap();
    let open = |list: &[NamedTensor]| {
        write_safetensors(&folder.join("model.safetensors"), list, Dtype::F32).unwrap();
        ModelSource::open(&folder).unwrap()
    };
    let head = |data: Vec<f32>| NamedTensor { name: "lm_head.weight".into(), shape: want[0].shape.clone(), data };
    // A copy of the embedding says nothing new.
    let mut list = want.clone();
    list.push(head(want[0].data.clone()));
    let source = open(&list);
    assert!(source.arch.tie_word_embeddings && source.warnings.is_empty(), "{:?}", source.warnings);
    assert_eq!(source.tensors_f32().unwrap(), want);
    // Nor does it alone.
    let source = open(&list[1..]);
    assert!(source.arch.tie_word_embeddings && source.warnings.is_empty(), "{:?}", source.warnings);
    assert_eq!(source.tensors_f32().unwrap(), want);
    // A model that was saved without its head has no name in front of its tensors'.
    let mut bare = want.clone();
    bare.iter_mut().for_each(|tensor| tensor.name = tensor.name.trim_start_matches("model.").into());
    assert_eq!(open(&bare).tensors_f32().unwrap(), want);
    // Another head is a head of its own, here and in what is saved.
    list.pop();
    list.push(head(want[0].data.iter().map(|w| 1.0 - w).collect()));
    let source = open(&list);
    assert!(!source.arch.tie_word_embeddings);
    assert_eq!(source.warnings.len(), 1);
    assert!(
        source.warnings[0].contains("model.embed_tokens.weight and lm_head.weight differ"),
        "{:?}",
        source.warnings
    );
    let sorted = |mut list: Vec<NamedTensor>| {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    };
    let got = source.tensors_f32().unwrap();
    assert_eq!(sorted(got.clone()), sorted(list));
    save_model(&folder, &source, &got, Dtype::F32).unwrap();
    let again = ModelSource::open(&folder).unwrap();
    assert!(!again.arch.tie_word_embeddings && again.warnings.is_empty(), "{:?}", again.warnings);
    assert_eq!(again.tensors_f32().unwrap(), got);
}

#[test]
fn values_that_are_no_numbers_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("model");
    for value in [f32::NAN, f32::NEG_INFINITY, -1e30] {
        let mut list = tensors(&config());
        list[3].data[7] = value;
        save(&folder, &config(), &list).unwrap();
        let message = error(&folder);
        assert!(message.contains(&format!("tensor {}: value 7", list[3].name)), "{message}");
        assert!(message.contains("model.safetensors"), "{message}");
    }
}

#[test]
fn a_run_folder_means_its_newest_finished_model() {
    let temporary = tempfile::tempdir().unwrap();
    let (run, given) = (temporary.path().join("run"), temporary.path().join("given"));
    save(&given, &config(), &tensors(&config())).unwrap();
    fs::create_dir_all(run.join("M0")).unwrap();
    assert!(error(&run).contains("no finished model"));
    fs::write(run.join("M0").join(SOURCE_FILE), json!({"path": "../../given"}).to_string()).unwrap();
    assert!(ModelSource::open(&run).unwrap().path.ends_with("given"));
    save(&run.join("M9"), &config(), &tensors(&config())).unwrap();
    save(&run.join("M10"), &config(), &tensors(&config())).unwrap();
    fs::create_dir_all(run.join("M11")).unwrap();
    fs::write(run.join("M11/config.json"), config().to_string()).unwrap();
    assert!(ModelSource::open(&run).unwrap().path.ends_with("M10"));
    fs::write(run.join("M0").join(SOURCE_FILE), json!({"path": "."}).to_string()).unwrap();
    assert!(error(&run.join("M0")).contains("without end"));
    fs::write(run.join("M0").join(SOURCE_FILE), "{}").unwrap();
    assert!(error(&run.join("M0")).contains("expected {\"path\""));
    assert!(error(&temporary.path().join("nothing")).contains("does not exist"));
}

#[test]
fn gguf_appears_under_hugging_faces_names_and_row_order() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("tiny.gguf");
    fs::write(&path, GgufFile::tiny().bytes(truth)).unwrap();
    let source = ModelSource::open(&path).unwrap();
    let got = source.tensors_f32().unwrap();
    for (got, want) in got.iter().zip(tensors(&config())) {
        if want.name.contains("down_proj") {
            let byte = |v: &f32| f32::from((v * 64.0) as i64 as u8 as i8);
            assert_eq!(got.data, want.data.iter().map(byte).collect::<Vec<_>>());
        } else {
            assert_eq!(*got, want);
        }
    }
    let want = family::arch(&config()).unwrap();
    assert_eq!(source.arch, want);
    assert_eq!(source.stop_ids, [4]);
    assert_eq!(source.text().unwrap().encode("ab 11").unwrap(), [2, 3, 4, 4]);
    // As a Hugging Face folder it is the same model.
    let folder = temporary.path().join("folder");
    save_model(&folder, &source, &got, Dtype::F32).unwrap();
    let exported = ModelSource::open(&folder).unwrap();
    assert_eq!((exported.tensors_f32().unwrap(), exported.arch, exported.stop_ids), (got, want, vec![4]));
}

#[test]
fn a_lying_gguf_is_an_error_that_names_the_tensor() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("tiny.gguf");
    let with = |bytes: Vec<u8>| {
        fs::write(&path, bytes).unwrap();
        error(&path)
    };
    let file = GgufFile::tiny();
    for (offset, word) in [(u64::MAX, "ends beyond"), (1 << 20, "ends beyond"), (0, "overlap"), (8, "alignment")] {
        let message = with(file.bytes(|i, true_offset| if i == 3 { offset } else { true_offset }));
        assert!(message.contains(word) && message.contains("blk.0.attn_v.weight"), "{message}");
        assert!(message.contains("tiny.gguf"), "{message}");
    }
    let change = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = GgufFile::tiny();
        change(&mut file);
        with(file.bytes(truth))
    };
    assert!(change(&|f| f.tensors[0].1 = vec![1 << 40, 1 << 40]).contains("token_embd.weight: shape"));
    assert!(change(&|f| f.tensors[0].2 = 16).contains("stored as IQ2_XXS"));
    assert!(change(&|f| f.tensors[0].2 = 99).contains("stored as the unknown GGML type 99"));
    assert!(change(&|f| f.tensors[0].0 = "blk.0.attn_v.weight".into()).contains("there twice"));
    assert!(change(&|f| f.tensors[1].1 = vec![32, 30]).contains("attn_q.weight: 30 rows cannot be split"));
    let unknown = change(&|f| f.string("general.architecture", "gpt2"));
    assert!(
        unknown.contains("known in GGUF files are gemma2, gemma3, gpt-oss, granite, lfm2, llama, mistral3, olmo2, "),
        "{unknown}"
    );
    let near = change(&|f| f.string("general.architecture", "qwen35moe"));
    assert!(near.contains("is \"qwen35moe\"; the nearest that is read is \"qwen35\"; known in GGUF"), "{near}");
    assert!(change(&|f| f.string("tokenizer.ggml.pre", "other")).contains("known are gpt-2"));
    assert!(change(&|f| f.strings("tokenizer.ggml.merges", &["ab"])).contains("merges"));
    assert!(change(&|f| f.entry("x", 9, &[4, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 127])).contains("x claims"));
    assert!(change(&|f| f.entry("x", 77, &[])).contains("unknown value type 77"));
    assert!(with(b"GGUF\x01\0\0\0".to_vec()).contains("version 1"));
    assert!(with(b"GGUF\0\0\0\x03".to_vec()).contains("big-endian"));
    assert!(with(b"GGML....".to_vec()).contains("is not a GGUF file"));
}

/// Errors are fine, panics are not; what is accepted must be readable.
fn survives(path: &Path) {
    let all = |source: ModelSource| {
        if let Some(text) = &source.text {
            let ids = text.encode("ab, 1 <end> a\u{301}🦀")?;
            text.decode(&ids)?;
            text.render_chat(&[Message::new("user", "a")], true)?;
        }
        source.tensors_f32()
    };
    match ModelSource::open(path).and_then(all) {
        Ok(tensors) => assert!(!tensors.is_empty()),
        Err(Error::File { what, .. }) => assert!(!what.is_empty()),
        Err(other) => assert!(!other.to_string().is_empty()),
    }
}

fn damage(bytes: &mut [u8], changes: &[(prop::sample::Index, u8)]) {
    for (at, value) in changes {
        bytes[at.index(bytes.len())] = *value;
    }
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    let value = prop_oneof![Just(0u8), Just(255), Just(127), any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), value), 1..6)
}

/// JSON pointers to every value of a document.
fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, v)| pointers(v, format!("{at}/{key}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| pointers(v, format!("{at}/{i}"), out)),
        _ => {}
    }
    out.push(at);
}

/// Values that do not belong where they will be put, and parts of tokenizers that nobody asked for.
fn strange() -> impl Strategy<Value = Value> {
    let list = json!([
        null, true, -1, 0, 4294967295u64, 1.5, "", "x", "<end>", [], {}, [["a", "b"], ["ab", "a"]], {"a": 0, "b": 0},
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "xx"},
        {"type": "Strip", "content": " ", "start": 9, "stop": 9},
        {"type": "Split", "pattern": {"Regex": "(a|ab)*c"}, "behavior": "Removed", "invert": true},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "NFKD"}, {"type": "Lowercase"},
        {"type": "Metaspace", "replacement": "▁", "split": true},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}]},
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": "b"},
        {"type": "Unigram", "unk_id": 7, "vocab": [["a", -1.0]]},
        {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]]},
        {"type": "WordPiece", "unk_token": "x", "vocab": {"a": 0}},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ]);
    prop::sample::select(list.as_array().cloned().unwrap_or_default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf_heads_never_panic(changes in changes()) {
        let file = GgufFile::tiny();
        let mut bytes = file.bytes(truth);
        let data: usize = file.tensors.iter().map(|tensor| tensor.3.len()).sum();
        let head = bytes.len() - data;
        damage(&mut bytes[..head], &changes);
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("tiny.gguf");
        fs::write(&path, bytes).unwrap();
        survives(&path);
    }

    #[test]
    fn truncated_gguf_is_always_an_error(cut in any::<prop::sample::Index>()) {
        let bytes = GgufFile::tiny().bytes(truth);
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("tiny.gguf");
        fs::write(&path, &bytes[..cut.index(bytes.len())]).unwrap();
        prop_assert!(error(&path).contains("tiny.gguf"));
    }

    #[test]
    fn strange_tokenizers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), strange()), 1..3),
    ) {
        let text = tokenizer();
        let mut json: Value = serde_json::from_str(text.tokenizer_json()).unwrap();
        for (at, value) in changes {
            let mut paths = Vec::new();
            pointers(&json, String::new(), &mut paths);
            *json.pointer_mut(&paths[at.index(paths.len())]).unwrap() = value;
        }
        if let Ok(text) = Text::from_json(json.to_string(), text.tokenizer_config().clone())
            && let Ok(ids) = text.encode("ab, 1 <end> a\u{301}🦀")
        {
            let _ = text.decode(&ids);
        }
    }

    #[test]
    fn damaged_folders_never_panic(
        which in 0..4usize,
        cut in any::<prop::sample::Index>(),
        truncate: bool,
        changes in changes(),
    ) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("model");
        save(&folder, &config(), &tensors(&config())).unwrap();
        let name = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"][which];
        let mut bytes = fs::read(folder.join(name)).unwrap();
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        } else {
            let head = bytes.len().min(2500);
            damage(&mut bytes[..head], &changes);
        }
        fs::write(folder.join(name), bytes).unwrap();
        survives(&folder);
    }
}
