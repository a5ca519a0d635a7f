"""Prints the computed tables of docs/SCALING.md: what data-parallel training sends, and how long that takes beside the computing.
usage: python scripts/figures/scaling.py        (plain Python; prints Markdown)"""

MODELS = {  # hidden, layers, query heads, key/value heads, head width, MLP width, vocabulary, whether the head is the embedding
    "SmolLM2-135M": (576, 30, 9, 3, 64, 1536, 49152, True),
    "Llama-3.2-1B (1.2B)": (2048, 16, 32, 8, 64, 8192, 128256, True),
    "Mistral-7B-v0.3 (7B)": (4096, 32, 32, 8, 128, 14336, 32768, False),
}
RANK = 16           # of the adapters, on all linear layers
RANKS = (2, 4, 8, 16, 32, 64)
GBITS = (1, 10, 100)
# Assumptions, not measurements.
FLOPS = 10e12       # sustained by one GPU, a second
HOST = 12e9         # bytes a second between the GPU and its host
TOKENS = 8192       # of one GPU's share of a step: 8 pairs of some 1,000 tokens
STEP = 65536        # of a whole step that does not grow with the ranks


def linears(d, heads, kv, width, mlp):
    """(in, out) of a block's linear layers: q, k, v, o, gate, up, down."""
    return [(d, heads * width), (d, kv * width), (d, kv * width), (heads * width, d), (d, mlp), (d, mlp), (mlp, d)]


def parameters(d, layers, heads, kv, width, mlp, vocabulary, tied):
    """(all weights, those that products read, an adapter's)."""
    shapes = linears(d, heads, kv, width, mlp)
    block = sum(i * o for i, o in shapes)
    full = vocabulary * d * (1 if tied else 2) + layers * (block + 2 * d) + d
    return full, layers * block + vocabulary * d, layers * RANK * sum(i + o for i, o in shapes)


def sent(values, n):
    """Bytes that a rank sends in a step: as many as with a ring."""
    return 2 * (n - 1) / n * 4 * values


def seconds(flops, tokens, values, n, gbit):
    """(computing, exchanging) of a step with so many tokens on each rank."""
    return flops * tokens / FLOPS, sent(values, n) * 8 / (gbit * 1e9) + (2 * 4 * values / HOST if n > 1 else 0)


print("| model | weights | a block's linear layers (in × out) | trained: all | trained: LoRA, r = %d |\n|---|---|---|---|---|" % RANK)
for name, shape in MODELS.items():
    full, _, lora = parameters(*shape)
    d, layers, heads, kv, width, mlp = shape[:6]
    text = ", ".join(f"{i} × {o}" for i, o in dict.fromkeys(linears(d, heads, kv, width, mlp)))
    print(f"| {name} | {full:,} | {layers} blocks of {text} | {4 * full / 1e6:,.0f} MB a step | {lora:,}: {4 * lora / 1e6:,.1f} MB a step |")

for name, shape in MODELS.items():
    full, read, lora = parameters(*shape)
    # Forward 2, gradients by the inputs 2, by the weights 2 flops a weight and token; an adapter leaves out the last.
    for kind, values, flops in (("all weights", full, 6 * read), (f"LoRA, r = {RANK}", lora, 4 * read)):
        print(f"\n{name}, {kind}: computing takes {flops * TOKENS / FLOPS:.2f} s a step of {TOKENS:,} tokens a rank\n")
        heads = [f"{what}, {g} Gbit/s" for what in ("exchange", "its share", "speed-up") for g in GBITS]
        print("| ranks | sent by each | " + " | ".join(heads) + " |\n" + "|---" * (2 + len(heads)) + "|")
        for n in RANKS:
            weak = [seconds(flops, TOKENS, values, n, g) for g in GBITS]
            strong = [seconds(flops, STEP / n, values, n, g) for g in GBITS]
            alone = flops * STEP / FLOPS
            cells = [f"{x:.3g} s" for _, x in weak] + [f"{100 * x / (c + x):.0f} %" for c, x in weak] + [f"{alone / (c + x):.1f}" for c, x in strong]
            print(f"| {n} | {sent(values, n) / 1e6:,.0f} MB | " + " | ".join(cells) + " |")
