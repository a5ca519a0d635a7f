//! Tokens that end an answer whatever a model's files say of them: llama.cpp's list, by name.

/// The names: ends of turns, texts and calls of tools, and what code models write behind their answer.
const NAMES: [&str; 33] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Whether a token of this name ends answers in most of the vocabularies that have it.
pub(crate) fn is_known(name: &str) -> bool {
    name.ends_with(['>', ']', '[']) && NAMES.contains(&name)
}

/// Whether a token of this name may be a word, because people write it: `</s>` is HTML, and a word in Qwen's
/// vocabulary. It is cut out of texts only where the files give it a role.
pub(crate) fn may_be_word(name: &str) -> bool {
    !name.contains(['|', '｜', '_', '~'])
}

/// Which of a vocabulary's tokens, given by names and ids, end an answer. `<|end|>` ends only a thought where
/// `<|return|>` and `<|call|>` (or `<|flush|>` and `<|calls|>`) end answers, and `</s>` ends a line through words where
/// the vocabulary is Gemma's.
pub(crate) fn known<'a>(vocabulary: impl Iterator<Item = (&'a str, u32)>) -> Vec<u32> {
    let found: Vec<(&str, u32)> = vocabulary.filter(|(name, _)| is_known(name)).collect();
    let has = |name: &str| found.iter().any(|(known, _)| *known == name);
    let calls = has("<|call|>") || has("<|calls|>");
    let ends = |name: &str| match name {
        "<|end|>" => !(calls && (has("<|return|>") || has("<|flush|>"))),
        "</s>" => !has("<|tool_response>") && !has("<end_of_turn>"),
        _ => true,
    };
    found.iter().filter(|(name, _)| ends(name)).map(|(_, id)| *id).collect()
}

/// The names, for a search in a vocabulary.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thoughts_end_is_no_end_where_answers_have_their_own() {
        let ids = |names: &[&'static str]| known(names.iter().copied().zip(0..));
        assert_eq!(ids(&["a", "<|im_end|>", "<|end|>", "<|endoftext|>"]), [1, 2, 3]);
        assert_eq!(ids(&["<|end|>", "<|return|>", "<|call|>"]), [1, 2]);
        assert_eq!(ids(&["<|end|>", "<|return|>"]), [0, 1]);
        assert_eq!(ids(&["</s>", "<end_of_turn>"]), [1]);
    }

    #[test]
    fn names_with_signs_that_nobody_writes_are_no_words() {
        let words: Vec<&str> = names().filter(|name| may_be_word(name)).collect();
        assert!(["</s>", "[EOS]", "<eos>"].iter().all(|name| words.contains(name)), "{words:?}");
        assert!(
            !["<|im_end|>", "_<EOT>", "<end_of_turn>", "[e~["].iter().any(|name| words.contains(name)),
            "{words:?}"
        );
    }
}
