"""Makes tests/golden/dropout: what PyTorch computes with the masks that docs/NUMERICS.md defines, drawn here in numpy.

usage: python tests/golden/make/dropout.py     (torch, transformers, peft, safetensors, numpy; needs the folders of
                                                losses.py, families.py and lora.py)

On tests/golden/losses (every parameter is trained; pairs share a prompt) and on two adapters on tests/golden/gemma3 (three
layers, norms behind the branches, padded heads; the adapter is trained, with dropout of its input too), LoRA in
tests/golden/lora/post_norms and DoRA in tests/golden/lora/dora_some, and on tests/golden/olmo3 (norms behind the branches alone), one step of SFT on
prompts and chosen answers and one of DPO. Nothing is shared
here: chosen and rejected answers run apart, and each copy of a prompt gets the mask of the shared one. Written:
  expected.json      origin; seed, step, rates; cases: model, kind, the loss, names and sizes of the parameters
                     in the order of their gradients
  grads.safetensors  gradient of each case by all trained parameters, joined
"""
import json, os, sys
import numpy as np
import peft, torch, transformers
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
OUT = os.path.join(GOLDEN, "dropout")
SEED, STEP, RATE, LORA_RATE, BETA = 0x1234_5678_9ABC_DEF0, 5, 0.25, 0.4, 0.3
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def philox(counter, key):
    """Philox 4x32-10 on four arrays of 32-bit words."""
    c, k, low = [np.asarray(x, np.uint64) for x in counter], list(key), np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def halves(x):
    return x & 0xFFFFFFFF, x >> 32


def node(parent, tokens):
    return fnv(parent.to_bytes(8, "little") + b"".join(t.to_bytes(4, "little") for t in tokens))


def mask(module, rows, channels, rate):
    """[T, channels]: 0 or 1 / (1 - rate); rows is a list of (node's key, position)."""
    key = [int(w) for w in philox([STEP, 2, *halves(fnv(module.encode()))], halves(SEED))[:2]]
    channel = np.arange(-(-channels // 4))[None]
    low, high, position = (np.array(x)[:, None] for x in zip(*[(*halves(n), p) for n, p in rows]))
    words = np.stack(np.broadcast_arrays(*philox([channel, position, low, high], key)), -1).reshape(len(rows), -1)[:, :channels]
    return torch.tensor(((words >> np.uint64(8)) / 2**24 >= np.float32(rate)) / (1 - np.float32(rate)), dtype=torch.float32)


assert [int(w) for w in philox([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0])] == \
    [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
rows = None  # of the sequence that runs


class Dropout(torch.nn.Module):
    """Of an adapter's input. Heads are padded to multiples of 4 channels, which o_proj's input shows."""

    def __init__(self, module, head):
        super().__init__()
        self.module, self.head = module, head

    def forward(self, x):
        if not self.module.endswith("o_proj"):
            return x * mask(self.module, rows, x.shape[-1], LORA_RATE)
        heads, padded = x.shape[-1] // self.head, -(-self.head // 4) * 4
        return x * mask(self.module, rows, heads * padded, LORA_RATE).view(-1, heads, padded)[..., : self.head].flatten(1)


def drop_branches(model):
    for l, layer in enumerate(model.model.layers):
        post = hasattr(layer, "post_feedforward_layernorm")
        ends = [layer.post_attention_layernorm, layer.post_feedforward_layernorm] if post else [layer.self_attn, layer.mlp]
        for branch, end in zip(["self_attn", "mlp"], ends):
            def hook(_, __, out, name=f"model.layers.{l}.{branch}"):
                # A reference runs without dropout.
                drop = lambda x: x if rows is None else x * mask(name, rows, x.shape[-1], RATE)
                return (drop(out[0]), *out[1:]) if isinstance(out, tuple) else drop(out)
            end.register_forward_hook(hook)


def answer(model, prompt, ids, number):
    """log p of an answer's tokens; number None runs without dropout."""
    global rows
    parent = node(number or 0, prompt)
    keys = [parent] * len(prompt) + [node(parent, ids)] * len(ids)
    rows = None if number is None else list(zip(keys, range(len(keys))))
    lp = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return lp.gather(-1, torch.tensor(ids)[:, None])[:, 0]


def sft(model, pairs, _):
    seen, logps = {}, []
    for p in pairs:
        number = seen.get(tuple(p["prompt_ids"]), 0)
        seen[tuple(p["prompt_ids"])] = number + 1
        logps.append(answer(model, p["prompt_ids"], p["chosen_ids"], number))
    return -torch.cat(logps).mean()


def dpo(model, pairs, reference):
    sides = ["chosen_ids", "rejected_ids"]
    pc, pr = (torch.stack([answer(model, p["prompt_ids"], p[s], 0).sum() for p in pairs]) for s in sides)
    with torch.no_grad():
        rc, rr = (torch.stack([answer(reference, p["prompt_ids"], p[s], None).sum() for p in pairs]) for s in sides)
    return -F.logsigmoid(BETA * (pc - rc - pr + rr)).mean()


def load(base):
    return AutoModelForCausalLM.from_pretrained(os.path.join(GOLDEN, base), dtype=torch.float32, attn_implementation="eager").eval()


os.makedirs(OUT, exist_ok=True)
cases, grads = [], {}
for base, adapter in (("losses", None), ("gemma3", "lora/post_norms"), ("gemma3", "lora/dora_some"), ("olmo3", None)):
    model, reference = load(base), load(base)
    drop_branches(model)
    if adapter:
        model = peft.PeftModel.from_pretrained(model, os.path.join(GOLDEN, adapter), is_trainable=True).eval()
        for name, module in model.base_model.model.named_modules():
            if isinstance(module, peft.tuners.lora.Linear):
                module.lora_dropout["default"] = Dropout(name, model.config.head_dim)
                # With DoRA dropout acts in training alone, and on what goes into the base's weight too.
                module.training = True
    pairs = [json.loads(l) for l in open(os.path.join(GOLDEN, base, "pairs.jsonl"))]
    stored = lambda k: k.replace(".default.", ".").replace("magnitude_vector.weight", "magnitude_vector")
    trained = {stored(k): p for k, p in model.named_parameters() if p.requires_grad}
    for kind in (sft, dpo):
        model.zero_grad()
        loss = kind(model, pairs, reference)
        loss.backward()
        grads[str(len(cases))] = torch.cat([p.grad.flatten() for p in trained.values()])
        cases.append({"base": base, "model": adapter or base, "kind": kind.__name__, "loss": loss.item(),
                      "parameters": {k: p.numel() for k, p in trained.items()}})
        print(adapter or base, kind.__name__, loss.item(), grads[str(len(cases) - 1)].norm().item())
save_file(grads, f"{OUT}/grads.safetensors")
os.chmod(f"{OUT}/grads.safetensors", 0o644)
json.dump({"origin": {"script": "tests/golden/make/dropout.py", "python": sys.version.split()[0], "numpy": np.__version__,
                      "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
           "seed": SEED, "step": STEP, "dropout": RATE, "lora_dropout": LORA_RATE, "beta": BETA, "cases": cases},
          open(f"{OUT}/expected.json", "w"), indent=1)
