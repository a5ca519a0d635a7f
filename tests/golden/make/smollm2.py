"""Makes tests/golden/smollm2.json: what transformers computes with SmolLM2-135M-Instruct from the Q4_1 GGUF file that
scripts/fetch-smollm2 fetches (dequantised to f32), and its token ids.

usage: python tests/golden/make/smollm2.py FILE.gguf        (torch, transformers, tokenizers, gguf)

The tokenizer is built here from the file's vocabulary and merges with the model's published pre-tokenizer (each digit
alone, then GPT-2's split): transformers' own GGUF conversion leaves the digit split out and so cuts blanks before
digits differently.
"""
import hashlib, json, os, sys
import gguf, torch, transformers, tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.utils.chat_template_utils import render_jinja_template

path = sys.argv[1]
NEW = 24
torch.set_num_threads(2)
fields = gguf.GGUFReader(path).fields
vocabulary, merges, kinds = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "merges", "token_type"))
template = fields["tokenizer.chat_template"].contents()
tok = Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary)}, [tuple(m.split(" ")) for m in merges]))
tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tok.decoder = decoders.ByteLevel()
tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(vocabulary, kinds) if k == 3])
encode = lambda text: tok.encode(text, add_special_tokens=False).ids


def chat(messages):
    return encode(render_jinja_template([messages], chat_template=template, add_generation_prompt=True)[0][0])


user = lambda text: {"role": "user", "content": text}
assistant = lambda text: {"role": "assistant", "content": text}
system = lambda text: {"role": "system", "content": text}

STRINGS = [
    "", " ", "  ", "\n", "\n\n", "\t", " \n ", "a", " a", "a ", "Hello", "hello", "HELLO", "Hello world", "Hello, world!", " Hello  world ",
    "The quick brown fox jumps over the lazy dog.", "It's a dog's life, isn't it? I'd say we'll see, they've won.", "don't DON'T Don’t",
    "0", "7", "42", " 42", "  42", "1234567890", "3.14159", "1,000,000", "a1b2c3", "x = 3 + 4 * (2 - 1)", "2024-02-29T12:34:56Z", "½ ² ③ ٣ 五",
    "naïve café résumé", "Übergrößenträger", "Привет, мир!", "你好，世界", "こんにちは世界", "안녕하세요", "مرحبا بالعالم", "שלום", "ελληνικά", "हिन्दी",
    "🙂", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "e\u0301 vs \u00e9", "zero\u200bwidth", "nbsp\u00a0here", "tab\there", "line one\nline two\r\nline three",
    "def f(x):\n    return x ** 2\n", "{\"key\": [1, 2, {\"a\": null}]}", "<response>\nScore: 4\n</response>", "https://example.org/a?b=c&d=%20e#f",
    "C:\\Users\\name\\file.txt", "a_b-c.d/e\\f|g", "!!!???...---___", "((((((()))))))", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<|im_start|",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Donaudampfschifffahrtsgesellschaftskapitän", "  leading and trailing  ", "mixed 🙂 text 123 with\teverything\n\n",
    "\x00\x01\x7f", "Score: 3",
]
CHATS = [
    [user("Hi")],
    [user("What is the capital of France?")],
    [system("You answer in one word."), user("What colour is the sky?")],
    [user("Name a fruit."), assistant("Apple."), user("Another one, please.")],
    [system(""), user("  blanks at both ends  ")],
    [user("Line one\nline two"), assistant("Yes 🙂 42"), user("Write `x = 1` in Rust & explain \"why\" it's <ok>.")],
]
PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three things one needs to bake bread.",
    "Why do leaves fall in autumn?",
    "Say hello in Spanish.",
]

model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path) or ".", gguf_file=os.path.basename(path), dtype=torch.float32).eval()


def greedy(ids):
    out, gaps = [], []
    with torch.no_grad():
        while len(out) < NEW and (not out or out[-1] != 2):
            top = model(torch.tensor([ids + out])).logits[0, -1].topk(2)
            out.append(int(top.indices[0]))
            gaps.append(round(float(top.values[0] - top.values[1]), 5))
    return {"prompt_ids": ids, "greedy": out, "gaps": gaps}


result = {
    "origin": {"script": "tests/golden/make/smollm2.py", "file": os.path.basename(path), "sha256": hashlib.sha256(open(path, "rb").read()).hexdigest(),
               "python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
    "max_new_tokens": NEW,
    "strings": [{"text": s, "ids": encode(s)} for s in STRINGS],
    "chats": [{"messages": c, "ids": chat(c)} for c in CHATS],
    "continuations": [{"text": p, "template": t, **greedy(chat([user(p)]) if t else encode(p))} for p in PROMPTS for t in (True, False)],
}
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "smollm2.json")
with open(out, "w") as f:
    f.write("{\n" + ",\n".join(
        f'"{k}": [\n' + ",\n".join(json.dumps(x) for x in v) + "\n]" if isinstance(v, list) else f'"{k}": {json.dumps(v)}' for k, v in result.items()) + "\n}\n")
for c in result["continuations"]:
    print(repr(tok.decode(c["greedy"])), min(c["gaps"]))
