"""Makes tests/golden/gguf_tokens.json: the ids of GGUF files' tokenizers in transformers, of files made for one question each.

usage: python tests/golden/make/gguf_tokens.py        (transformers, gguf)

A case is a file of the tokens of its "set" in "sets", with the flags that it names. "ids" are those of `tokenizer(text)` of
the set's texts. The flags add_bos_token and add_eos_token say which special tokens are put around a text; Gemma's files have
runs of blanks as tokens of the user, and a text may hold the sign that stands for a blank.
"""
import itertools, json, os, tempfile
import gguf
from transformers import AutoTokenizer

BYTES = [f"<0x{b:02X}>" for b in range(256)]
RUNS = [" " * n for n in range(2, 8)]
SETS = {
    "gpt2": {"architecture": "llama", "model": "gpt2", "tokens": ["<s>", "</s>", "<unk>", "h", "i", "Ġ", "!", "hi", "a"], "bos": 0, "eos": 1,
             "texts": ["hi!", "", "! hi", "</s>", "<s>hi"]},
    "llama": {"architecture": "llama", "model": "llama", "tokens": ["<unk>", "<s>", "</s>", "▁", "h", "i", "!", "hi", "▁hi"] + BYTES,
              "bos": 1, "eos": 2, "texts": ["hi!", "", "! hi"]},
    "gemma3": {"architecture": "gemma3", "model": "llama", "tokens": ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n"] + RUNS + BYTES
               + ["▁", "a", "b", "▁a", "▁b", "\n", "ab", "▁ab"], "bos": 2, "eos": 1,
               "texts": [" ▁ ", "▁", "▁▁", "▁▁▁▁▁▁", "a▁b", "a ▁ b", "a    b", "a" + " " * 9 + "b", "a" + " " * 20 + "b", "▁▁\n\n▁ ab",
                         "<bos>▁▁a", "  a", " ▁▁▁▁a   b▁", "\n \n▁\n", "a▁▁b▁ab"]},
}
SPECIAL = {"<s>": 3, "</s>": 3, "<unk>": 2, "<pad>": 3, "<eos>": 3, "<bos>": 3, "\n\n": 4, **{run: 4 for run in RUNS}}
here = os.path.dirname(os.path.abspath(__file__))


def ids(folder, one, flags, named):
    writer, tokens = gguf.GGUFWriter(f"{folder}/m.gguf", one["architecture"]), one["tokens"]
    writer.add_block_count(1), writer.add_context_length(64), writer.add_embedding_length(32), writer.add_feed_forward_length(32)
    writer.add_head_count(4), writer.add_head_count_kv(2), writer.add_layer_norm_rms_eps(1e-5), writer.add_vocab_size(len(tokens))
    writer.add_key_length(8), writer.add_value_length(8), writer.add_sliding_window(16)
    writer.add_tokenizer_model(one["model"]), writer.add_token_list(tokens)
    writer.add_token_types([SPECIAL.get(t, 6 if t in BYTES else 1) for t in tokens])
    if one["model"] == "gpt2":
        writer.add_tokenizer_pre("gpt-2"), writer.add_token_merges(["h i"])
    else:
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
    if "bos" in named:
        writer.add_bos_token_id(one["bos"])
    if "eos" in named:
        writer.add_eos_token_id(one["eos"])
    writer.add_unk_token_id(tokens.index("<unk>"))
    for flag, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{flag}", value)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf")
    return [tokenizer(text).input_ids for text in one["texts"]]


wanted = [("gemma3", {"add_space_prefix": False, "add_bos_token": True}, "bos eos")]
for kind, bos, eos, named in itertools.product(["gpt2", "llama"], [None, True, False], [None, True, False], ["bos eos", "bos", "eos"]):
    wanted.append((kind, {k: v for k, v in (("add_bos_token", bos), ("add_eos_token", eos)) if v is not None}, named))
cases = []
for kind, flags, named in wanted:
    with tempfile.TemporaryDirectory() as folder:
        cases.append({"set": kind, "flags": flags, "named": named, "ids": ids(folder, SETS[kind], flags, named)})
line = lambda value: json.dumps(value, ensure_ascii=False)
sets = {name: {**one, "types": [SPECIAL.get(t, 6 if t in BYTES else 1) for t in one["tokens"]]} for name, one in SETS.items()}
with open(os.path.join(here, "..", "gguf_tokens.json"), "w") as out:
    out.write('{"sets": {\n%s\n},\n"cases": [\n%s\n]}\n' % (
        ",\n".join(f"{line(name)}: {line(one)}" for name, one in sets.items()), ",\n".join(map(line, cases))))
print(len(cases), "files")
