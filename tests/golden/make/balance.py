"""Makes tests/golden/balance: golden models with experts trained one step with their routers' auxiliary loss, as transformers computes it.

usage: python tests/golden/make/balance.py   (torch, transformers, peft, safetensors; needs the folders of families.py and lora.py)

expected.json holds, for each model, a weight of the loss, pairs of which two share their prompt and their chosen answer, and the losses; the
files beside it hold gradients. `sft` is the cross-entropy of the chosen answers, one padded batch, with the loss that the model's own forward
pass adds; `dpo` the sigmoid loss of all pairs without a reference's log-probs, chosen and rejected answers with their prompts in one padded
batch, and the auxiliary loss of that batch as TRL's DPOTrainer adds it. Of the gradients those of the routers, of norms and of queries are
kept, and of an adapter all.
"""
import json, os, sys
import peft, torch, transformers
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
OUT = os.path.join(GOLDEN, "balance")
BETA, WEIGHT = 0.3, 0.4
MODELS = ["qwen3_moe", "qwen3_moe_some", "olmoe", "gpt_oss"]
ADAPTER = "experts"
# One formula for attention and for mixtures of experts, without fused kernels.
EAGER = dict(attn_implementation="eager", experts_implementation="eager")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def batch(rows):
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, mask, labels = [], [], []
    for prompt, answer in rows:
        pad = longest - len(prompt) - len(answer)
        ids.append(prompt + answer + [0] * pad)
        mask.append([1] * (longest - pad) + [0] * pad)
        labels.append([-100] * len(prompt) + answer + [-100] * pad)
    return dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)), torch.tensor(labels)


def sft(m, pairs):
    inputs, labels = batch([(p["prompt_ids"], p["chosen_ids"]) for p in pairs])
    out = m(**inputs, labels=labels, output_router_logits=True)
    return out.loss, out.aux_loss


def dpo(m, pairs):
    inputs, labels = batch([(p["prompt_ids"], p[side]) for side in ("chosen_ids", "rejected_ids") for p in pairs])
    out = m(**inputs, output_router_logits=True)
    logps = out.logits[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    logps = logps.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)
    chosen, rejected = logps.sum(-1).chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean() + WEIGHT * out.aux_loss, out.aux_loss


def kept(name):
    return "lora_" in name or "mlp.gate.weight" in name or "mlp.router." in name or "norm.weight" in name or "q_proj.weight" in name


os.makedirs(OUT, exist_ok=True)
models = {}
for name in [*MODELS, ADAPTER]:
    base = json.load(open(f"{GOLDEN}/lora/{name}/expected.json"))["origin"]["base"] if name == ADAPTER else name
    pairs = [json.loads(line) for line in open(f"{GOLDEN}/{base}/pairs.jsonl")]
    pairs.append({**pairs[0], "rejected_ids": pairs[1]["chosen_ids"]})
    m = AutoModelForCausalLM.from_pretrained(f"{GOLDEN}/{base}", dtype=torch.float32, **EAGER).eval()
    m.router_aux_loss_coef = WEIGHT
    if name == ADAPTER:
        m = PeftModel.from_pretrained(m, f"{GOLDEN}/lora/{name}", is_trainable=True).eval()
    models[name] = {"pairs": pairs}
    for of in (sft, dpo):
        m.zero_grad()
        loss, aux = of(m, pairs)
        loss.backward()
        grads = {k.replace(".default", ""): p.grad.contiguous().clone() for k, p in m.named_parameters() if p.grad is not None and kept(k)}
        file = f"{OUT}/{name}.{of.__name__}.safetensors"
        save_file(grads, file)
        os.chmod(file, 0o644)
        models[name][of.__name__] = {"loss": loss.item(), "aux_loss": aux.item()}
    print(name, {k: v for k, v in models[name].items() if k != "pairs"})
origin = {"script": "tests/golden/make/balance.py", "python": sys.version.split()[0], "torch": torch.__version__,
          "transformers": transformers.__version__, "peft": peft.__version__}
json.dump({"origin": origin, "beta": BETA, "weight": WEIGHT, "models": models}, open(f"{OUT}/expected.json", "w"), indent=1)
