"""Does a GGUF file mean to transformers and the gguf package what it means to selfreward? Needs torch, transformers, gguf.
usage: python scripts/compare_gguf.py FILE.gguf [--config MODEL_FOLDER] [--bin target/release/selfreward] [--tolerance 1e-5]

Names every metadata key and tensor that the gguf package does not know for the architecture, then compares logits. The
GGUF reader of transformers (5.23) leaves out some keys: scaled and partial rotations, biases of llama, head sizes of qwen3,
of gemma3 the pattern of layers and the query scale. --config takes config.json from the folder that was exported instead."""
import argparse, json, os, subprocess, sys, tempfile
import torch
from gguf import GGUFReader, constants as c
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

a = argparse.ArgumentParser()
a.add_argument("file"), a.add_argument("--config"), a.add_argument("--bin", default="target/release/selfreward"), a.add_argument("--tolerance", type=float, default=1e-5)
a = a.parse_args()
reader = GGUFReader(a.file)
name = reader.fields["general.architecture"].contents()
arch = next(k for k, v in c.MODEL_ARCH_NAMES.items() if v == name)


def keys(of):
    for k, v in vars(of).items():
        if isinstance(v, type): yield from keys(v)
        elif isinstance(v, str) and not k.startswith("_"): yield v.replace("{arch}", name)


blocks = range(reader.fields[f"{name}.block_count"].contents())
tensors = {c.TENSOR_NAMES[t].replace("{bid}", str(i)) + end for t in c.MODEL_TENSORS[arch] for i in blocks for end in (".weight", ".bias")}
unknown = {k for k in reader.fields if not k.startswith("GGUF.")} - set(keys(c.Keys)), {t.name for t in reader.tensors} - tensors
print(f"{name}: {len(reader.fields)} keys, {len(reader.tensors)} tensors; unknown to gguf: {sorted(unknown[0] | unknown[1]) or 'none'}")
rows = next(t.shape[1] for t in reader.tensors if t.name == "token_embd.weight")
ids = [(3 + 7 * i) % int(rows) for i in range(40)]
with tempfile.TemporaryDirectory() as t, torch.no_grad():
    json.dump([ids], open(f"{t}/ids.json", "w"))
    subprocess.run([a.bin, "dump", "logits", "--model", a.file, "--tokens", f"{t}/ids.json", "--out", f"{t}/logits"], check=True)
    ours = load_file(f"{t}/logits")["logits.0"]
folder, file = os.path.split(os.path.abspath(a.file))
config = {"config": AutoConfig.from_pretrained(a.config)} if a.config else {}
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, **config, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    theirs = model(torch.tensor([ids])).logits[0]
error = ((ours - theirs).norm() / theirs.norm()).item()
print(f"logits: relative error {error:.1e}")
sys.exit(error > a.tolerance or any(unknown))
