"""Makes tests/golden/added_tokens.json: the tokens that the files beside tokenizer.json add to a tokenizer.

usage: python tests/golden/make/added_tokens.py        (transformers)

Each case is the tokenizer of tests/golden/tokenizers/bytelevel in a folder with the given files. The ids are those of
AutoTokenizer, without special ones added.
"""
import json, os, tempfile
from transformers import AutoTokenizer

here = os.path.dirname(os.path.abspath(__file__))
source = os.path.join(here, "..", "tokenizers", "bytelevel")
TEXTS = ["<img>", "a <img> b", "a<img>b", "<snd><img>", " <snd>  x", "x<|turn|> y", "x <|stop|>\n\ny", "<|stop|><|sep|>",
         "the word", "a the", "theword", "<pad>"]
token = lambda content, **flags: {"content": content, "lstrip": False, "rstrip": False, "normalized": False,
                                  "single_word": False, "special": True, **flags}
named = lambda content, **flags: {k: v for k, v in token(content, **flags).items() if k != "special"}
CONFIGS = [
    {"pad_token": "<pad>"},
    {"pad_token": "<pad>", "mask_token": "<img>", "cls_token": "<snd>"},
    {"additional_special_tokens": ["<img>", "<snd>"]},
    {"extra_special_tokens": ["<snd>", "<img>"]},
    {"extra_special_tokens": {"image_token": "<img>", "sound_token": "<snd>"}},
    {"sound_token": "<snd>", "image_token": "<img>"},
    {"image_token": "<img>", "pad_token": "<pad>", "additional_special_tokens": ["<snd>"]},
    {"model_specific_special_tokens": {"image_token": "<img>"}, "extra_special_tokens": ["<snd>"]},
    {"additional_special_tokens": ["<|turn|>", "<img>", "<img>"]},
    {"pad_token": {"__type": "AddedToken", **named("<img>", lstrip=True)}},
    {"pad_token": {"__type": "AddedToken", **named("<img>", rstrip=True)}, "eos_token": "<|stop|>"},
    {"added_tokens_decoder": {"484": token("<img>"), "485": token("<snd>", special=False)}},
    {"added_tokens_decoder": {"483": token("<|stop|>", rstrip=True), "481": token("<|turn|>", lstrip=True)}},
    {"added_tokens_decoder": {"484": token("the", special=False, single_word=True)}},
    {"added_tokens_decoder": {"484": token("the", special=False, normalized=True)}},
    {"added_tokens_decoder": {"900": token("<img>")}, "pad_token": "<pad>"},
    {"added_tokens_decoder": {"484": token("<img>", lstrip=True, rstrip=True)}, "additional_special_tokens": ["<snd>"]},
    {"eos_token": None, "pad_token": None, "additional_special_tokens": []},
]
FILES = [{"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **config}} for config in CONFIGS] + [
    {"special_tokens_map.json": {"pad_token": "<pad>", "additional_special_tokens": ["<img>"]}},
    {"special_tokens_map.json": {"pad_token": named("<img>", lstrip=True), "eos_token": "<|stop|>"}},
    {"special_tokens_map.json": {"extra_special_tokens": [named("<img>", rstrip=True)]}},
    {"special_tokens_map.json": {"pad_token": "<img>"}, "tokenizer_config.json": {"pad_token": "<snd>"}},
    {"special_tokens_map.json": {"pad_token": "<img>"}, "tokenizer_config.json": {"added_tokens_decoder": {}}},
    {"added_tokens.json": {"<img>": 484, "<snd>": 485}},
    {"added_tokens.json": {"<snd>": 484, "<img>": 485}, "special_tokens_map.json": {"pad_token": "<img>"}},
]


def case(files):
    with tempfile.TemporaryDirectory() as folder:
        json.dump(json.load(open(f"{source}/tokenizer.json")), open(f"{folder}/tokenizer.json", "w"))
        json.dump({"model_type": "llama"}, open(f"{folder}/config.json", "w"))
        for name, content in files.items():
            json.dump(content, open(f"{folder}/{name}", "w"))
        tok = AutoTokenizer.from_pretrained(folder)
        return {"files": files, "ids": [tok(text, add_special_tokens=False).input_ids for text in TEXTS]}


with open(os.path.join(here, "..", "added_tokens.json"), "w") as out:
    rows = ",\n".join(json.dumps(case(files)) for files in FILES)
    out.write('{"texts": ' + json.dumps(TEXTS) + ', "cases": [\n' + rows + "\n]}\n")
