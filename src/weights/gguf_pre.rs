//! The ways to cut text before its pieces are joined, by the names that `tokenizer.ggml.pre` has for them: the steps of
//! the tokenizer.json that each was converted from, where it is known, else those of llama.cpp.

use serde_json::{Value, json};

/// A step of a pre-tokenizer.
enum Step {
    /// Cuts around each match of a pattern.
    Split(&'static str),
    /// Cuts around each digit, whatever its script.
    Digits,
    /// GPT-2's pattern; always the last.
    Words,
}

use Step::{Digits, Split, Words};

/// A pre-tokenizer: a way to cut text into the pieces in which tokens are joined.
pub(super) struct PreTokenizer {
    /// The names of `tokenizer.ggml.pre`; the first is written.
    names: &'static [&'static str],
    /// Whether text is brought into the normal form NFC first.
    nfc: bool,
    steps: &'static [Step],
    /// Whether a piece that is a token becomes it, though no merges lead there.
    pub(super) ignore_merges: bool,
    /// Whether texts begin with BOS where the file does not say it.
    pub(super) adds_bos: bool,
}

/// GPT-2's pattern, for where other steps follow.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Letters with what precedes them, up to three digits, other signs, blanks: Llama 3's pattern.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);
/// Letters with what precedes them, single digits, other signs, blanks: Qwen 2's pattern.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's pattern with marks as parts of words.
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);
/// Words that end where small letters are followed by a capital, each with an ending.
macro_rules! words {
    ($ending:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $ending
        )
    };
}
/// Words end where small letters are followed by a capital.
const TEKKEN: &str = concat!(words!(""), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+");
/// Tekken's words with English endings, up to three digits.
const GPT4O: &str = concat!(
    words!(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// GPT-4o's pattern with single digits.
const YOUTU: &str =
    concat!(words!(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+");
/// GPT-4o's words in which no Chinese sign stands, and runs of those.
const KIMI: &str = concat!(
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Llama 3's pattern with runs of blanks cut into powers of two.
const JAIS2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)",
    r"|\s{1,2}(?!\S)|\s{1}"
);
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]",
    r"|\s+(?!\S)|\s+"
);
const SEED: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);
const EXAONE_MOE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const CHINESE: &str = "[一-龥぀-ゟ゠-ヿ]+";
const CHINESE_KOREAN: &str = "[一-龥ࠀ-一가-퟿]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// Letters that are large, small or title case.
const CASED: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώ",
    r"ᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ",
    r"𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
);

/// A pre-tokenizer of texts that begin without BOS, whose pieces are joined by merges alone and whose letters stay as
/// they are.
const fn way(names: &'static [&'static str], steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer { names, nfc: false, steps, ignore_merges: false, adds_bos: false }
}

impl PreTokenizer {
    const fn nfc(mut self) -> Self {
        self.nfc = true;
        self
    }

    const fn whole(mut self) -> Self {
        self.ignore_merges = true;
        self
    }

    const fn bos(mut self) -> Self {
        self.adds_bos = true;
        self
    }

    /// The way that a name of `tokenizer.ggml.pre` stands for.
    pub(super) fn named(name: &str) -> Option<&'static PreTokenizer> {
        WAYS.iter().find(|way| way.names.contains(&name))
    }

    /// The name that is written.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    /// Normalizer and pre-tokenizer as tokenizer.json has them.
    pub(super) fn json(&self) -> (Value, Value) {
        let byte_level = |regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": regex})
        };
        let step = |step: &Step| match step {
            Words => byte_level(true),
            Digits => json!({"type": "Digits", "individual_digits": true}),
            Split(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            }
        };
        let mut steps: Vec<Value> = self.steps.iter().map(step).collect();
        if !matches!(self.steps, [.., Words]) {
            steps.push(byte_level(false));
        }
        let normalizer = if self.nfc { json!({"type": "NFC"}) } else { Value::Null };
        match steps.len() {
            1 => (normalizer, steps.remove(0)),
            _ => (normalizer, json!({"type": "Sequence", "pretokenizers": steps})),
        }
    }
}

/// Every name that is known, for messages.
pub(super) fn names() -> String {
    WAYS.iter().flat_map(|way| way.names).copied().collect::<Vec<_>>().join(", ")
}

/// The pre-tokenizers that are known. Those of the same steps stand apart where their other fields differ.
pub(super) const WAYS: &[PreTokenizer] = &[
    way(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[Words],
    ),
    way(&["olmo", "mpt"], &[Words]).nfc(),
    way(&["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"], &[Digits, Words]),
    way(&["command-r"], &[Digits, Words]).nfc(),
    way(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[Split(LLAMA3)],
    )
    .whole()
    .bos(),
    way(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[Split(LLAMA3)]),
    way(&["qwen2", "deepseek-r1-qwen", "f2llmv2"], &[Split(QWEN2)]).nfc(),
    way(&["stablelm2", "megrez", "kormo", "hunyuan", "solar-open", "grok-2"], &[Split(QWEN2)]),
    way(&["qwen35"], &[Split(QWEN35)]).nfc(),
    way(&["tekken"], &[Split(TEKKEN)]).whole().bos(),
    way(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[Split(GPT4O)]),
    way(&["granite-embed-multi-97m"], &[Split(GPT4O)]).whole(),
    way(&["tiny_aya", "cohere2moe"], &[Split(r"\d{1,3}(?=(?:\d{3})*\b)"), Split(GPT4O)]).nfc(),
    way(&["kimi-k2"], &[Split(KIMI)]),
    way(&["jais-2"], &[Split(JAIS2)]),
    way(&["bailingmoe", "bailingmoe2", "llada-moe"], &[Split(BAILING)]),
    way(&["seed-coder"], &[Split(SEED)]),
    way(&["exaone-moe"], &[Split(EXAONE_MOE)]),
    way(&["ufakzeka"], &[Split(UFAKZEKA)]),
    way(&["laguna"], &[Split(r"[^\n]+|[\n]+"), Split(QWEN2)]),
    way(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[Split(r"\p{N}{1,3}"), Split(CHINESE), Split(DEEPSEEK3)],
    ),
    way(
        &["deepseek-llm"],
        &[
            Split(r"[\r\n]"),
            Split(CASED),
            Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Split(r"\s+$"),
            Split(CHINESE_KOREAN),
            Split(r"\p{N}+"),
        ],
    ),
    way(
        &["deepseek-coder"],
        &[Split(r"[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(CHINESE_KOREAN), Split(r"\p{N}")],
    ),
    way(&["youtu"], &[Split("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"), Split(YOUTU)])
        .whole(),
    way(&["falcon"], &[Split(r"[\p{P}\$\+<=>\^~\|`]+"), Split(GPT2), Split("[0-9][0-9][0-9]")]),
    // Digits in threes from the right; all else is one piece, and tokens reach over blanks.
    way(&["superbpe"], &[Split(r"\p{N}+"), Split(r"(?=(\d{3})+(?!\d))")]),
    way(&["bloom", "poro-chat", "gpt3-finnish"], &[Split(BLOOM)]),
    way(&["viking"], &[Split(BLOOM), Split(r"\p{N}")]),
    way(
        &["chameleon"],
        &[
            Split("<sentinel:[0-9]+>"),
            Split("(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"),
            Split(r"([\t\n]|    |  )"),
            Split(r"\p{N}"),
            Split(r"[\p{P}!-/:-@\[-`{-~]"),
            Words,
        ],
    )
    .bos(),
    way(&["default"], &[Split(r"[\p{P}\$\+<=>\^~\|]+"), Split(GPT2), Split(r"\p{N}+"), Split("[0-9][0-9][0-9]")]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    /// Ids of texts with digits, blanks, accents, Chinese, emoji and so on, made by the `tokenizers` package from
    /// llama.cpp's patterns or the original ones.
    #[test]
    fn each_way_cuts_as_its_pattern_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pre_tokenizers.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let ways = golden["ways"].as_object().unwrap();
        assert_eq!(ways.len(), WAYS.len());
        for way in WAYS {
            let (normalizer, pre_tokenizer) = way.json();
            let json = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "post_processor": null,
                "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": null,
                "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                          "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                          "ignore_merges": way.ignore_merges, "vocab": golden["vocab"], "merges": golden["merges"]}
            });
            let text = Text::from_json(json.to_string(), json!({})).unwrap();
            let expected = ways[way.name()].as_array().unwrap();
            for (string, want) in golden["strings"].as_array().unwrap().iter().zip(expected) {
                let ids = text.encode(string.as_str().unwrap()).unwrap();
                assert_eq!(json!(ids), *want, "{}: {string}", way.name());
            }
        }
    }

    #[test]
    fn no_name_stands_for_two_ways() {
        let mut names: Vec<&str> = WAYS.iter().flat_map(|way| way.names).copied().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(PreTokenizer::named("llama3").map(PreTokenizer::name), Some("llama-bpe"));
    }
}
