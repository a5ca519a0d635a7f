"""Makes the folders of tests/golden/lora: PEFT adapters on other golden models and what torch + PEFT compute with them.

usage: python tests/golden/make/lora.py [NAME …]   (torch, transformers, peft, gguf, safetensors; needs the folders of tiny.py, families.py,
quantised.py)

Each folder holds the adapter as PEFT saves it (adapter_config.json with a relative base path, adapter_model.safetensors) and
  logits.safetensors   logits.I [len, V] of the base's tokens.json
  grads.safetensors    gradient of the sigmoid DPO loss on the base's pairs.jsonl by every adapter parameter, PEFT's names
  expected.json        token log-probs, summed log-probs of the answers under the adapter and under the base (the
                       reference), the loss, a 10-step AdamW trajectory, and the origin of it all
"""
import json, os, shutil, sys
import peft, torch, transformers
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..")
BETA, LR, WEIGHT_DECAY, CLIP, STEPS = 0.3, 1e-3, 0.01, 1.0, 10
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    # Every linear layer, odd rank, alpha / sqrt(r).
    "all": ("llama", 800, dict(r=3, lora_alpha=5, target_modules=LINEAR, use_rslora=True)),
    "qv": ("qwen3", 801, dict(r=8, lora_alpha=12, target_modules=["q_proj", "v_proj"])),
    # q, k and v in one matrix, gate and up in another.
    "fused": ("phi3", 802, dict(r=3, lora_alpha=5, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
    # Targets by a pattern, ranks and alphas by patterns, layers left out again. The first pattern that matches decides;
    # PEFT sorts them when it saves, so the order here is the sorted one.
    "patterns": ("qwen3", 804, dict(r=3, lora_alpha=5, use_rslora=True,
                                    target_modules=r"model\.layers\.\d+\.(self_attn\.[qvo]|mlp\.(?!gate)\w+)_proj",
                                    exclude_modules=r".*\.1\.mlp\.up_proj",
                                    rank_pattern={r"layers\.0\.self_attn\.q_proj": 2, r"self_attn\.[qv]_proj": 6},
                                    alpha_pattern={"v_proj": 7, "down_proj": 1.5})),
    # Targets in one block of the two but for one with its whole name, and by the last part of their names elsewhere.
    "blocks": ("llama", 805, dict(r=2, lora_alpha=3, target_modules=["k_proj", "up_proj", "model.layers.0.mlp.down_proj"],
                                  layers_to_transform=[1], layers_pattern=["layers"], exclude_modules=["lm_head"],
                                  rank_pattern={"up_proj": 5})),
    # The embedding and the output matrix, each a matrix of its own; the embedding's tensors have other names.
    "outer": ("llama", 806, dict(r=3, lora_alpha=5, target_modules=["embed_tokens", "lm_head", "q_proj", "v_proj"],
                                 rank_pattern={"lm_head": 6})),
    # The same where both are one matrix: each has its own adapter all the same. The embedding is scaled.
    "tied": ("gemma3", 807, dict(r=4, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "up_proj"])),
    # DoRA on biased projections, and where heads are padded, on the output matrix too.
    "dora": ("qwen2", 808, dict(r=3, lora_alpha=5, target_modules=LINEAR, use_dora=True)),
    "dora_some": ("gemma3", 809, dict(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "lm_head"],
                                      use_dora=True, use_rslora=True)),
    # DoRA of the embedding and the output matrix, each a matrix of its own, and where they are one and the embedding is scaled.
    "dora_outer": ("llama", 810, dict(r=3, lora_alpha=5, target_modules=["embed_tokens", "lm_head", "q_proj", "v_proj"],
                                      use_dora=True)),
    "dora_tied": ("gemma3", 811, dict(r=4, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "up_proj"], use_dora=True,
                                      use_rslora=True)),
    # DoRA over blocks of 4, 5 and 8 bits, with those of the tied output matrix; PEFT lies over what transformers makes of the file.
    "dora_quantised": ("quantised", 812, dict(r=3, lora_alpha=5, target_modules=[*LINEAR, "embed_tokens", "lm_head"],
                                              use_dora=True)),
    # Every linear layer where some blocks are convolutions.
    "convolved": ("lfm2", 814, dict(r=3, lora_alpha=5, target_modules="all-linear")),
    "convolved_dora": ("lfm2_bias", 815, dict(r=2, lora_alpha=5, target_modules=["in_proj", "out_proj", "w1", "k_proj"], use_dora=True)),
    # Every linear layer where some blocks are delta nets, whose first four lie side by side; then some of them, beside gated attention.
    "delta": ("qwen3_5", 817, dict(r=3, lora_alpha=5, target_modules="all-linear")),
    "delta_dora": ("qwen3_5_tied", 818, dict(r=2, lora_alpha=5, target_modules=["in_proj_qkv", "in_proj_a", "out_proj", "q_proj", "v_proj"],
                                             use_dora=True)),
    # Beside attention alone, where some blocks have experts.
    "experts": ("qwen3_moe_some", 816, dict(r=3, lora_alpha=5, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    # Beside experts whose matrices are one tensor, and sinks.
    "stacked_experts": ("gpt_oss", 819, dict(r=3, lora_alpha=5, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    # Names of other families' layers mean nothing here.
    "others": ("qwen3", 813, dict(r=2, lora_alpha=3, target_modules=["c_attn", "o_proj", "query_key_value"])),
    # One adapter for the embedding and the output matrix, which are one. The trajectory is not ours: in PEFT both names share memory,
    # and each step moves it twice.
    "ensured": ("qwen3", 814, dict(r=3, lora_alpha=5, target_modules=["lm_head", "q_proj"], ensure_weight_tying=True, use_dora=True)),
    # A factor on the embedding, on what branches add and on the logits; gate and up are one matrix.
    "multiplied": ("granite4", 815, dict(r=3, lora_alpha=5, target_modules=["q_proj", "input_linear", "output_linear", "embed_tokens", "lm_head"])),
    # Soft caps of scores and logits, the output matrix adapted too.
    "capped": ("gemma2", 815, dict(r=2, lora_alpha=5, target_modules=[*LINEAR, "lm_head"])),
    # Norms behind the branches alone, and over all of q and of k.
    "after": ("olmo3", 816, dict(r=2, lora_alpha=5, target_modules=LINEAR, use_dora=True)),
    # Norms behind the adapted layers.
    "post_norms": ("gemma3", 803, dict(r=2, lora_alpha=5, target_modules=LINEAR)),
}


def token_logps(model, ids):
    lp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return lp.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def answer_logps(model, pairs, side):
    return torch.stack([token_logps(model, p["prompt_ids"] + p[side])[len(p["prompt_ids"]) - 1:].sum() for p in pairs])


def stored(name):
    return (name + ".").replace(".default.", ".").replace("magnitude_vector.weight", "magnitude_vector").rstrip(".")


for name, (base, seed, settings) in CASES.items():
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        continue
    dir, base_dir = os.path.join(GOLDEN, "lora", name), os.path.join(GOLDEN, base)
    shutil.rmtree(dir, ignore_errors=True)
    torch.manual_seed(seed)
    file = {"gguf_file": "model.gguf"} if os.path.exists(f"{base_dir}/model.gguf") else {}
    m = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
                                             **file).eval()
    tokens = json.load(open(f"{base_dir}/tokens.json"))
    pairs = [json.loads(l) for l in open(f"{base_dir}/pairs.jsonl")]
    with torch.no_grad():
        rc, rr = answer_logps(m, pairs, "chosen_ids"), answer_logps(m, pairs, "rejected_ids")
    m = get_peft_model(m, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings)).eval()
    trained = {k: p for k, p in m.named_parameters() if p.requires_grad}
    assert all("lora_" in k for k in trained)
    with torch.no_grad():
        for k, p in trained.items():
            p.mul_(1 + 0.2 * torch.randn_like(p)) if "magnitude" in k else p.normal_(0, 0.1)
    m.save_pretrained(dir)
    os.remove(f"{dir}/README.md")
    config = json.load(open(f"{dir}/adapter_config.json"))
    config["base_model_name_or_path"] = "/".join(["../..", base, *file.values()])
    json.dump(config, open(f"{dir}/adapter_config.json", "w"), indent=1)

    with torch.no_grad():
        save_file({f"logits.{i}": m(torch.tensor([t])).logits[0].contiguous() for i, t in enumerate(tokens)}, f"{dir}/logits.safetensors")
        logps = [token_logps(m, t).tolist() if len(t) > 1 else [] for t in tokens]

    def dpo():
        pc, pr = answer_logps(m, pairs, "chosen_ids"), answer_logps(m, pairs, "rejected_ids")
        return pc, pr, -F.logsigmoid(BETA * (pc - rc - pr + rr)).mean()

    pc, pr, loss = dpo()
    loss.backward()
    save_file({stored(k): p.grad.contiguous().clone() for k, p in trained.items()}, f"{dir}/grads.safetensors")
    optimiser = torch.optim.AdamW(trained.values(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=WEIGHT_DECAY)
    trajectory = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        step = dpo()[2]
        step.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
        trajectory.append([step.item(), norm.item()])
        optimiser.step()
    json.dump({
        "origin": {"script": "tests/golden/make/lora.py", "seed": seed, "base": base, "python": sys.version.split()[0],
                   "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
                   "settings": settings},
        "base": base, "logps": logps,
        "dpo": {"beta": BETA, "ref_logps_chosen": rc.tolist(), "ref_logps_rejected": rr.tolist(),
                "logps_chosen": pc.tolist(), "logps_rejected": pr.tolist(), "loss": loss.item()},
        "adamw": {"lr": LR, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": WEIGHT_DECAY, "max_grad_norm": CLIP,
                  "trajectory": trajectory},
    }, open(f"{dir}/expected.json", "w"), indent=1)
    print(name, loss.item(), trajectory[0], trajectory[-1])
