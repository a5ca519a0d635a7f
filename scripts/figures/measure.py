"""Prints the tables of errors in docs/NUMERICS.md: the largest error of each kernel against its f64 twin, and of each golden model against PyTorch.
usage: python scripts/figures/measure.py target/release/selfreward        (numpy, safetensors; walks tests/golden)"""
import json, os, subprocess, sys, tempfile
import numpy as np
from safetensors.numpy import load_file

BIN, GOLDEN = sys.argv[1], os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden")


def relative(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / (np.linalg.norm(want) + 1e-30))


def worst(got, want):
    """The largest relative error in norm over the tensors of two files, and its name."""
    got, want = load_file(got), load_file(want)
    assert got.keys() == want.keys(), (got.keys() ^ want.keys())
    # A gradient that is zero up to rounding has no relative error.
    floor = 1e-6 * max(np.linalg.norm(w) for w in want.values())
    return max((relative(got[k], w), k) for k, w in want.items() if np.linalg.norm(w) > floor)


def dump(what, out, *args):
    subprocess.run([BIN, "dump", what, "--out", out, *map(str, args)], check=True, stdout=subprocess.DEVNULL)
    return out


cases = json.loads(subprocess.run([BIN, "check", "--all", "--json"], stdout=subprocess.PIPE, text=True).stdout)
print(f"`selfreward check --all` on {cases['device']['name']}: {cases['passed']} passed, {cases['failed']} failed.\n")
print("| kernel | variant | cases | largest error | in ulp | its tolerance |\n|---|---|---|---|---|---|")
groups = {}
for c in (c for c in cases["cases"] if c["inputs"] == "normal"):
    groups.setdefault((c["kernel"], c["variant"]), []).append(c)
for (kernel, variant), rows in groups.items():
    w = max(rows, key=lambda c: c["max_error"] / max(c["tolerance"], 1e-300))
    print(f"| {kernel} | {variant} | {len(rows)} | {w['max_error']:.1e} | {w['max_ulp']:.0f} | {w['tolerance']:.0e} |")

print("\n| golden | logits | hidden | gradients (DPO) | worst parameter | AdamW, 10 steps |\n|---|---|---|---|---|---|")
for name in sorted(os.listdir(GOLDEN)):
    d = f"{GOLDEN}/{name}"
    if not all(os.path.exists(f"{d}/{f}") for f in ("config.json", "expected.json", "tokens.json", "logits.safetensors")):
        continue
    e = json.load(open(f"{d}/expected.json"))
    with tempfile.TemporaryDirectory() as t:
        logits = worst(dump("logits", f"{t}/l", "--model", d, "--tokens", f"{d}/tokens.json"), f"{d}/logits.safetensors")
        row = [f"{logits[0]:.1e}", "", "", "", ""]
        if os.path.exists(f"{d}/hidden.safetensors"):
            tokens = json.load(open(f"{d}/tokens.json"))[:3]
            json.dump(tokens, open(f"{t}/tokens.json", "w"))
            row[1] = f"{worst(dump('hidden', f'{t}/h', '--model', d, '--tokens', f'{t}/tokens.json'), f'{d}/hidden.safetensors')[0]:.1e}"
        if os.path.exists(f"{d}/grads.sigmoid.safetensors"):
            a, o = e.get("adamw"), f"{t}/dpo"
            steps = ["--steps", len(a["trajectory"]), "--lr", a["lr"], "--betas", ",".join(map(str, a["betas"])), "--eps", a["eps"],
                     "--weight-decay", a["weight_decay"], "--max-grad-norm", a["max_grad_norm"]] if a else []
            dump("dpo", o, "--model", d, "--ref", f"{d}/ref", "--data", f"{d}/pairs.jsonl", "--loss", "sigmoid", "--beta", e["dpo"]["beta"], *steps)
            error, parameter = worst(f"{o}/grads.safetensors", f"{d}/grads.sigmoid.safetensors")
            row[2:4] = [f"{error:.1e}", parameter]
            if a:
                got, want = np.array(json.load(open(f"{o}/metrics.json"))["trajectory"]), np.array(a["trajectory"])
                row[4] = f"{(np.abs(got - want).max(0) / np.abs(want).max(0)).max():.1e}"
    print(f"| {name} | " + " | ".join(row) + " |", flush=True)
