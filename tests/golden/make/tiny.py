"""Makes tests/golden/{llama,tied,qwen3}: tiny models with random weights and what PyTorch computes from them.

usage: python tests/golden/make/tiny.py        (torch, transformers, safetensors; writes beside this script's folder)

Each folder holds the model (config.json, model.safetensors), `ref/` (the same weights slightly moved, in f16), the
inputs (tokens.json, pairs.jsonl, sft.jsonl) and the expected values:
  logits.safetensors         logits.I [len, V]
  hidden.safetensors         hidden.I.L [len, D]: before block L; the last one after the final norm (I < 3)
  grads.sigmoid.safetensors  gradient of the sigmoid DPO loss by every parameter
  grads.sft.safetensors      gradient of the SFT loss by every parameter (not for qwen3)
  expected.json              token log-probs, greedy continuations with the gap between the two best logits, the DPO
                             losses, a 10-step AdamW trajectory, the SFT loss, and the origin of it all
"""
import copy, json, math, os, shutil, sys
import torch, transformers, safetensors
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
BETA, SMOOTHING, LR, WEIGHT_DECAY, CLIP, STEPS, NEW = 0.3, 0.1, 3e-4, 0.01, 1.0, 10, 24
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
common = dict(num_hidden_layers=2, max_position_embeddings=256, bos_token_id=1, pad_token_id=0)
CASES = {
    # No size a multiple of 4 but one, head_dim apart from hidden_size / heads, grouped queries, separate output matrix.
    "llama": (700, LlamaConfig(**common, vocab_size=103, hidden_size=42, intermediate_size=55, num_attention_heads=6,
                               num_key_value_heads=2, head_dim=10, tie_word_embeddings=False, rms_norm_eps=1e-5,
                               rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Odd width, one key head, tied, Llama 3's frequency scaling.
    "tied": (701, LlamaConfig(**common, vocab_size=101, hidden_size=33, intermediate_size=50, num_attention_heads=3,
                              num_key_value_heads=1, head_dim=12, tie_word_embeddings=True, rms_norm_eps=1e-6,
                              rope_parameters={"rope_type": "llama3", "rope_theta": 50000.0, "factor": 4.0,
                                               "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                               "original_max_position_embeddings": 64})),
    "qwen3": (702, Qwen3Config(**common, vocab_size=97, hidden_size=36, intermediate_size=60, num_attention_heads=4,
                               num_key_value_heads=2, head_dim=14, tie_word_embeddings=True, rms_norm_eps=1e-6,
                               rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
}


def token_logps(model, ids):
    """log p of ids[1:], each given what precedes it."""
    lp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return lp.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def answer_logps(model, pairs, side):
    return torch.stack([token_logps(model, p["prompt_ids"] + p[side])[len(p["prompt_ids"]) - 1:].sum() for p in pairs])


def greedy(model, ids, stop):
    out, gaps = [], []
    with torch.no_grad():
        while len(out) < NEW and (not out or out[-1] != stop):
            top = model(torch.tensor([ids + out])).logits[0, -1].topk(2)
            out.append(int(top.indices[0]))
            gaps.append(round(float(top.values[0] - top.values[1]), 6))
    return out, gaps


def losses(c, r, nc, nr):
    """Every loss from the log-ratios c (chosen) and r (rejected), [pairs]; nc and nr are the answers' lengths."""
    S, d, b, s = F.logsigmoid, c - r, BETA, SMOOTHING
    gate = torch.sigmoid(b * d / 0.05)
    return {
        "sigmoid": -S(b * d),
        "hinge": torch.relu(1 - b * d),
        "ipo": (c / nc - r / nr - 1 / (2 * b)) ** 2,
        "robust": (-(1 - s) * S(b * d) + s * S(-b * d)) / (1 - 2 * s),
        "sigmoid_norm": -S(b * (c / nc - r / nr)),
        "apo_zero": 1 - torch.sigmoid(b * c) + torch.sigmoid(b * r),
        "apo_down": torch.sigmoid(b * c) + 1 - torch.sigmoid(b * d),
        "nca_pair": -S(b * c) - 0.5 * S(-b * c) - 0.5 * S(-b * r),
        "sppo_hard": (c - 0.5 / b) ** 2 + (r + 0.5 / b) ** 2,
        "exo_pair": torch.sigmoid(b * d) * (S(b * d) - math.log1p(-s)) + torch.sigmoid(-b * d) * (S(-b * d) - math.log(s)),
        "bco_pair": -S(b * c) - S(-b * r),
        "discopop": -S(b * d) * (1 - gate) + torch.exp(-b * d) * gate,
    }


def gradients(model):
    return {k: p.grad.contiguous().clone() for k, p in model.named_parameters()}


def jsonl(path, rows):
    with open(path, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)


for name, (seed, config) in CASES.items():
    dir = os.path.join(OUT, name)
    shutil.rmtree(dir, ignore_errors=True)
    torch.manual_seed(seed)
    config.eos_token_id = None
    m = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(0, 0.15) if p.dim() > 1 else p.add_(torch.randn_like(p) * 0.1)
    g = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(3, config.vocab_size, (n,), generator=g).tolist()
    tokens = [draw(n) for n in (1, 7, 33, 70)]
    pairs = [dict(prompt_ids=draw(a), chosen_ids=draw(b), rejected_ids=draw(c)) for a, b, c in ((5, 9, 4), (12, 3, 17), (1, 21, 20), (8, 1, 6))]
    sft = [dict(prompt_ids=draw(a), completion_ids=draw(b)) for a, b in ((6, 11), (1, 5), (19, 2))]

    # At least one continuation is to end early and the others late: the stop token is chosen among those written.
    free = [greedy(m, t, None)[0] for t in tokens]
    ends = lambda stop: [c.index(stop) if stop in c else NEW for c in free]
    stop = max((t for c in free for t in c[4:] if min(ends(t)) < NEW and min(ends(t)) >= 4), key=lambda t: sum(ends(t)))
    config.eos_token_id = m.config.eos_token_id = m.generation_config.eos_token_id = stop
    m.save_pretrained(dir)
    ref = copy.deepcopy(m)
    with torch.no_grad():
        for p in ref.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.01)
    ref.half().save_pretrained(os.path.join(dir, "ref"))
    # Read back, for half() has rounded more than what is saved: the rotation frequencies.
    ref = AutoModelForCausalLM.from_pretrained(os.path.join(dir, "ref"), dtype=torch.float32, attn_implementation="eager").eval()

    json.dump(tokens, open(f"{dir}/tokens.json", "w"))
    jsonl(f"{dir}/pairs.jsonl", pairs)
    jsonl(f"{dir}/sft.jsonl", sft)
    with torch.no_grad():
        outs = [m(torch.tensor([t]), output_hidden_states=True) for t in tokens]
        save_file({f"logits.{i}": o.logits[0].contiguous() for i, o in enumerate(outs)}, f"{dir}/logits.safetensors")
        save_file({f"hidden.{i}.{l}": h[0].contiguous().clone() for i, o in enumerate(outs[:3]) for l, h in enumerate(o.hidden_states)}, f"{dir}/hidden.safetensors")
        logps = [token_logps(m, t).tolist() if len(t) > 1 else [] for t in tokens]
        rc, rr = answer_logps(ref, pairs, "chosen_ids"), answer_logps(ref, pairs, "rejected_ids")
    continued = [greedy(m, t, stop) for t in tokens]
    nc, nr = (torch.tensor([float(len(p[k])) for p in pairs]) for k in ("chosen_ids", "rejected_ids"))

    def dpo():
        pc, pr = answer_logps(m, pairs, "chosen_ids"), answer_logps(m, pairs, "rejected_ids")
        return pc, pr, {k: v.mean() for k, v in losses(pc - rc, pr - rr, nc, nr).items()}

    pc, pr, all_losses = dpo()
    all_losses["sigmoid"].backward()
    save_file(gradients(m), f"{dir}/grads.sigmoid.safetensors")
    m.zero_grad()
    lp = torch.cat([token_logps(m, s["prompt_ids"] + s["completion_ids"])[len(s["prompt_ids"]) - 1:] for s in sft])
    sft_loss = -lp.mean()
    sft_loss.backward()
    if name != "qwen3":
        save_file(gradients(m), f"{dir}/grads.sft.safetensors")

    optimiser = torch.optim.AdamW(m.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=WEIGHT_DECAY)
    trajectory = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = dpo()[2]["sigmoid"]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(m.parameters(), CLIP)
        trajectory.append([loss.item(), norm.item()])
        optimiser.step()

    expected = {
        "origin": {"script": "tests/golden/make/tiny.py", "seed": seed, "python": sys.version.split()[0], "torch": torch.__version__,
                   "transformers": transformers.__version__, "safetensors": safetensors.__version__, "config": json.loads(config.to_json_string())},
        "logps": logps,
        "greedy": [c[0] for c in continued], "greedy_gaps": [c[1] for c in continued], "max_new_tokens": NEW,
        "dpo": {"beta": BETA, "label_smoothing": {k: SMOOTHING if k in ("robust", "exo_pair") else 0.0 for k in all_losses},
                "ref_logps_chosen": rc.tolist(), "ref_logps_rejected": rr.tolist(),
                "logps_chosen": pc.tolist(), "logps_rejected": pr.tolist(), "loss": {k: v.item() for k, v in all_losses.items()}},
        "adamw": {"loss": "sigmoid", "lr": LR, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": WEIGHT_DECAY, "max_grad_norm": CLIP,
                  "trajectory": trajectory},
        "sft": {"loss": sft_loss.item()},
    }
    json.dump(expected, open(f"{dir}/expected.json", "w"), indent=1)
    print(name, {k: round(v.item(), 4) for k, v in all_losses.items()}, trajectory[0], trajectory[-1], min(min(x[1]) for x in continued))
    for c in continued:
        print("  ", c[0])
