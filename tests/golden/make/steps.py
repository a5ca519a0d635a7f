"""Makes tests/golden/*/steps.safetensors: every parameter of a golden model after two AdamW steps, as PyTorch takes them.

usage: python tests/golden/make/steps.py [NAME ...]
       (torch, transformers, safetensors; needs the folders of tiny.py and families.py: those named, else all that have gradients)

Each step goes by the sigmoid DPO loss of pairs.jsonl against the reference's log-probs of expected.json, as the gradients do. The
settings stand in steps.json, which is made too. eps is larger than is usual, so that the step of a number whose gradient is nothing but rounding
is not decided by its sign.
"""
import glob, json, os, sys
import torch, transformers
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
SETTINGS = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.01, "max_grad_norm": 1.0, "steps": 2}
# One formula for attention and for mixtures of experts, without fused kernels.
EAGER = dict(attn_implementation="eager", experts_implementation="eager")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def answer(model, pair, side):
    ids, first = pair["prompt_ids"] + pair[side], len(pair["prompt_ids"]) - 1
    lp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return lp.gather(-1, torch.tensor(ids[1:])[:, None])[first:, 0].sum()


for dir in sorted(os.path.dirname(path) for path in glob.glob(f"{GOLDEN}/*/grads.sigmoid.safetensors")):
    name = os.path.basename(dir)
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    m = AutoModelForCausalLM.from_pretrained(dir, dtype=torch.float32, **EAGER).eval()
    pairs = [json.loads(line) for line in open(f"{dir}/pairs.jsonl")]
    dpo = json.load(open(f"{dir}/expected.json"))["dpo"]
    against = torch.tensor(dpo["ref_logps_chosen"]) - torch.tensor(dpo["ref_logps_rejected"])
    of = SETTINGS
    optimiser = torch.optim.AdamW(m.parameters(), lr=of["lr"], betas=of["betas"], eps=of["eps"], weight_decay=of["weight_decay"])
    for _ in range(of["steps"]):
        optimiser.zero_grad()
        ahead = torch.stack([answer(m, p, "chosen_ids") - answer(m, p, "rejected_ids") for p in pairs])
        loss = -F.logsigmoid(dpo["beta"] * (ahead - against)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), of["max_grad_norm"])
        optimiser.step()
    file = f"{dir}/steps.safetensors"
    save_file({k: p.detach().contiguous().clone() for k, p in m.named_parameters()}, file)
    os.chmod(file, 0o644)
    print(name, loss.item())
origin = {"script": "tests/golden/make/steps.py", "torch": torch.__version__, "transformers": transformers.__version__}
json.dump({"origin": origin, **SETTINGS}, open(f"{GOLDEN}/steps.json", "w"), indent=1)
