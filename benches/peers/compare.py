"""Runs selfreward and its peers in turn and prints the ratios; `benches/peers/run` says what it needs."""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# N x K of y = x W in SmolLM2-135M's layers: output and query; q, k and v; gate or up; both; down.
LAYERS = [(576, 576), (960, 576), (1536, 576), (3072, 576), (576, 1536)]
ROWS = [1, 8, 128, 512]
SHAPES = [(m, n, k) for n, k in LAYERS for m in ROWS]
PRODUCTS = {"y": "y = x W", "dx": "dx = dy W^T", "dw": "dW = x^T dy"}
# Timed runs of a product in each round, ours as theirs.
RUNS = 7

parser = argparse.ArgumentParser()
parser.add_argument("--ours", required=True)
parser.add_argument("--peers", required=True, type=Path)
parser.add_argument("--model", required=True)
parser.add_argument("--rounds", required=True, type=int)
parser.add_argument("--part", choices=["models", "products"])
args = parser.parse_args()


def call(*command, **environment):
    print("==", Path(command[0]).name, *(c for c in command[1:] if "," not in c), file=sys.stderr, flush=True)
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def ours(*options):
    return call(args.ours, "bench", "--json", *options)


def named(shape):
    """A product as burn.rs names it, by the shape that `bench` prints."""
    kind, sizes = shape.split()
    a, b, c = map(int, sizes.split("x"))
    m, n, k = {"forward": (a, c, b), "forward_nt": (a, b, c), "forward_tn": (b, c, a)}[kind]
    return "{} {}x{}x{}".format({"forward": "y", "forward_nt": "dx", "forward_tn": "dw"}[kind], m, n, k)


device = ours("--shape", "1,64,64")["device"]
# A software adapter has to be asked for by name; others are what every program takes by itself.
software = {"GGML_VK_VISIBLE_DEVICES": "0", "CUBECL_WGPU_DEFAULT_DEVICE": "Cpu"} if device["software"] else {}
figures = {}


def note(who, what, value):
    figures.setdefault((who, what), []).append(value)


def products():
    for shape in (",".join(map(str, s)) for s in SHAPES):
        for row in ours("--backward", "--runs", str(RUNS), "--shape", shape)["kernels"]:
            note("ours", named(row["shape"]), row["gflops"])
        for what, value in call(str(args.peers / "burn"), str(RUNS), shape, **software).items():
            note("burn", what, value)


def models():
    speed = ours("--model", args.model, "--prefill", "128", "--decode", "16", "--pairs", "1,64,64")["model"]
    note("ours", "prefill", speed["prefill_tok_s"])
    note("ours", "decode 1", speed["decode_tok_s_batch"]["1"])
    note("ours", "decode 8", speed["decode_tok_s_batch"]["8"])
    note("ours", "pairs", speed["dpo_pairs_s"])
    for place, hidden in (("gpu", software), ("cpu", {"GGML_VK_VISIBLE_DEVICES": ""})):
        llama = call(str(args.peers / "llama"), args.model, place, **hidden)
        note(place, "prefill", llama["prefill_tok_s"])
        note(place, "decode 1", llama["decode_tok_s"]["1"])
        note(place, "decode 8", llama["decode_tok_s"]["8"])
        note(place, "device", llama["device"])
    note("torch", "pairs", call(sys.executable, str(Path(__file__).with_name("torch_dpo.py")), "3")["pairs_s"])


def of(who, what):
    return statistics.median(figures[who, what])


def line(label, peer, who, what):
    mine, theirs = of("ours", what), of(who, what)
    print(f"| {label} | {mine:.2f} | {theirs:.2f} | {mine / theirs:.2f} | {peer} |")


def print_models():
    print("\n| SmolLM2-135M | ours | theirs | ratio | peer |\n|---|---|---|---|---|")
    for what, label in (("prefill", "prefill(128), tok/s"), ("decode 1", "decode, tok/s"), ("decode 8", "decode of 8, tok/s")):
        line(label, "llama.cpp, Vulkan: " + figures["gpu", "device"][0], "gpu", what)
        line(label, "llama.cpp, CPU, for scale", "cpu", what)
    line("DPO, pairs/s (64 + 64 + 64 tokens)", "torch, CPU", "torch", "pairs")


def print_products():
    print("\nGFLOP/s of ours / burn-wgpu's = ratio, by M:\n")
    print("| N x K | product | " + " | ".join(map(str, ROWS)) + " |\n|---|---|" + "---|" * len(ROWS))
    ratios = {}
    for n, k in LAYERS:
        for kind, text in PRODUCTS.items():
            cells = []
            for m in ROWS:
                what = f"{kind} {m}x{n}x{k}"
                ratios[what] = of("ours", what) / of("burn", what)
                cells.append(f"{of('ours', what):.1f} / {of('burn', what):.1f} = {ratios[what]:.2f}")
            print(f"| {n} x {k} | {text} | " + " | ".join(cells) + " |")

    def mean(of_these):
        return statistics.geometric_mean(v for what, v in ratios.items() if of_these(what))

    least = min(ratios, key=ratios.get)
    print(f"\nGeometric mean {mean(lambda _: True):.2f}; minimum {ratios[least]:.2f} ({least}).")
    print("By product: " + ", ".join(f"{kind} {mean(lambda w: w.split()[0] == kind):.2f}" for kind in PRODUCTS) + ".")
    print("By M: " + ", ".join(f"{m}: {mean(lambda w: w.split()[1].startswith(f'{m}x')):.2f}" for m in ROWS) + ".")
    lost = sorted((v, what) for what, v in ratios.items() if v < 1)
    print(f"Lost, {len(lost)} of {len(ratios)}: " + ", ".join(f"{what} {v:.2f}" for v, what in lost) + ".")


parts = {"models": (models, print_models), "products": (products, print_products)}
chosen = [args.part] if args.part else list(parts)
load = os.getloadavg()[0]
for _ in range(args.rounds):
    for part in chosen:
        parts[part][0]()
print(f"{device['name']} ({device['backend']}, {device['driver']}), {os.cpu_count()} cores, load average {load:.1f} at the start.")
print(f"Medians of {args.rounds} rounds; a ratio below 1 is lost.")
for part in chosen:
    parts[part][1]()
