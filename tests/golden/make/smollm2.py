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
from texts import CHATS, STRINGS, user

path = sys.argv[1]
NEW = 64
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
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


PROMPTS = [
    "What is the capital of France?", "Write one sentence about the sea.", "List three things one needs to bake bread.", "Why do leaves fall in autumn?",
    "Say hello in Spanish.", "How many legs does a spider have?", "Write a Python function that adds two numbers.", "Give me a name for a cat.",
    "What is 12 + 30?", "Translate \"good morning\" into French.",
]
# A text of a thousand tokens: letters, digits, code and other scripts in turn.
TEXT = "\n".join(text for text in STRINGS if len(text) > 8 and "<|" not in text)

model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path) or ".", gguf_file=os.path.basename(path), dtype=torch.float32).eval()


def greedy(ids):
    out, gaps, cache, new = [], [], None, ids
    with torch.no_grad():
        while len(out) < NEW and (not out or out[-1] != 2):
            step = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            top, cache = step.logits[0, -1].topk(2), step.past_key_values
            new = [int(top.indices[0])]
            out += new
            gaps.append(round(float(top.values[0] - top.values[1]), 5))
    return {"prompt_ids": ids, "greedy": out, "gaps": gaps}


def logps(ids):
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return [round(float(row[id]), 5) for row, id in zip(rows, ids[1:])]


text_ids = encode(TEXT)[:1000]
assert len(text_ids) == 1000
result = {
    "origin": {"script": "tests/golden/make/smollm2.py", "file": os.path.basename(path), "sha256": hashlib.sha256(open(path, "rb").read()).hexdigest(),
               "python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
    "max_new_tokens": NEW,
    "strings": [{"text": s, "ids": encode(s)} for s in STRINGS],
    "chats": [{"messages": c, "ids": chat(c)} for c in CHATS],
    "continuations": [{"text": p, "template": t, **greedy(chat([user(p)]) if t else encode(p))} for p in PROMPTS for t in (True, False)],
    "text_ids": [text_ids],
    "text_logps": [logps(text_ids)],
}
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "smollm2.json")
with open(out, "w") as f:
    f.write("{\n" + ",\n".join(
        f'"{k}": [\n' + ",\n".join(json.dumps(x) for x in v) + "\n]" if isinstance(v, list) else f'"{k}": {json.dumps(v)}' for k, v in result.items()) + "\n}\n")
for c in result["continuations"]:
    print(repr(tok.decode(c["greedy"])), min(c["gaps"]))
