"""The first layer at which selfreward and transformers differ (docs/NUMERICS.md). Needs torch, transformers, safetensors.
usage: python scripts/compare.py MODEL_FOLDER [TEXT] [--bin target/release/selfreward] [--tolerance 1e-5]"""
import argparse, json, os, subprocess, sys, tempfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

a = argparse.ArgumentParser()
a.add_argument("model"), a.add_argument("text", nargs="?", default="The sea is wide, and the boat is small.")
a.add_argument("--bin", default="target/release/selfreward"), a.add_argument("--tolerance", type=float, default=1e-5)
a = a.parse_args()
has_tokenizer = os.path.exists(f"{a.model}/tokenizer.json")
ids = AutoTokenizer.from_pretrained(a.model)(a.text, add_special_tokens=False).input_ids if has_tokenizer else [3 + i % 50 for i in range(40)]
with tempfile.TemporaryDirectory() as t, torch.no_grad():
    json.dump([ids], open(f"{t}/ids.json", "w"))
    for what in ("hidden", "logits"):
        subprocess.run([a.bin, "dump", what, "--model", a.model, "--tokens", f"{t}/ids.json", "--out", f"{t}/{what}"], check=True)
    got = load_file(f"{t}/hidden"), load_file(f"{t}/logits")["logits.0"]
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="eager").eval()
    out = model(torch.tensor([ids]), output_hidden_states=True)
pairs = [(f"before layer {l}", got[0][f"hidden.0.{l}"], h[0]) for l, h in enumerate(out.hidden_states)]
for name, ours, theirs in [*pairs, ("logits", got[1], out.logits[0])]:
    error = ((ours - theirs).norm() / theirs.norm()).item()
    print(f"{name:16} relative error {error:.1e}")
    if error > a.tolerance: sys.exit(f"first difference above {a.tolerance:g}: {name}, row {(ours - theirs).norm(dim=-1).argmax().item()}")
