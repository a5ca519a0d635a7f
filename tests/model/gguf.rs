//! GGUF out and in again, with the golden models, and every storage type against the `gguf` Python package.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use selfreward::arch::Dtype;
use selfreward::arch::{Arch, NamedTensor, Naming, family};
use selfreward::source::ModelSource;
use selfreward::text::Text;
use selfreward::weights::{Gguf, ModelParts, save_gguf, save_model_parts, write_safetensors};
use serde_json::{Value, json};

/// The golden folders whose family GGUF can express.
const MODELS: [&str; 21] = [
    "llama",
    "tied",
    "qwen3",
    "llama_bias",
    "ministral3",
    "mistral",
    "phi3",
    "phi4_mini",
    "qwen3_2507",
    "gemma2",
    "gemma3",
    "granite",
    "lfm2",
    "qwen3_moe",
    "olmoe",
    "gpt_oss",
    "olmo2",
    "olmo3",
    "smollm3",
    "rope_linear",
    "rope_yarn",
];
/// Those whose configuration it cannot, with a word of the reason.
const REFUSED: [(&str, &str); 9] = [
    ("qwen2", "sliding window"),
    ("ministral", "cannot be written as GGUF"),
    ("qwen3_5", "linear_key_head_dim 6 and linear_value_head_dim 10 differ"),
    ("qwen3_5_tied", "equal distances"),
    ("gemma2", "query_pre_attn_scalar"),
    ("gemma3", "query_pre_attn_scalar"),
    ("smollm3", "block 1 knows no positions"),
    ("rope_dynamic", "dynamic"),
    ("qwen3_moe_some", "blocks differ"),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn parts<'a>(source: &'a ModelSource, tensors: &'a [NamedTensor], dtype: Dtype) -> ModelParts<'a> {
    let generation_config = source.generation_config.as_ref();
    ModelParts { config: &source.config, generation_config, text: source.text.as_ref(), tensors, dtype }
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn every_storage_type_gives_the_bits_of_the_gguf_package() {
    let document: Value = serde_json::from_str(&fs::read_to_string(golden("blocks.json")).unwrap()).unwrap();
    for dtype in Dtype::all() {
        let entry = document["types"].as_array().unwrap().iter().find(|t| t["type"] == dtype.name()).unwrap();
        let mut got = Vec::new();
        dtype.dequantise(&bytes(&entry["bytes"]), &mut got);
        let got: Vec<u8> = got.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(got, bytes(&entry["f32"]), "{dtype}");
    }
}

#[test]
fn blocks_of_32_are_quantised_as_the_gguf_package_does() {
    let document: Value = serde_json::from_str(&fs::read_to_string(golden("blocks.json")).unwrap()).unwrap();
    let mut values = Vec::new();
    Dtype::F32.dequantise(&bytes(&document["f32"]), &mut values);
    for (name, encoded) in document["encoded"].as_object().unwrap() {
        let dtype = Dtype::named(name).unwrap();
        assert_eq!(dtype.encode(&values).unwrap(), bytes(encoded), "{name}");
    }
}

#[test]
fn golden_models_come_back() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    for name in MODELS {
        let mut source = ModelSource::open(&golden(name)).unwrap();
        if name.starts_with("gemma") {
            // The only factor on the queries that such a file can mean.
            source.config["query_pre_attn_scalar"] = source.arch.alike().unwrap().head_dim.into();
            source.arch = family::arch(&source.config).unwrap();
        }
        if name == "smollm3" {
            // In llama.cpp's graph every fourth block knows no positions, and none has a window.
            for key in ["no_rope_layers", "layer_types", "use_sliding_window"] {
                source.config[key] = Value::Null;
            }
            source.arch = family::arch(&source.config).unwrap();
        }
        let tensors = source.tensors_f32().unwrap();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8_0] {
            let notes = save_gguf(&path, &parts(&source, &tensors, dtype)).unwrap();
            // Windows that llama.cpp does not know.
            assert_eq!(
                notes.len(),
                usize::from(["ministral3", "mistral", "phi3"].contains(&name)),
                "{name}: {notes:?}"
            );
            let again = ModelSource::open(&path).unwrap();
            let (mut got_arch, want_arch) = (again.arch.clone(), source.arch.clone());
            for (got, want) in got_arch.ropes.iter().zip(&want_arch.ropes) {
                let pairs = got.inv_freq.iter().zip(&want.inv_freq);
                assert!(pairs.clone().all(|(g, w)| (g - w).abs() <= 1e-6 * w), "{name}: {got:?}");
            }
            assert_eq!(got_arch.ropes.len(), want_arch.ropes.len(), "{name}");
            got_arch.ropes.clone_from(&want_arch.ropes);
            assert_eq!(got_arch, want_arch, "{name} {dtype}");
            assert_eq!(again.stop_ids, source.stop_ids, "{name}");
            for (got, want) in again.tensors_f32().unwrap().iter().zip(&tensors) {
                assert_eq!((&got.name, &got.shape), (&want.name, &want.shape));
                // Routers are stored in f32.
                let matrix = want.shape.len() == 2
                    && ![".gate.weight", ".router.weight"].iter().any(|end| want.name.ends_with(end));
                let rounded: Vec<f32> = match dtype {
                    Dtype::Q8_0 if matrix && want.shape[1] % 32 == 0 => {
                        let mut values = Vec::new();
                        Dtype::Q8_0.dequantise(&Dtype::Q8_0.encode(&want.data).unwrap(), &mut values);
                        values
                    }
                    Dtype::F32 => want.data.clone(),
                    _ if matrix => want.data.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
                    _ => want.data.clone(),
                };
                // Norms that are stored with 1 added lose their last bits.
                let close = |(g, w): (&f32, &f32)| g == w || !matrix && (g - w).abs() <= 2e-7;
                assert!(got.data.iter().zip(&rounded).all(close), "{name} {dtype} {}", got.name);
            }
        }
    }
}

/// What transformers reads where keys stand twice or not at all: those beside the rope parameters go first, and what is
/// missing is the class's own.
#[test]
fn rotations_come_back_wherever_their_keys_stand() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let nested = |original: u32| {
        let mut rope = llama3.clone();
        rope["original_max_position_embeddings"] = original.into();
        rope
    };
    for (name, changes, refused) in [
        ("llama", json!({"rope_parameters": llama3, "original_max_position_embeddings": 16}), None),
        ("llama", json!({"rope_parameters": nested(64), "original_max_position_embeddings": 16}), None),
        ("llama", json!({"rope_parameters": llama3}), None),
        ("llama", json!({"rope_parameters": yarn, "original_max_position_embeddings": 16}), None),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "rope_scaling": yarn}),
            None,
        ),
        ("gpt_oss", json!({"rope_parameters": null, "rope_scaling": null}), None),
        ("ministral3", json!({"rope_parameters": null, "rope_scaling": null}), None),
        ("olmo3", json!({"rope_parameters": null, "rope_theta": 1000.0}), Some("a base of its own")),
        ("olmo3", json!({"rope_parameters": null, "rope_theta": 500_000.0}), None),
        ("llama", json!({"hidden_act": "gelu_pytorch_tanh"}), Some("hidden_act is \"gelu_pytorch_tanh\"")),
        ("gemma2", json!({"hidden_activation": "silu"}), Some("hidden_activation is \"silu\"")),
    ] {
        let mut source = ModelSource::open(&golden(name)).unwrap();
        source.config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        source.arch = family::arch(&source.config).unwrap();
        let tensors = source.tensors_f32().unwrap();
        let saved = save_gguf(&path, &parts(&source, &tensors, Dtype::F32)).map_err(|error| error.to_string());
        if let Some(word) = refused {
            assert!(saved.clone().is_err_and(|error| error.contains(word)), "{name} {changes}: {saved:?}");
            continue;
        }
        saved.unwrap();
        let again = ModelSource::open(&path).unwrap().arch;
        assert_eq!(again.ropes.len(), source.arch.ropes.len(), "{name} {changes}");
        for (got, want) in again.ropes.iter().zip(&source.arch.ropes) {
            let close = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-6 * w;
            assert!(got.inv_freq.iter().zip(&want.inv_freq).all(close), "{name} {changes}: {got:?}, not {want:?}");
            assert!((got.scaling - want.scaling).abs() <= 1e-6, "{name} {changes}: {got:?}, not {want:?}");
        }
    }
}

/// Heads of values, three for each head of keys, stand in another order in the file; of stored blocks too.
#[test]
fn delta_nets_come_back_in_order() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let mut source = ModelSource::open(&golden("qwen3_5")).unwrap();
    for (key, size) in
        [("linear_num_value_heads", 6), ("linear_key_head_dim", 32), ("linear_value_head_dim", 32), ("hidden_size", 64)]
    {
        source.config[key] = size.into();
    }
    source.arch = family::arch(&source.config).unwrap();
    let values =
        |count: usize, seed: usize| (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 64.0 - 0.75).collect();
    let named = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
        let data = values(shape.iter().product(), seed);
        NamedTensor { name, shape, data }
    };
    let tensors: Vec<NamedTensor> = family::parameters(&source.arch).into_iter().enumerate().map(named).collect();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8_0] {
        let notes = save_gguf(&path, &parts(&source, &tensors, dtype)).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let again = ModelSource::open(&path).unwrap();
        assert_eq!((&again.arch.layers, &again.arch.ropes), (&source.arch.layers, &source.arch.ropes));
        for (got, want) in again.tensors_f32().unwrap().iter().zip(&tensors) {
            assert_eq!((&got.name, &got.shape), (&want.name, &want.shape));
            let near = if dtype == Dtype::F32 || want.shape.len() != 2 { 4e-7 } else { 0.01 };
            let close = |(got, want): (&f32, &f32)| (got - want).abs() <= near;
            assert!(got.data.iter().zip(&want.data).all(close), "{dtype} {}", got.name);
        }
    }
}

/// A dense Granite 4.0 is a file of `granite`, which has gate and up apart.
#[test]
fn a_matrix_of_two_is_stored_by_halves() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let source = ModelSource::open(&golden("granite4")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    save_gguf(&path, &parts(&source, &tensors, Dtype::F32)).unwrap();
    let again = ModelSource::open(&path).unwrap();
    let want = Arch { model_type: "granite".into(), naming: Naming::Apart, ..source.arch.clone() };
    assert_eq!(again.arch, want);
    let stored = again.tensors_f32().unwrap();
    let find = |of: &[NamedTensor], name: &str| of.iter().find(|t| t.name == name).unwrap().data.clone();
    for layer in 0..2 {
        let part = |name: &str| find(&stored, &format!("model.layers.{layer}.mlp.{name}_proj.weight"));
        let whole = |name: &str| find(&tensors, &format!("model.layers.{layer}.shared_mlp.{name}_linear.weight"));
        assert_eq!([part("gate"), part("up")].concat(), whole("input"));
        assert_eq!(part("down"), whole("output"));
    }
    let q = "model.layers.1.self_attn.q_proj.weight";
    assert_eq!(find(&stored, q), find(&tensors, q));
}

fn tokenizer(pre_tokenizer: Value, template: impl Into<Value>) -> Text {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "added_tokens": [{"id": 5, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "1": 4}, "merges": [["a", "b"]]}
    });
    let config = json!({"chat_template": template.into(), "eos_token": "<end>"});
    Text::from_json(json.to_string(), config).unwrap()
}

/// As the `gguf` package of Python writes a list of templates: the default one, and keys with the names of the others.
#[test]
fn templates_with_names_go_along() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let mut source = ModelSource::open(&golden("qwen3")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let list = [("default", "a<end>"), ("tool_use", "{{ tools | length }}<end>"), ("rag v2", "b<end>")];
    let entries: Vec<Value> = list.iter().map(|(name, text)| json!({"name": name, "template": text})).collect();
    source.text = Some(tokenizer(gpt2.clone(), entries));
    save_gguf(&path, &parts(&source, &tensors, Dtype::F16)).unwrap();
    let again = ModelSource::open(&path).unwrap();
    let want = [list[0], list[1], ("rag_v2", list[2].1)];
    assert_eq!(again.text().unwrap().chat_templates(), want);
    let one = tokenizer(gpt2, "a<end>");
    assert_eq!(one.chat_templates(), [("default", "a<end>")]);
}

#[test]
fn tokenizers_go_along_or_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let mut source = ModelSource::open(&golden("qwen3")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let template = "{% for m in messages %}{{ m.content }}<end>{% endfor %}";
    let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    source.text = Some(tokenizer(gpt2.clone(), template));
    save_gguf(&path, &parts(&source, &tensors, Dtype::F16)).unwrap();
    let again = ModelSource::open(&path).unwrap();
    let (got, want) = (again.text().unwrap(), source.text().unwrap());
    for text in ["ab", "ba ab11", "a<end>b", ""] {
        assert_eq!(got.encode(text).unwrap(), want.encode(text).unwrap(), "{text}");
    }
    assert_eq!((got.chat_template(), got.eos(), got.end_of_turn()), (Some(template), Some(5), Some(5)));
    assert!(again.warnings.is_empty(), "{:?}", again.warnings);

    // A name that nobody knows is refused with those that are known.
    let mut file = fs::read(&path).unwrap();
    let at = file.windows(5).position(|name| name == b"gpt-2").unwrap();
    file[at..at + 5].copy_from_slice(b"gpt-x");
    fs::write(&path, file).unwrap();
    let error = ModelSource::open(&path).unwrap_err().to_string();
    assert!(error.contains("gpt-x") && error.contains("tekken, gpt-4o"), "{error}");

    source.text = Some(tokenizer(json!({"type": "Whitespace"}), template));
    let error = save_gguf(&path, &parts(&source, &tensors, Dtype::F16)).unwrap_err().to_string();
    assert!(error.contains("pre-tokenizer") && error.contains("gpt-2"), "{error}");
    let mut few = gpt2;
    few["add_prefix_space"] = true.into();
    source.text = Some(tokenizer(few, template));
    assert!(save_gguf(&path, &parts(&source, &tensors, Dtype::F16)).is_err());
}

/// What a post-processor puts around a text, in whichever form tokenizer.json has it.
#[test]
fn tokens_around_a_text_go_along_or_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let mut source = ModelSource::open(&golden("qwen3")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let special = |token: &str, id: u32| json!({token: {"id": token, "ids": [id], "tokens": [token]}});
    let piece = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template = |single: Value, tokens: Value| {
        let kind = "TemplateProcessing";
        json!({"type": kind, "single": single, "pair": single, "special_tokens": tokens})
    };
    let begin = template(json!([piece("b"), text]), special("b", 1));
    let end = template(json!([text, piece("<end>")]), special("<end>", 5));
    let bert = json!({"type": "BertProcessing", "sep": ["<end>", 5], "cls": ["b", 1]});
    let nested = json!({"type": "Sequence", "processors": [gpt2, begin]});
    let twice = template(json!([piece("b"), piece("b"), text]), special("b", 1));
    let named = json!({"eos_token": "<end>", "bos_token": "b"});
    let cases = [
        (Value::Null, named.clone(), Ok((0, 0))),
        (begin.clone(), named.clone(), Ok((1, 0))),
        (begin, json!({"eos_token": "<end>"}), Ok((1, 0))),
        (nested, named.clone(), Ok((1, 0))),
        (end.clone(), named.clone(), Ok((0, 1))),
        (bert.clone(), named.clone(), Ok((1, 1))),
        (bert, json!({"bos_token": "a", "eos_token": "<end>"}), Err("not its bos_token")),
        (end, json!({"eos_token": "b"}), Err("not its eos_token")),
        (twice, named, Err("on one side")),
    ];
    for (processor, config, want) in cases {
        let mut json: Value = serde_json::from_str(tokenizer(gpt2.clone(), "a").tokenizer_json()).unwrap();
        json["post_processor"] = processor.clone();
        source.text = Some(Text::from_json(json.to_string(), config).unwrap());
        let saved = save_gguf(&path, &parts(&source, &tensors, Dtype::F16)).map_err(|error| error.to_string());
        match (saved, want) {
            (Ok(_), Ok((before, behind))) => {
                let (given, again) = (source.text().unwrap(), ModelSource::open(&path).unwrap());
                for words in ["ab", "", "1 a"] {
                    let ids = again.text().unwrap().encode_special(words).unwrap();
                    assert_eq!(ids, given.encode_special(words).unwrap(), "{processor}");
                    assert_eq!(ids.len(), given.encode(words).unwrap().len() + before + behind, "{processor}");
                }
            }
            (Err(error), Err(word)) => assert!(error.contains(word), "{error}"),
            (saved, want) => panic!("{processor}: {saved:?}, expected {want:?}"),
        }
    }
}

/// The golden SentencePiece-style tokenizer with every way to join its pieces, as a vocabulary with scores means it;
/// its own file has only the merges that its trainer found.
fn sentencepiece() -> Value {
    let file = fs::read_to_string(golden("tokenizers/metaspace/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&file).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added: Vec<&str> =
        json["added_tokens"].as_array().unwrap().iter().map(|t| t["content"].as_str().unwrap()).collect();
    let mut pieces: Vec<(&str, u64)> = vocab.iter().map(|(piece, id)| (piece.as_str(), id.as_u64().unwrap())).collect();
    pieces.retain(|(piece, _)| !added.contains(piece) && !piece.starts_with("<0x"));
    pieces.sort_by_key(|(_, id)| *id);
    let mut merges: Vec<[&str; 2]> = Vec::new();
    for (piece, _) in pieces {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let known = cuts.filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right));
        // The longer left part first.
        merges.extend(known.map(|(left, right)| [left, right]).collect::<Vec<_>>().into_iter().rev());
    }
    assert!(merges.len() > 200);
    let merges = json!(merges);
    json["model"]["merges"] = merges;
    json
}

#[test]
fn sentencepiece_tokenizers_go_along_as_scores() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let json = sentencepiece();
    let rows = 600;
    let config = json!({
        "model_type": "llama", "vocab_size": rows, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": true
    });
    let tensors: Vec<NamedTensor> = family::parameters(&family::arch(&config).unwrap())
        .into_iter()
        .map(|(name, shape)| NamedTensor { name, data: vec![0.5; shape.iter().product()], shape })
        .collect();
    let save = |json: &Value, tokenizer_config: Value| -> selfreward::Result<Text> {
        let text = Text::from_json(json.to_string(), tokenizer_config)?;
        let (generation_config, dtype) = (None, Dtype::F32);
        let parts = ModelParts { config: &config, generation_config, text: Some(&text), tensors: &tensors, dtype };
        save_gguf(&path, &parts)?;
        Ok(text)
    };
    let file = fs::read_to_string(golden("tokenizers/metaspace/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&file).unwrap();
    let strings = expected["strings"].as_array().unwrap().iter().map(|s| s["text"].as_str().unwrap());
    let special = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    let mut bare = special.clone();
    bare["tokenizer_class"] = "LlamaTokenizer".into();
    bare["add_prefix_space"] = false.into();
    for (tokenizer_config, prefix) in [(special, true), (bare, false)] {
        let want = save(&json, tokenizer_config).unwrap();
        let again = ModelSource::open(&path).unwrap();
        let got = again.text().unwrap();
        for text in strings.clone() {
            assert_eq!(got.encode(text).unwrap(), want.encode(text).unwrap(), "{text:?}");
        }
        assert_eq!((got.bos(), got.eos()), (Some(1), Some(2)));
        let gguf = Gguf::open(&path).unwrap();
        let key = |key: &str| gguf.get(&format!("tokenizer.ggml.{key}")).unwrap();
        assert_eq!((key("model").as_str(), key("add_space_prefix").as_bool()), (Some("llama"), Some(prefix)));
        // llama.cpp's types: unknown, control, byte, normal, unused.
        let (tokens, types) = (key("tokens").as_array().unwrap(), key("token_type").as_array().unwrap());
        assert_eq!((tokens.len(), types.len(), key("scores").as_array().unwrap().len()), (rows, rows, rows));
        for (token, kind) in [("<unk>", 2), ("</s>", 3), ("[TURN]", 3), ("<0x0A>", 6), ("e", 1), ("[PAD599]", 5)] {
            let id = tokens.iter().position(|t| t.as_str() == Some(token)).unwrap();
            assert_eq!(types[id].as_usize(), Some(kind), "{token}");
        }
    }
    // Merges that no scores mean: those of the trainer.
    let trained = fs::read_to_string(golden("tokenizers/metaspace/tokenizer.json")).unwrap();
    let error = save(&serde_json::from_str(&trained).unwrap(), json!({})).unwrap_err().to_string();
    assert!(error.contains("SentencePiece"), "{error}");
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("model.gguf");
    let mut source = ModelSource::open(&golden("qwen3")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let error = save_gguf(&path, &parts(&source, &tensors, Dtype::Q2K)).unwrap_err().to_string();
    assert!(error.contains("Q5_K, Q6_K, not Q2_K"), "{error}");
    source.config["use_sliding_window"] = true.into();
    source.config["sliding_window"] = 8.into();
    source.config["layer_types"] = vec!["sliding_attention"; source.arch.layers.len()].into();
    let error = save_gguf(&path, &parts(&source, &tensors, Dtype::F16)).unwrap_err().to_string();
    assert!(error.contains("blocks have a sliding window"), "{error}");
    assert!(!path.exists());
    for (name, word) in REFUSED {
        let source = ModelSource::open(&golden(name)).unwrap();
        let tensors = source.tensors_f32().unwrap();
        let error = save_gguf(&path, &parts(&source, &tensors, Dtype::F32)).unwrap_err().to_string();
        assert!(error.contains(word), "{name}: {error}");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

/// The same bytes come out of a folder that was written in the same type, and the other form of the weights goes.
#[test]
fn folders_written_again_are_the_same() {
    let temporary = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&golden("llama")).unwrap();
    let tensors = source.tensors_f32().unwrap();
    let [one, two] = ["one", "two"].map(|name| temporary.path().join(name));
    save_model_parts(&one, &parts(&source, &tensors, Dtype::BF16)).unwrap();
    let again = ModelSource::open(&one).unwrap();
    assert_eq!((again.config["dtype"].as_str(), again.config.get("torch_dtype")), (Some("bfloat16"), None));
    save_model_parts(&two, &parts(&again, &again.tensors_f32().unwrap(), Dtype::BF16)).unwrap();
    let file = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(file(&one), file(&two));
    // A folder that held shards holds one file afterwards.
    write_safetensors(&two.join("model-00001-of-00001.safetensors"), &tensors, Dtype::F32).unwrap();
    fs::write(two.join("model.safetensors.index.json"), "{}").unwrap();
    save_model_parts(&two, &parts(&source, &tensors, Dtype::F32)).unwrap();
    assert!(!two.join("model.safetensors.index.json").exists());
    assert_eq!(ModelSource::open(&two).unwrap().tensors_f32().unwrap(), tensors);
}
