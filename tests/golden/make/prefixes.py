"""Makes tests/golden/prefixes.json: where folders of a SentencePiece tokenizer put the leading blank.

usage: python tests/golden/make/prefixes.py        (transformers)

Each case is the tokenizer of tests/golden/tokenizers/metaspace with the normalizer and pre-tokenizer of `shape`, in a
folder whose files name `config` and `model_type`. The ids are those of AutoTokenizer, without special ones added.
"""
import itertools, json, os, tempfile
from transformers import AutoTokenizer

here = os.path.dirname(os.path.abspath(__file__))
source = os.path.join(here, "..", "tokenizers", "metaspace")
TEXTS = ["hello", " hello", "hello world  x", "</s>yes", "a</s> yes", "<s>yes", "\nyes", "", " "]
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
META = lambda scheme: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
SHAPES = [(PREPEND, None), (None, META("first")), (None, META("always")), (None, META("never"))]


def case(model_type, shape, config):
    file = json.load(open(f"{source}/tokenizer.json"))
    file["normalizer"], file["pre_tokenizer"] = shape
    with tempfile.TemporaryDirectory() as folder:
        json.dump(file, open(f"{folder}/tokenizer.json", "w"))
        json.dump(config, open(f"{folder}/tokenizer_config.json", "w"))
        json.dump({"model_type": model_type}, open(f"{folder}/config.json", "w"))
        tok = AutoTokenizer.from_pretrained(folder)
        return {"model_type": model_type, "shape": shape, "config": config,
                "ids": [tok(text, add_special_tokens=False).input_ids for text in TEXTS]}


cases = []
for model_type, name, legacy, blank, shape in itertools.product(
        ["llama", "mistral", "phi3"], ["LlamaTokenizer", "CodeLlamaTokenizer", "PreTrainedTokenizerFast"],
        [None, True, False], [None, False], SHAPES):
    flags = {"legacy": legacy, "add_prefix_space": blank}
    named = {"tokenizer_class": name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    cases.append(case(model_type, shape, named | {k: v for k, v in flags.items() if v is not None}))
with open(os.path.join(here, "..", "prefixes.json"), "w") as out:
    rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    out.write('{"texts": ' + json.dumps(TEXTS) + ', "cases": [\n' + rows + "\n]}\n")
