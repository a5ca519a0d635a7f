"""Draws docs/cost.svg and prints its table in docs/SCALING.md: how the time of a model with random weights grows with tokens, layers, batch and vocabulary.
usage: python scripts/figures/cost.py target/release/selfreward        (no packages; some minutes without a GPU)"""
import json, math, os, subprocess, sys, tempfile

BIN, DOCS = sys.argv[1], os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs")
BASE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 8192, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}
DECODED = 8


def phases(prefill=64, **changed):
    """Milliseconds and counted work of each phase."""
    with tempfile.TemporaryDirectory() as t:
        path = os.path.join(t, "config.json")
        json.dump(BASE | changed, open(path, "w"))
        out = subprocess.run([BIN, "bench", "-q", "--json", "--config", path, "--prefill", str(prefill), "--decode", str(DECODED), "--pairs", "1,8,8"],
                             check=True, stdout=subprocess.PIPE).stdout
    return {p["name"]: p for p in json.loads(out)["model"]["phases"]}


def decode(found, batch=1):
    p = found[f"decode of {DECODED} x {batch}"]
    return {k: p[k] / DECODED for k in ("ms", "flops", "bytes")}


layers = {n: phases(num_hidden_layers=n) for n in (1, 2, 4, 8, 16)}
tokens = {n: phases(prefill=n) for n in (64, 128, 256, 512, 1024, 2048)}
vocabulary = {n: phases(vocab_size=n) for n in (2048, 8192, 32768, 131072)}
PANELS = [("prefill, by tokens", {n: p[f"prefill of {n}"] for n, p in tokens.items()}),
          ("a decoded token, by layers", {n: decode(p) for n, p in layers.items()}),
          ("a decode step, by batch", {b: decode(layers[4], b) for b in (1, 8, 32)}),
          ("a decoded token, by vocabulary", {n: decode(p) for n, p in vocabulary.items()})]

W, H, LEFT, TOP = 380, 200, 56, 34
svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * W} {2 * (H + 70)}" font-family="sans-serif" font-size="12">',
       f'<title>Time by tokens, layers, batch and vocabulary</title><rect width="{2 * W}" height="{2 * (H + 70)}" fill="#fff"/>']
print("| what | size | ms | MFLOP counted | MB counted |\n|---|---|---|---|---|")
for panel, (title, points) in enumerate(PANELS):
    sizes, ms = list(points), [p["ms"] for p in points.values()]
    for n, p in points.items():
        print(f"| {title} | {n:,} | {p['ms']:.1f} | {p['flops'] / 1e6:,.0f} | {p['bytes'] / 1e6:,.0f} |")
    left, top = panel % 2 * W + LEFT, panel // 2 * (H + 70) + TOP
    low, high = math.floor(math.log10(min(ms))), math.ceil(math.log10(max(ms)))
    x = lambda n: left + 12 + math.log(n / sizes[0]) / math.log(sizes[-1] / sizes[0]) * (W - LEFT - 40)
    y = lambda v: top + H - (math.log10(v) - low) / (high - low) * H
    svg.append(f'<text x="{left}" y="{top - 14}" font-weight="bold">{title}: ms</text>')
    for k in range(low, high + 1):
        svg.append(f'<path d="M{left} {y(10 ** k):.1f}H{left + W - LEFT - 16}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y(10 ** k) + 4:.1f}" text-anchor="end">{10 ** k:g}</text>')
    for n in sizes:
        svg.append(f'<text x="{x(n):.1f}" y="{top + H + 16}" text-anchor="middle">{n}</text>')
    line = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in zip(sizes, ms))
    svg.append(f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    svg.extend(f'<circle cx="{x(n):.1f}" cy="{y(v):.1f}" r="3" fill="#0072b2"/>' for n, v in zip(sizes, ms))
open(os.path.join(DOCS, "cost.svg"), "w").write("\n".join(svg + ["</svg>"]) + "\n")
