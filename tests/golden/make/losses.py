"""Makes tests/golden/losses: every preference loss and option, as TRL computes it on one tiny model.

usage: python tests/golden/make/losses.py        (torch, transformers, trl, safetensors)

TRL's own code is called: `_compute_loss` of DPOTrainer and KTOTrainer on a model that gives log-probs in f64;
`cpo_loss` and `odds_ratio_loss` of the experimental CPO and ORPO trainers with their `get_batch_logps`. Smoothed sigmoid
losses with a reference (TRL 1.16 smooths them in CPO only) are CPO's formula on log-ratios; RPO's NLL is torch's. Written:
  config.json, model.safetensors, ref/   the model and the reference
  pairs.jsonl, labelled.jsonl            the data
  expected.json     origin; parameters (name, shape) in the order in which gradients are stored; cases: the objective's
                    options, the loss, dloss/dlogps by the first token of each chosen and rejected answer, and what the
                    losses see of each pair
  grads.safetensors gradient of each case by all parameters, joined
"""
import collections, json, os, sys, types
import torch, transformers, trl
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "losses")
SEED, BETA = 710, 0.3
torch.set_num_threads(1)
torch.manual_seed(SEED)
config = LlamaConfig(vocab_size=31, hidden_size=12, intermediate_size=19, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                     head_dim=6, max_position_embeddings=64, tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
                     pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
make = lambda: AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
policy, reference = make(), make()
with torch.no_grad():
    for p, r in zip(policy.parameters(), reference.parameters()):
        p.normal_(0, 0.25) if p.dim() > 1 else p.add_(torch.randn_like(p) * 0.1)
        r.copy_(p + 0.06 * torch.randn_like(p))
policy.save_pretrained(OUT)
reference.save_pretrained(os.path.join(OUT, "ref"))
policy, reference = policy.double(), reference.double()
draw = lambda n: torch.randint(3, 31, (n,)).tolist()
# Two pairs share their prompt and an answer, which is the longer one here and the shorter one there.
prompts, answers = [draw(4), draw(7), draw(1)], [draw(n) for n in (6, 3, 9, 5, 8, 2, 4)]
pairs = [(prompts[0], answers[0], answers[1]), (prompts[0], answers[2], answers[0]), (prompts[1], answers[3], answers[4]), (prompts[2], answers[5], answers[6])]
labels = [True, False, True, False, False]
single = [(prompts[0], answers[0]), (prompts[1], answers[4]), (prompts[2], answers[1]), (prompts[0], answers[2]), (prompts[1], answers[5])]


class Fused(torch.nn.Module):
    """What TRL expects of a model with a fused head."""
    is_gradient_checkpointing = False
    dtype = torch.float64

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels, **_):
        lp = self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1].log_softmax(-1)
        target, zero = labels[:, 1:], torch.zeros((), dtype=lp.dtype)
        mask = target != -100
        logp = torch.where(mask, lp.gather(-1, target.clamp(min=0)[..., None])[..., 0], zero)
        square = torch.where(mask, (2 * lp).logsumexp(-1), zero)
        if logp.requires_grad:
            logp.retain_grad()
            self.last = logp
        return types.SimpleNamespace(log_probs=logp.to(self.dtype), log_sum_sq_probs=square, entropy=zero.expand_as(logp), mean_logits=zero.expand_as(logp), is_top1=mask)


def batch(rows, prefix=""):
    """Ids, padding mask and answer mask of (prompt, answer) rows."""
    n = max(len(p) + len(a) for p, a in rows)
    fill = lambda f: torch.tensor([f(p, a) + [0] * (n - len(p) - len(a)) for p, a in rows])
    return {prefix + "input_ids": fill(lambda p, a: p + a), prefix + "attention_mask": fill(lambda p, a: [1] * len(p + a)),
            prefix + "completion_mask": fill(lambda p, a: [0] * len(p) + [1] * len(a))}


def fake(**fields):
    accelerator = types.SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
    base = dict(accelerator=accelerator, model=models[0], ref_model=models[1], aux_loss_enabled=False, precompute_ref_logps=False, beta=BETA,
                _metrics=collections.defaultdict(lambda: collections.defaultdict(list)), _total_train_tokens=0, _tp_size=1,
                args=types.SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None))
    return types.SimpleNamespace(**{**base, **fields})


models = Fused(policy), Fused(reference)
rows = [(p, c) for p, c, _ in pairs] + [(p, r) for p, _, r in pairs]
data = batch(rows)
data_labels = data["input_ids"].masked_fill(data["completion_mask"] == 0, -100)
N = len(pairs)


def dpo(o):
    t = fake(loss_types=list(o["losses"]), loss_weights=list(o["losses"].values()), label_smoothing=o.get("label_smoothing", 0.0),
             f_divergence_type=o.get("f_divergence", "reverse_kl"), f_alpha_divergence_coef=o.get("f_alpha", 0.5),
             use_weighting=o.get("wpo", False), ld_alpha=o.get("ld_alpha"))
    # The clamp of the alpha divergence knows 16- and 32-bit types only.
    models[0].dtype = models[1].dtype = torch.float32 if o.get("f_divergence") == "alpha_divergence" else torch.float64
    return DPOTrainer._compute_loss(t, models[0], data, False)


def kto(o):
    name = list(o["losses"])[0]
    kl = [(p, single[i - 1][1]) for i, (p, _) in enumerate(single)]
    inputs = {**batch(single), **batch(kl, "KL_"), "label": torch.tensor(labels)}
    t = fake(loss_type=name, calculate_KL=name == "kto", desirable_weight=o.get("desirable_weight", 1.0), undesirable_weight=o.get("undesirable_weight", 1.0))
    t._compute_kl_logps = lambda model, b: KTOTrainer._compute_kl_logps(t, model, b)
    return KTOTrainer._compute_loss(t, models[0], inputs, False)


def logits():
    """Of the policy, as log-probs whose gradient by an answer's tokens can be read."""
    out = policy(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
    out.retain_grad()
    return out


def mean_nll(out, ids):
    return F.cross_entropy(out[:N, :-1].flatten(0, 1), ids[:N, 1:].flatten(), ignore_index=-100)


def cpo(o):
    (name, weight), out = list(o["losses"].items())[0], logits()
    kind = {"cpo": "sigmoid", "cpo_hinge": "hinge", "cpo_ipo": "ipo", "simpo": "simpo"}[name]
    lp = CPOTrainer.get_batch_logps(out, data_labels, average_log_prob=kind in ("ipo", "simpo"))
    t = fake(alpha=0.0, loss_type=kind, simpo_gamma=o.get("simpo_gamma", 0.5), label_smoothing=o.get("label_smoothing", 0.0))
    return weight * CPOTrainer.cpo_loss(t, *lp.chunk(2))[0].mean() + o["losses"].get("sft", 0.0) * mean_nll(out, data_labels), out


def orpo(o):
    out = logits()
    lp = CPOTrainer.get_batch_logps(out, data_labels, average_log_prob=True)
    # TRL casts to f32 there.
    whole = torch.where(data["attention_mask"] == 1, data["input_ids"], -100)
    return mean_nll(out, whole) - ORPOTrainer.odds_ratio_loss(fake(), *lp.chunk(2))[0].mean(), out


def rest(o):
    """Smoothed sigmoid losses with a reference, and RPO's NLL."""
    (name, _), c = list(o["losses"].items())[0], data["completion_mask"][:, 1:]
    lp = models[0](**{k: data[k] for k in ("input_ids", "attention_mask")}, labels=data_labels).log_probs.sum(1)
    with torch.no_grad():
        ref = models[1](**{k: data[k] for k in ("input_ids", "attention_mask")}, labels=data_labels).log_probs.sum(1)
    scores = (lp - ref) / (c.sum(1) if name == "sigmoid_norm" else 1)
    t = fake(alpha=0.0, loss_type="sigmoid", label_smoothing=o.get("label_smoothing", 0.0))
    return (CPOTrainer.cpo_loss(t, *scores.chunk(2))[0] - o.get("nll", 0.0) * (lp / c.sum(1))[:N]).mean()


CASES = []
case = lambda how, losses, **o: CASES.append((how, {"losses": losses if isinstance(losses, dict) else {losses: 1.0}, **o}))
for name in "sigmoid hinge ipo nca_pair bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop sft sigmoid_norm".split():
    case(dpo, name)
for name in ("exo_pair", "robust", "aot", "aot_unpaired"):
    case(dpo, name, label_smoothing=0.1)
for name in ("sigmoid", "ipo", "robust", "sigmoid_norm"):
    for f, alpha in (("forward_kl", 0.5), ("js_divergence", 0.5), ("alpha_divergence", 0.5), ("alpha_divergence", 1.7)):
        if name == "sigmoid" or alpha == 0.5:
            case(dpo, name, f_divergence=f, f_alpha=alpha, **({"label_smoothing": 0.1} if name == "robust" else {}))
for o in (dict(wpo=True), dict(ld_alpha=0.4), dict(wpo=True, ld_alpha=0.0)):
    for losses in ("sigmoid", "ipo", {"sigmoid": 0.8, "sft": 0.3}):
        # TRL 1.16 fails on sft with WPO's weights.
        if not (o.get("wpo") and "sft" in losses):
            case(dpo, losses, **o)
case(dpo, {"sigmoid": 0.8, "sft": 0.2})
case(dpo, {"hinge": 0.5, "aot": 1.5, "bco_pair": 0.25})
case(rest, "sigmoid", label_smoothing=0.1)
case(rest, "sigmoid_norm", label_smoothing=0.2)
case(rest, "sigmoid", nll=0.7)
for name in ("cpo", "cpo_hinge", "cpo_ipo", "simpo"):
    case(cpo, name)
case(cpo, {"cpo": 1.0, "sft": 1.0}, label_smoothing=0.1)
case(cpo, "simpo", simpo_gamma=1.3, label_smoothing=0.1)
case(orpo, "orpo")
case(kto, "kto")
case(kto, "kto", desirable_weight=1.3, undesirable_weight=0.6)
case(kto, "apo_zero_unpaired", desirable_weight=0.9)


# What the losses see is read from the model anew, so that the objective can be tested without a GPU.
def seen(o, how):
    if how is kto:
        rows = single + [(p, single[i - 1][1]) for i, (p, _) in enumerate(single)]
    else:
        rows = [(p, c) for p, c, _ in pairs] + [(p, r) for p, _, r in pairs]
    n, b = len(rows) // 2, batch(rows)
    ids = torch.where(b["attention_mask"] == 1, b["input_ids"], -100)
    with torch.no_grad():
        got = [m(input_ids=b["input_ids"], attention_mask=b["attention_mask"], labels=ids) for m in models]
    answer = lambda g, i: g.log_probs[i, len(rows[i][0]) - 1:len(rows[i][0]) - 1 + len(rows[i][1])]
    out = []
    for k in range(n):
        shared = min(len(rows[k][1]), len(rows[n + k][1]))
        weigh = lambda x: float(x[:shared].sum() + o.get("ld_alpha", 1.0) * x[shared:].sum())
        weight = 1.0
        if o.get("wpo"):
            for i in (k, n + k):
                first = len(rows[i][0]) - 1
                weight *= float((answer(got[0], i) - got[0].log_sum_sq_probs[i, first:first + len(rows[i][1])]).mean().exp())
        out.append({"policy": [weigh(answer(got[0], i)) for i in (k, n + k)], "reference": [weigh(answer(got[1], i)) for i in (k, n + k)],
                    "chosen_sum": float(answer(got[0], k).sum()), "prompt_sum": float(got[0].log_probs[k, :len(rows[k][0]) - 1].sum()), "weight": weight})
    return out


expected, grads = [], {}
for i, (how, o) in enumerate(CASES):
    policy.zero_grad()
    got = how(o)
    if isinstance(got, tuple):
        # d/dlogp of a token from its logits' gradient: an unlisted token's share is -p times it.
        loss, out = got
        loss.backward()
        p, g = out.detach().softmax(-1), out.grad
        def first(row):
            at, token = len(rows[row][0]) - 1, rows[row][1][0]
            return float(g[row, at, token] / (1 - p[row, at, token]))
        d = [[first(k), first(N + k)] for k in range(N)]
    else:
        got.backward()
        loss, last, mine = got, models[0].last.grad, single if how is kto else rows
        first = lambda row: float(last[row, len(mine[row][0]) - 1])
        d = [[first(k), 0.0 if how is kto else first(N + k)] for k in range(len(mine) if how is kto else N)]
    expected.append({"objective": o, "loss": float(loss), "dlogps": d, "seen": seen(o, how)})
    grads[str(i)] = torch.cat([p.grad.flatten() for _, p in policy.named_parameters()]).float().contiguous()
    print(i, o, float(loss))
save_file(grads, os.path.join(OUT, "grads.safetensors"))
with open(os.path.join(OUT, "expected.json"), "w") as f:
    origin = {"script": "tests/golden/make/losses.py", "python": sys.version.split()[0], "seed": SEED,
              **{m.__name__: m.__version__ for m in (torch, transformers, trl)}}
    parameters = [[k, list(p.shape)] for k, p in policy.named_parameters()]
    f.write(f'{{"origin": {json.dumps(origin)},\n"beta": {BETA},\n"parameters": {json.dumps(parameters)},\n"cases": [\n')
    f.write(",\n".join(json.dumps(c) for c in expected) + "\n]}\n")
jsonl = lambda name, all: open(os.path.join(OUT, name), "w").writelines(json.dumps(r) + "\n" for r in all)
jsonl("pairs.jsonl", [dict(prompt_ids=p, chosen_ids=c, rejected_ids=r) for p, c, r in pairs])
jsonl("labelled.jsonl", [dict(prompt_ids=p, completion_ids=a, label=l) for (p, a), l in zip(single, labels)])
for name in ("generation_config.json", "ref/generation_config.json"):
    if os.path.exists(os.path.join(OUT, name)):
        os.remove(os.path.join(OUT, name))
