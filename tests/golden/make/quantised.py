"""Makes tests/golden/quantised: a tiny Qwen2 as a GGUF file whose matrices are quantised, each kind in another type, with token ids.

usage: python tests/golden/make/quantised.py        (numpy, gguf)

What transformers and PEFT compute over it is made by lora.py.
"""
import json, os
import numpy as np
from gguf import GGMLQuantizationType as T, GGUFWriter
from gguf.quants import quantize

SEED, LAYERS, VOCAB, D, F, HEADS, KV = 4712, 2, 97, 64, 96, 4, 2
TYPES = {"token_embd": T.Q8_0, "attn_q": T.Q4_0, "attn_k": T.Q8_0, "attn_v": T.Q5_0, "attn_output": T.Q4_1, "ffn_gate": T.Q5_1,
         "ffn_up": T.Q4_0, "ffn_down": T.Q8_0}
rng = np.random.default_rng(SEED)
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "quantised")
os.makedirs(out, exist_ok=True)
w = GGUFWriter(f"{out}/model.gguf", "qwen2")
w.add_context_length(256), w.add_embedding_length(D), w.add_block_count(LAYERS), w.add_feed_forward_length(F)
w.add_head_count(HEADS), w.add_head_count_kv(KV), w.add_layer_norm_rms_eps(1e-6), w.add_rope_freq_base(1e6), w.add_vocab_size(VOCAB)


def matrix(name, rows, columns):
    kind = TYPES[name.split(".")[-2]]
    w.add_tensor(name, quantize(rng.normal(0, 0.15, (rows, columns)).astype(np.float32), kind), raw_dtype=kind)


def vector(name, n, mean, spread):
    w.add_tensor(name, rng.normal(mean, spread, n).astype(np.float32))


matrix("token_embd.weight", VOCAB, D)
for i in range(LAYERS):
    b = f"blk.{i}."
    head = D // HEADS
    for name, rows in [("q", D), ("k", KV * head), ("v", KV * head)]:
        matrix(f"{b}attn_{name}.weight", rows, D)
        vector(f"{b}attn_{name}.bias", rows, 0, 0.1)
    matrix(f"{b}attn_output.weight", D, D)
    matrix(f"{b}ffn_gate.weight", F, D), matrix(f"{b}ffn_up.weight", F, D), matrix(f"{b}ffn_down.weight", D, F)
    vector(f"{b}attn_norm.weight", D, 1, 0.1), vector(f"{b}ffn_norm.weight", D, 1, 0.1)
vector("output_norm.weight", D, 1, 0.1)
w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
ids = lambda n: rng.integers(3, VOCAB, n).tolist()
with open(f"{out}/tokens.json", "w") as f:
    json.dump([ids(n) for n in (1, 7, 19)], f)
with open(f"{out}/pairs.jsonl", "w") as f:
    for p, c, r in [(5, 6, 3), (1, 2, 9), (12, 1, 1), (4, 8, 8)]:
        f.write(json.dumps({"prompt_ids": ids(p), "chosen_ids": ids(c), "rejected_ids": ids(r)}) + "\n")
