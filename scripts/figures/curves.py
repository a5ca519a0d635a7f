"""Draws docs/curves.svg and prints its table in docs/NUMERICS.md: the loss of a training whose products read 16-bit weights, beside f32's.
usage: python scripts/figures/curves.py target/release/selfreward        (no packages; some minutes without a GPU)"""
import json, os, random, subprocess, sys, tempfile

BIN, ROOT = sys.argv[1], os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
MODEL, COLOURS = os.path.join(ROOT, "src/world/m1"), {"f32": "#444", "bf16": "#d55e00", "f16": "#0072b2"}
KINDS = {"upper": str.upper, "reverse": lambda w: w[::-1], "sort": lambda w: "".join(sorted(w)), "double": lambda w: "".join(2 * c for c in w)}


def records(n):
    """Tasks of the small world with the right answer and one with two letters swapped or lost, as token ids (bytes; 1 begins, 2 ends)."""
    draw = random.Random(1)
    for _ in range(n):
        kind, word = draw.choice(list(KINDS)), "".join(draw.choices("abcdefghij", k=draw.randint(4, 6)))
        right = KINDS[kind](word)
        i = draw.randrange(len(right) - 1)
        wrong = right[:i] + right[i + 1] + right[i] + right[i + 2:]
        wrong = wrong if wrong != right else right[:-1]
        ids = lambda text: list(text.encode()) + [2]
        prompt = [1] + list(f"Q: {kind}: {word}\nA: ".encode())
        yield {"prompt_ids": prompt, "completion_ids": ids(right), "chosen_ids": ids(right), "rejected_ids": ids(wrong)}


def losses(command, keys, rate, dtype):
    with tempfile.TemporaryDirectory() as t:
        with open(f"{t}/data.jsonl", "w") as f:
            f.writelines(json.dumps({k: r[k] for k in ["prompt_ids", *keys]}) + "\n" for r in records(1280))
        subprocess.run([BIN, command, "-q", "--model", MODEL, "--data", f"{t}/data.jsonl", "--out", f"{t}/out", "--batch", "32",
                        "--lr", rate, "--schedule", "constant", "--dtype", dtype], check=True, stdout=subprocess.DEVNULL)
        return [json.loads(line)["loss"] for line in open(f"{t}/out/steps.jsonl")]


W, H, LEFT, GAP = 430, 240, 44, 30
svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * W} {H + 70}" font-family="sans-serif" font-size="12">',
       f'<rect width="{2 * W}" height="{H + 70}" fill="#fff"/>']
print("| training | step | f32 | bf16 | f16 |\n|---|---|---|---|---|")
for panel, (command, keys, rate) in enumerate([("sft", ["completion_ids"], "1e-3"), ("dpo", ["chosen_ids", "rejected_ids"], "3e-4")]):
    curves = {d: losses(command, keys, rate, d) for d in COLOURS}
    n, top = len(curves["f32"]), max(max(c) for c in curves.values()) * 1.05
    x = lambda i: panel * W + LEFT + i * (W - LEFT - GAP) / (n - 1)
    y = lambda v: 30 + H - v / top * H
    svg.append(f'<text x="{x(0)}" y="18" font-weight="bold">{command}: loss by step</text>')
    for k in range(5):
        v = top * k / 4
        svg.append(f'<path d="M{x(0)} {y(v):.1f}H{x(n - 1)}" stroke="#ddd"/><text x="{x(0) - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.2f}</text>')
    for i in range(0, n, 10):
        svg.append(f'<text x="{x(i):.1f}" y="{y(0) + 16}" text-anchor="middle">{i + 1}</text>')
    for k, (dtype, curve) in enumerate(curves.items()):
        line = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(curve))
        svg.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[dtype]}" stroke-width="{3 - k}"/>')
        svg.append(f'<text x="{x(0) + 60 * k}" y="{H + 64}" fill="{COLOURS[dtype]}">{dtype}</text>')
    for i in sorted({0, n // 4, n // 2, n - 1}):
        print(f"| {command} | {i + 1} | " + " | ".join(f"{c[i]:.5f}" for c in curves.values()) + " |")
    far = {d: max(abs(a - b) for a, b in zip(c, curves["f32"])) for d, c in curves.items() if d != "f32"}
    print(f"| {command} | largest distance | | {far['bf16']:.1e} | {far['f16']:.1e} |")
open(os.path.join(ROOT, "docs/curves.svg"), "w").write("\n".join(svg + ["</svg>"]) + "\n")
