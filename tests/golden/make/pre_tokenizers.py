"""Makes tests/golden/pre_tokenizers.json: token ids of tricky texts, cut in each of the ways that tokenizer.ggml.pre has a
name for. The vocabulary joins across all borders between pieces, so that the ids show where a text was cut.

usage: python tests/golden/make/pre_tokenizers.py        (tokenizers)

Patterns are written as llama.cpp's src/llama-vocab.cpp has them; where it only comes near the original (tekken, gpt-4o and
their kin), as the tokenizer.json has them that the models were published with.
"""
import importlib.metadata, json, os
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers as pt, trainers

STRINGS = [
    "Hello, world!", " Hello  world ", "It's a dog's life, isn't it? I'd say we'll see, they've won.", "I'M we'RE you'LL DON'T Don’t",
    "'s 't 'll", "dog'sled", "7", "42", "007", "1234567890", "12345 678", "3.14159", "1,000,000", "a1b2c3", "½ ² ③ ٣ 五 Ⅷ",
    "x = 3 + 4 * (2 - 1)", "$9.99 €5 50%", "a+b<=c^d~e|f`g", "2024-02-29T12:34:56Z", "naïve café résumé Straße", "e\u0301 é a\u0300\u0301", "o\u0308ö \u212b",
    "Привет, мир!", "ελληνικά", "हिन्दी", "ไทยไม่มี", "你好，世界。中文abc混排123", "漢字とひらがなとカタカナ", "안녕하세요 한국어", "！？：～「」…", "“quoted” ‘single’ — dash",
    "مرحبا، بالعالم۔", "שלום", "🙂", "a🦀b 🙂🙂", "👩‍👩‍👧 ok", "\n", "\n\n", "a\nb", "a\r\n\r\nb", "a \n b", "\n\n  b\n", "\t\ta\tb", "    ", "a    b", "a        b          c",
    "tail   \n   head", "  \n", "x\u00a0y\u3000z", "camelCaseWords XMLHttpRequest iPhone ABCdef", "snake_case a/b//c\n/d", "#include <stdio.h>\n\tint main() { return 0; }\n",
    "!!!???...---", "<sentinel:12> IMGIMGABZ", "https://example.org/a?b=c&d=%20e#f", "ǅungla ǅ", "C:\\Users\\n", "(a)[b]{c}", "İstanbul ıssız", "don''t 'Tis", "1st 2nd", "end. ",
]

ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + BLANKS
QWEN2 = ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + BLANKS
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
def cased(ending, numbers, upper=UPPER, lower=LOWER, slash="/"):
    front = r"[^\r\n\p{L}\p{N}]?"
    return f"{front}{upper}*{lower}+{ending}|{front}{upper}+{lower}*{ending}|{numbers}" + r"| ?[^\s\p{L}\p{N}]+[\r\n" + slash + "]*" + BLANKS
GPT4O = cased(ENDINGS + "?", r"\p{N}{1,3}")
HAN = lambda c: c[:-1] + r"&&[^\p{Han}]]"
DEEPSEEK3 = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
KOREAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# The long list of deepseek-llm is of the letters that have a case in an older Unicode.
CASED = r"\s?[\p{Lu}\p{Ll}\p{Lt}]+"
# name: (patterns, NFC, ignore_merges)
WAYS = {
    "gpt-2": ([GPT2], False, False), "olmo": ([GPT2], True, False), "smollm": ([r"\p{N}", GPT2], False, False), "command-r": ([r"\p{N}", GPT2], True, False),
    "llama-bpe": ([LLAMA3], False, True), "dbrx": ([LLAMA3], False, False), "qwen2": ([QWEN2], True, False), "stablelm2": ([QWEN2], False, False),
    "qwen35": ([ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + BLANKS], True, False),
    "tekken": ([cased("", r"\p{N}")], False, True), "gpt-4o": ([GPT4O], False, False), "granite-embed-multi-97m": ([GPT4O], False, True),
    "tiny_aya": ([r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O], True, False),
    "kimi-k2": ([r"[\p{Han}]+|" + cased(ENDINGS + "?", r"\p{N}{1,3}", HAN(UPPER), HAN(LOWER), "")], False, False),
    "jais-2": ([LLAMA3[:-len(r"|\s+(?!\S)|\s+")] + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")) + r"|\s{1}"], False, False),
    "bailingmoe": ([r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"], False, False),
    "seed-coder": ([ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + BLANKS], False, False),
    "exaone-moe": ([ENDINGS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"], False, False),
    "ufakzeka": ([QWEN2[len(ENDINGS) + 1:]], False, False), "laguna": ([r"[^\n]+|[\n]+", QWEN2], False, False),
    "deepseek-v3": ([r"\p{N}{1,3}", JAPANESE, DEEPSEEK3], False, False),
    "deepseek-llm": (["[\r\n]", CASED, r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+".encode().decode("raw_unicode_escape"), r"\s+$", KOREAN, r"\p{N}+"], False, False),
    "deepseek-coder": (["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", KOREAN, r"\p{N}"], False, False),
    "youtu": (["[\uac00-\ud7a3\u3131-\u318e]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", cased(ENDINGS + "?", r"\p{N}")], False, True),
    "falcon": ([r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"], False, False),
    "superbpe": ([r"\p{N}+", r"(?=(\d{3})+(?!\d))"], False, False),
    "bloom": ([BLOOM], False, False), "viking": ([BLOOM, r"\p{N}"], False, False),
    "chameleon": (["<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2], False, False),
    "default": ([r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], False, False),
}

whole = Tokenizer(models.BPE())
whole.pre_tokenizer = pt.ByteLevel(add_prefix_space=False, use_regex=False)
corpus = STRINGS + [s[i:] for s in STRINGS for i in range(0, len(s), 3)]
whole.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=1400, initial_alphabet=pt.ByteLevel.alphabet(), show_progress=False))
model = json.loads(whole.to_str())["model"]
# Tokens that no merges lead to, which matter where merges are ignored.
for token in ["Ġworld", "Ġlife", "Words", "000", "Hello"]:
    model["vocab"].setdefault(token, len(model["vocab"]))
    model["merges"] = [m for m in model["merges"] if "".join(m) != token and token not in m]
out = {}
for name, (patterns, nfc, ignore_merges) in WAYS.items():
    t = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], ignore_merges=ignore_merges))
    t.normalizer = normalizers.NFC() if nfc else normalizers.Sequence([])
    t.pre_tokenizer = pt.Sequence([pt.Split(Regex(p), "isolated") for p in patterns] + [pt.ByteLevel(add_prefix_space=False, use_regex=False)])
    out[name] = [t.encode(s).ids for s in STRINGS]
for name in out:
    print(name, sum(map(len, out[name])), [n for n in out if n != name and out[n] == out[name]])
golden = {"origin": {"script": "tests/golden/make/pre_tokenizers.py", "tokenizers": importlib.metadata.version("tokenizers")},
          "strings": STRINGS, "vocab": model["vocab"], "merges": model["merges"], "ways": out}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pre_tokenizers.json"), "w") as f:
    json.dump(golden, f, separators=(",", ":"))
    f.write("\n")
