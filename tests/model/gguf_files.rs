//! GGUF files as people have them: in parts, with ends of answers under many names, with tokens that swallow blanks or
//! hold them. What llama.cpp's source says is expected.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests fail by panicking, as the tests do")]

use std::fs;
use std::path::Path;

use selfreward::arch::Dtype;
use selfreward::source::ModelSource;
use selfreward::text::Text;
use selfreward::weights::{ModelParts, save_gguf, save_model_parts};
use serde_json::{Value, json};

use super::gguf_file::{GgufFile, tensors, truth};

/// The model with other tokens: as many rows as there are.
fn with_tokens(model: &str, name: &str, tokens: &[&str], types: &[i32]) -> GgufFile {
    let config = json!({
        "model_type": "llama", "vocab_size": tokens.len(), "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "tie_word_embeddings": true
    });
    let mut file = GgufFile::of(&tensors(&config));
    file.string("general.name", name);
    file.string("tokenizer.ggml.model", model);
    file.strings("tokenizer.ggml.tokens", tokens);
    file.list("tokenizer.ggml.token_type", 5, types);
    match model {
        "llama" => {
            let scores: Vec<i32> = (0..tokens.len() as i32).map(|id| (-(id as f32)).to_bits().cast_signed()).collect();
            file.list("tokenizer.ggml.scores", 6, &scores);
            file.entry("tokenizer.ggml.unknown_token_id", 4, &0u32.to_le_bytes());
        }
        _ => {
            file.string("tokenizer.ggml.pre", "gpt-2");
            file.strings("tokenizer.ggml.merges", &["h i"]);
        }
    }
    file
}

fn open(path: &Path, file: &GgufFile) -> ModelSource {
    fs::write(path, file.bytes(truth)).unwrap();
    ModelSource::open(path).unwrap()
}

fn export(source: &ModelSource, path: &Path) -> selfreward::Result<ModelSource> {
    let tensors = source.tensors_f32().unwrap();
    let generation_config = source.generation_config.as_ref();
    let (config, text) = (&source.config, source.text.as_ref());
    let parts = ModelParts { config, generation_config, text, tensors: &tensors, dtype: Dtype::F32 };
    match path.extension() {
        Some(_) => save_gguf(path, &parts).map(drop)?,
        None => save_model_parts(path, &parts)?,
    }
    ModelSource::open(path)
}

/// As llama.cpp does: old files are read, in a way that may not be theirs.
#[test]
fn a_file_that_does_not_say_how_text_is_cut_is_read_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = with_tokens("gpt2", "m", &["h", "i", "Ġ", "!", "Ġ!", "hi"], &[1; 6]);
    file.strings("tokenizer.ggml.merges", &["Ġ !", "h i"]);
    let named = open(&folder.path().join("named.gguf"), &file);
    let key = b"tokenizer.ggml.pre";
    let at = file.head.windows(key.len()).position(|bytes| bytes == key).unwrap();
    file.head[at + key.len() - 1] = b'_';
    let unnamed = open(&folder.path().join("unnamed.gguf"), &file);
    file.string("tokenizer.ggml.pre", "default");
    let default = open(&folder.path().join("default.gguf"), &file);
    let ids = |source: &ModelSource| source.text().unwrap().encode("hi !").unwrap();
    assert_eq!((ids(&named), ids(&default), ids(&unnamed)), (vec![5, 4], vec![5, 2, 3], vec![5, 2, 3]));
    assert!(named.warnings.is_empty() && default.warnings.is_empty());
    assert!(unnamed.warnings[0].contains("unnamed.gguf: tokenizer.ggml.pre is missing"), "{:?}", unnamed.warnings);
}

#[test]
fn a_file_in_parts_is_opened_by_any_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let whole = GgufFile::tiny();
    let single = folder.path().join("whole.gguf");
    fs::write(&single, whole.bytes(truth)).unwrap();
    let want = ModelSource::open(&single).unwrap().tensors_f32().unwrap();
    let count = whole.tensors.len();
    let write = |number: u16, named: &str, of: u16, tensors: std::ops::Range<usize>| {
        let empty = GgufFile { head: Vec::new(), entries: 0, tensors: Vec::new() };
        let mut part = if number == 0 { GgufFile::tiny() } else { empty };
        part.tensors = whole.tensors[tensors].to_vec();
        part.entry("split.no", 2, &number.to_le_bytes());
        part.entry("split.count", 2, &of.to_le_bytes());
        part.entry("split.tensors.count", 5, &(count as i32).to_le_bytes());
        fs::write(folder.path().join(named), part.bytes(truth)).unwrap();
    };
    let names = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    write(0, names[0], 3, 0..3);
    write(1, names[1], 3, 3..7);
    write(2, names[2], 3, 7..count);
    for name in names {
        let source = ModelSource::open(&folder.path().join(name)).unwrap();
        assert_eq!(source.tensors_f32().unwrap(), want, "{name}");
        assert_eq!(source.text().unwrap().encode("ab 11").unwrap(), [2, 3, 4, 4]);
    }
    let first = folder.path().join(names[0]);
    let error = |path: &Path| ModelSource::open(path).unwrap_err().to_string();
    write(2, names[2], 3, 8..count);
    assert!(error(&first).contains(&format!("hold {} tensors, not the {count}", count - 1)), "{}", error(&first));
    write(2, names[2], 4, 7..count);
    assert!(error(&first).contains("says that it is part 3 of 4"), "{}", error(&first));
    write(1, names[2], 3, 7..count);
    assert!(error(&first).contains("00003-of-00003.gguf") && error(&first).contains("it is part 2 of 3"));
    fs::remove_file(folder.path().join(names[1])).unwrap();
    assert!(error(&first).contains("m-00002-of-00003.gguf") && error(&first).contains("is missing: part 2 of 3"));
    fs::rename(&first, folder.path().join("m.gguf")).unwrap();
    assert!(error(&folder.path().join("m.gguf")).contains("does not end in -NNNNN-of-00003.gguf"));
}

/// The cases of llama.cpp's list: a key of its own, a name beside eos, a name whose type is that of a word.
#[test]
fn every_end_of_an_answer_stops_and_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let tokens = ["h", "i", "hi", "<|endoftext|>", "<|im_end|>", "<x>", "<|eom_id|>", "<think>", "[PAD8]"];
    let id = |file: &mut GgufFile, key: &str, id: u32| {
        file.entry(&format!("tokenizer.ggml.{key}_token_id"), 4, &id.to_le_bytes());
    };
    let mut file = with_tokens("gpt2", "m", &tokens, &[1, 1, 1, 3, 4, 3, 1, 4, 5]);
    id(&mut file, "eos", 3);
    id(&mut file, "eot", 5);
    let source = open(&path, &file);
    assert_eq!(source.stop_ids, [3, 5, 4, 6]);
    let text = source.text().unwrap();
    assert_eq!(text.encode("hi<|im_end|><|eom_id|>").unwrap(), [2, 4, 6]);
    assert_eq!(text.decode(&[2, 7, 3, 4, 5, 6]).unwrap(), "hi<think>");
    // A folder says the same, in words that transformers reads, and so does a file made of it.
    let exported = export(&source, &folder.path().join("out")).unwrap();
    assert_eq!(exported.generation_config.as_ref().unwrap()["eos_token_id"], json!([3, 5, 4, 6]));
    assert_eq!(exported.stop_ids, [3, 5, 4, 6]);
    let mut again = export(&exported, &folder.path().join("again.gguf")).unwrap().stop_ids;
    again.sort_unstable();
    assert_eq!(again, [3, 4, 5, 6]);
    // A folder that lists its ends means those alone; one that lists none means all that are known.
    let config = folder.path().join("out/generation_config.json");
    fs::write(&config, json!({"eos_token_id": 3}).to_string()).unwrap();
    assert_eq!(ModelSource::open(&folder.path().join("out")).unwrap().stop_ids, [3]);
    fs::remove_file(&config).unwrap();
    let mut ids = ModelSource::open(&folder.path().join("out")).unwrap().stop_ids;
    ids.sort_unstable();
    assert_eq!(ids, [3, 4, 6]);
    // What people write is a word, as Qwen's `</s>`, unless the file ends answers with it; it goes out as one too.
    let mut file = with_tokens(
        "gpt2",
        "m",
        &["h", "i", "hi", "<", "/", "s", ">", "</s>", "<|im_end|>"],
        &[1, 1, 1, 1, 1, 1, 1, 1, 3],
    );
    id(&mut file, "eos", 8);
    let word = open(&path, &file);
    assert_eq!(word.text().unwrap().encode("</s><|im_end|>").unwrap(), [3, 4, 5, 6, 8]);
    let word = export(&word, &folder.path().join("word.gguf")).unwrap();
    assert_eq!(word.text().unwrap().encode("</s>").unwrap(), [3, 4, 5, 6]);
    id(&mut file, "eos", 7);
    assert_eq!(open(&path, &file).text().unwrap().encode("</s>").unwrap(), [7]);
    // One end of the template that is of the type of a word.
    let mut file = with_tokens("gpt2", "m", &tokens, &[1, 1, 1, 3, 4, 3, 1, 4, 5]);
    file.string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}");
    assert_eq!(open(&path, &file).text().unwrap().end_of_turn(), Some(4));
}

/// SentencePiece tokens: `<unk>`, `<s>`, `</s>`, bytes, pieces, and `added` with their types.
fn pieces<'a>(bytes: &'a [String], added: &[(&'a str, i32)]) -> (Vec<&'a str>, Vec<i32>) {
    let mut tokens = vec!["<unk>", "<s>", "</s>"];
    let mut types = vec![2, 3, 3];
    tokens.extend(bytes.iter().map(String::as_str));
    types.extend(vec![6; bytes.len()]);
    for piece in ["▁▁", "▁▁▁▁", "he", "ll", "hell", "hello", "▁hello", "▁", "h", "e", "l", "o", "a", "b", "<", "|", ">"]
    {
        tokens.push(piece);
        types.push(1);
    }
    for (token, kind) in added {
        tokens.push(token);
        types.push(*kind);
    }
    (tokens, types)
}

fn bytes() -> Vec<String> {
    (0..=255).map(|b| format!("<0x{b:02X}>")).collect()
}

#[test]
fn phi_3s_tokens_swallow_the_blanks_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bytes();
    let (tokens, types) =
        pieces(&bytes, &[("<|endoftext|>", 3), ("<|assistant|>", 3), ("<|end|>", 3), ("<|user|>", 3)]);
    let strings = ["<|user|>\nhello<|end|>\n<|assistant|>\n", "<s> a</s> \n b", "<|endoftext|> a", "a <|end|>  b"];
    let ids = |text: &Text| strings.map(|s| text.encode(s).unwrap());
    let plain = open(&folder.path().join("m.gguf"), &with_tokens("llama", "m", &tokens, &types));
    // As Microsoft's tokenizer.json has it.
    let mut json: Value = serde_json::from_str(plain.text().unwrap().tokenizer_json()).unwrap();
    for token in json["added_tokens"].as_array_mut().unwrap() {
        let content = token["content"].as_str().unwrap();
        token["rstrip"] = (!["<unk>", "<s>", "<|endoftext|>"].contains(&content)).into();
    }
    let folder_text = Text::from_json(json.to_string(), json!({})).unwrap();
    let want = ids(&folder_text);
    for name in ["Phi 3 mini phi3", "Phi-3-mini-4k", "PHI3"] {
        let source = open(&folder.path().join("p.gguf"), &with_tokens("llama", name, &tokens, &types));
        assert_eq!(ids(source.text().unwrap()), want, "{name}");
        // Out and in again, by a name that says it.
        let again = export(&source, &folder.path().join("again.gguf")).unwrap();
        assert_eq!(ids(again.text().unwrap()), want);
    }
    assert_ne!(ids(plain.text().unwrap()), want);
    let again = export(&plain, &folder.path().join("again.gguf")).unwrap();
    assert_eq!(ids(again.text().unwrap()), ids(plain.text().unwrap()));

    // What the names cannot say is refused, not lost.
    let refused = |flag: &str, id: usize| {
        let mut json = json.clone();
        json["added_tokens"][id][flag] = (json["added_tokens"][id][flag] != true).into();
        let mut source = open(&folder.path().join("m.gguf"), &with_tokens("llama", "m", &tokens, &types));
        source.text = Some(Text::from_json(json.to_string(), json!({})).unwrap());
        export(&source, &folder.path().join("no.gguf")).unwrap_err().to_string()
    };
    assert!(refused("rstrip", 5).contains("rstrip"), "{}", refused("rstrip", 5));
    for flag in ["lstrip", "single_word", "normalized"] {
        assert!(refused(flag, 4).contains(&format!("\"<|assistant|>\" has the flag {flag}")), "{}", refused(flag, 4));
    }
}

/// Gemma's converter writes runs of blanks and line breaks as tokens of the user, with plain blanks.
#[test]
fn runs_of_blanks_go_out_and_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bytes();
    let (tokens, types) = pieces(&bytes, &[("  ", 4), ("   ", 4), ("        ", 4), ("\n\n", 4), ("<a>", 4), ("<a", 1)]);
    let mut file = with_tokens("llama", "m", &tokens, &types);
    file.entry("tokenizer.ggml.add_space_prefix", 7, &[0]);
    let first = open(&folder.path().join("m.gguf"), &file);
    let strings = ["a  b", "a   hello\n\n\n    hello", "           a", "<a> <a<a>>", " hello hell", "▁▁a", "a\tb"];
    let ids = |source: &ModelSource| strings.map(|s| source.text().unwrap().encode(s).unwrap());
    let want = ids(&first);
    let id = |token: &str| tokens.iter().rposition(|t| *t == token).unwrap() as u32;
    assert_eq!(want[0], [id("a"), id("  "), id("b")]);
    assert_eq!(want[2], [id("        "), id("   "), id("a")]);
    let second = export(&first, &folder.path().join("two.gguf")).unwrap();
    assert_eq!(ids(&second), want);
    let third = export(&second, &folder.path().join("three")).unwrap();
    assert_eq!(ids(&third), want);
    let fourth = export(&third, &folder.path().join("four.gguf")).unwrap();
    assert_eq!(ids(&fourth), want);
}
