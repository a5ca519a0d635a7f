//! Bounds for what a tokenizer.json may ask for. Real files stay far below them; beyond them, memory or time could grow
//! without end.

use serde_json::Value;

/// Most bytes of an added token, a pattern or a replacement.
const TEXT: usize = 1 << 12;
/// Most bytes of all the tokens that tokenizer_config.json adds: the search for them takes a kilobyte for each.
const ADDED: usize = 64 << 10;
/// Most bytes of one token that tokenizer_config.json adds.
const ADDED_ONE: usize = 1 << 10;
/// How many times longer a text may become on its way through the steps of one part.
const GROWTH: usize = 1 << 12;
/// Most steps of one part.
const STEPS: usize = 64;
/// Most characters of a word in models that try every substring.
const WORD: u64 = 1000;

/// Refuses a tokenizer.json that is beyond one of the bounds.
///
/// # Errors
/// The error names the bound that is passed.
pub(super) fn check(tokenizer: &Value) -> Result<(), String> {
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        check_token(token["content"].as_str().unwrap_or_default())?;
    }
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let (mut steps, mut growth) = (0, 1);
        walk(part, &tokenizer[part], &mut steps, &mut growth)?;
    }
    match tokenizer["model"]["max_input_chars_per_word"].as_u64() {
        Some(most) if most > WORD => Err(format!("max_input_chars_per_word is {most}; up to {WORD} are possible")),
        _ => Ok(()),
    }
}

/// Refuses an added token that is too long.
///
/// # Errors
/// The error names the bound.
pub(super) fn check_token(content: &str) -> Result<(), String> {
    short("added_tokens", content)
}

/// Refuses tokens of tokenizer_config.json, of which the lengths in bytes are given, that are too long.
///
/// # Errors
/// The error names the bounds.
pub(super) fn check_config(lengths: impl Iterator<Item = usize>) -> Result<(), String> {
    let (longest, all) = lengths.fold((0, 0), |(longest, all), n| (n.max(longest), n + all));
    if longest > ADDED_ONE || all > ADDED {
        let what = format!("tokenizer_config.json adds tokens of {all} bytes, the longest of {longest}");
        return Err(format!("{what}; at most {ADDED} and {ADDED_ONE} are read"));
    }
    Ok(())
}

fn short(part: &str, text: &str) -> Result<(), String> {
    match text.len() {
        n if n > TEXT => Err(format!("{part}: a text of {n} bytes; up to {TEXT} are possible")),
        _ => Ok(()),
    }
}

fn walk(part: &str, step: &Value, steps: &mut usize, growth: &mut usize) -> Result<(), String> {
    for list in ["normalizers", "pretokenizers", "decoders"] {
        for inner in step[list].as_array().into_iter().flatten() {
            walk(part, inner, steps, growth)?;
        }
    }
    for key in ["content", "prepend", "prefix", "suffix", "pad_token", "word_delimiter_token"] {
        short(part, step[key].as_str().unwrap_or_default())?;
    }
    for kind in ["String", "Regex"] {
        short(part, step["pattern"][kind].as_str().unwrap_or_default())?;
    }
    *steps += 1;
    // An empty pattern matches at every place, so the replacement may follow each letter.
    *growth = growth.saturating_mul(match step["type"].as_str() {
        Some("Replace") => 1 + step["content"].as_str().map_or(0, str::len),
        Some("ByteLevel" | "Metaspace") => 2,
        _ => 1,
    });
    match (*steps > STEPS, *growth > GROWTH) {
        (true, _) => Err(format!("{part} has more than {STEPS} steps")),
        (_, true) => Err(format!("{part} may make a text more than {GROWTH} times longer")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_grows_without_end_is_refused() {
        let replace = |content: &str| json!({"type": "Replace", "pattern": {"Regex": ""}, "content": content});
        let steps = |list: Vec<Value>| json!({"normalizer": {"type": "Sequence", "normalizers": list}});
        assert_eq!(check(&steps(vec![replace("▁"); 6])), Ok(()));
        for (tokenizer, word) in [
            (steps(vec![replace("aa"); 40]), "times longer"),
            (steps(vec![json!({"type": "ByteLevel"}); 40]), "times longer"),
            (steps(vec![json!({"type": "NFC"}); 65]), "steps"),
            (json!({"decoder": replace(&"a".repeat(5000))}), "decoder"),
            (json!({"added_tokens": [{"content": "a".repeat(5000)}]}), "added_tokens"),
            (json!({"model": {"max_input_chars_per_word": 1_000_000}}), "max_input_chars_per_word"),
        ] {
            assert!(check(&tokenizer).unwrap_err().contains(word), "{tokenizer}");
        }
    }
}
