"""Makes the other families' folders of tests/golden: tiny models with random weights and what transformers computes from them.

usage: python tests/golden/make/families.py [NAME ...]
       (torch, transformers, safetensors; writes beside this script's folder: the folders named, else all)

The files are those that tiny.py describes, without the AdamW trajectory, the other losses and SFT. Folders named rope_*
hold a model and its logits alone: one set of weights under several kinds of rope scaling. So do those named whole_*, models with a tower for
images beside their text part, which alone is asked.
"""
import copy, json, os, shutil, sys
import torch, transformers, safetensors
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, AutoModelForImageTextToText, Gemma2Config, Gemma3Config, Gemma3TextConfig, GptOssConfig, GraniteConfig,
                          GraniteMoeHybridConfig, Lfm2Config, LlamaConfig, Ministral3Config, MinistralConfig, Mistral3Config, MistralConfig,
                          Olmo2Config, Olmo3Config, OlmoeConfig, Phi3Config, PixtralVisionConfig, Qwen2Config, Qwen3_5Config, Qwen3_5TextConfig,
                          Qwen3Config, Qwen3MoeConfig, SiglipVisionConfig, SmolLM3Config)
import torch.nn.functional as F

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
BETA, NEW = 0.3, 12
# One formula for attention and for mixtures of experts, without fused kernels.
EAGER = dict(attn_implementation="eager", experts_implementation="eager")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
common = dict(num_hidden_layers=2, max_position_embeddings=128, bos_token_id=1, pad_token_id=0, rms_norm_eps=1e-5)
default = {"rope_type": "default", "rope_theta": 10000.0}
LENGTHS = (1, 7, 20, 41)
lfm2 = dict(vocab_size=63, hidden_size=20, intermediate_size=40, num_attention_heads=2, num_key_value_heads=1, norm_eps=1e-5, max_position_embeddings=128,
            bos_token_id=1, pad_token_id=0, rope_parameters=default)
CASES = {
    # As many key as query heads, every bias.
    "llama_bias": (710, LlamaConfig(**common, vocab_size=61, hidden_size=24, intermediate_size=27, num_attention_heads=3, num_key_value_heads=3,
                                    head_dim=6, attention_bias=True, mlp_bias=True, rope_parameters=default)),
    "qwen2": (711, Qwen2Config(**common, vocab_size=67, hidden_size=20, intermediate_size=30, num_attention_heads=2, num_key_value_heads=1,
                               use_sliding_window=True, sliding_window=5, max_window_layers=1, rope_parameters=default)),
    "mistral": (712, MistralConfig(**common, vocab_size=65, hidden_size=22, intermediate_size=26, num_attention_heads=4, num_key_value_heads=2,
                                   head_dim=10, sliding_window=9, rope_parameters=default)),
    "gemma3": (713, Gemma3TextConfig(**{**common, "num_hidden_layers": 3}, vocab_size=63, hidden_size=21, intermediate_size=30, num_attention_heads=3,
                                     num_key_value_heads=1, head_dim=14, query_pre_attn_scalar=11, sliding_window=6,
                                     layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                     rope_parameters={"sliding_attention": default,
                                                      "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}})),
    "phi3": (714, Phi3Config(**common, vocab_size=62, hidden_size=24, intermediate_size=27, num_attention_heads=2, num_key_value_heads=1,
                             original_max_position_embeddings=36, sliding_window=17, partial_rotary_factor=0.5,
                             rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                                              "short_factor": [1.0, 1.25, 1.5], "long_factor": [1.5, 3.0, 5.0]})),
    # Convolutions before, between and behind attention; the width of the MLP is not the number in the file.
    "lfm2": (730, Lfm2Config(**lfm2, num_hidden_layers=4, layer_types=["conv", "full_attention", "conv", "conv"], block_multiple_of=6,
                             block_ffn_dim_multiplier=1.1, tie_word_embeddings=True)),
    "lfm2_bias": (731, Lfm2Config(**lfm2, num_hidden_layers=2, full_attn_idxs=[1], conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False,
                                  tie_word_embeddings=False)),
    # Two heads of values share each head of keys, and all sizes of heads are odd ones; the blocks are those that an interval of 4 gives.
    "qwen3_5": (741, Qwen3_5TextConfig(**{**common, "num_hidden_layers": 4}, vocab_size=63, hidden_size=20, intermediate_size=30,
                                       num_attention_heads=2, num_key_value_heads=1, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
                                       linear_key_head_dim=6, linear_value_head_dim=10)),
    # Attention with biases before a delta net of one head of keys and three taps.
    "qwen3_5_tied": (742, Qwen3_5TextConfig(**common, vocab_size=61, hidden_size=22, intermediate_size=27, num_attention_heads=3,
                                            num_key_value_heads=1, head_dim=10, attention_bias=True, linear_num_key_heads=1,
                                            linear_num_value_heads=3, linear_key_head_dim=5, linear_value_head_dim=7, linear_conv_kernel_dim=3,
                                            layer_types=["full_attention", "linear_attention"], tie_word_embeddings=True,
                                            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.4})),
    "smollm3": (715, SmolLM3Config(**{**common, "num_hidden_layers": 3}, vocab_size=64, hidden_size=20, intermediate_size=31, num_attention_heads=2,
                                   num_key_value_heads=1, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=8,
                                   tie_word_embeddings=True, rope_parameters=default)),
    "granite": (716, GraniteConfig(**common, vocab_size=66, hidden_size=22, intermediate_size=29, num_attention_heads=3, num_key_value_heads=1,
                                   head_dim=6, attention_bias=True, mlp_bias=True, embedding_multiplier=5.0, attention_multiplier=0.3,
                                   residual_multiplier=0.22, logits_scaling=3.0, tie_word_embeddings=True, rope_parameters=default)),
    # Granite 4.0 dense: all blocks are attention, and of the mixture of experts there is the shared one alone. The keys of the state-space blocks
    # are checked although there are none.
    "granite4": (717, GraniteMoeHybridConfig(**common, vocab_size=63, hidden_size=24, intermediate_size=8, shared_intermediate_size=27,
                                             num_attention_heads=4, num_key_value_heads=2, num_local_experts=0, num_experts_per_tok=0,
                                             layer_types=["attention", "attention"], position_embedding_type="rope", embedding_multiplier=12.0,
                                             attention_multiplier=0.125, residual_multiplier=0.35, logits_scaling=2.5, mamba_n_heads=4,
                                             tie_word_embeddings=False, rope_parameters=default)),
    # Odd widths of q and of k, over which the norms go.
    "olmo2": (718, Olmo2Config(**common, vocab_size=62, hidden_size=30, intermediate_size=28, num_attention_heads=3, num_key_value_heads=1,
                               tie_word_embeddings=False, rope_parameters=default)),
    "olmo3": (719, Olmo3Config(**{**common, "num_hidden_layers": 4}, vocab_size=65, hidden_size=24, intermediate_size=31, num_attention_heads=4,
                               num_key_value_heads=2, sliding_window=7, tie_word_embeddings=False,
                               rope_parameters={"sliding_attention": dict(default),
                                                "full_attention": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0,
                                                                   "beta_slow": 1.0, "original_max_position_embeddings": 16}})),
    # Experts in every block, weighed among those chosen; and in two of three, weighed among all.
    "qwen3_moe": (732, Qwen3MoeConfig(**common, vocab_size=62, hidden_size=20, intermediate_size=33, moe_intermediate_size=14, num_experts=5,
                                      num_experts_per_tok=2, norm_topk_prob=True, num_attention_heads=2, num_key_value_heads=1, head_dim=10,
                                      tie_word_embeddings=True, rope_parameters=default)),
    "qwen3_moe_some": (733, Qwen3MoeConfig(**{**common, "num_hidden_layers": 3}, vocab_size=61, hidden_size=22, intermediate_size=29,
                                           moe_intermediate_size=11, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False, mlp_only_layers=[1],
                                           num_attention_heads=2, num_key_value_heads=2, head_dim=6, attention_bias=True, tie_word_embeddings=False,
                                           rope_parameters=default)),
    "olmoe": (734, OlmoeConfig(**common, vocab_size=63, hidden_size=24, intermediate_size=13, num_experts=8, num_experts_per_tok=2,
                               num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, rope_parameters=default)),
    # Windows before and behind a block that sees everything, YaRN whose ramp is not cut.
    "gpt_oss": (735, GptOssConfig(**{**common, "num_hidden_layers": 3}, vocab_size=63, hidden_size=22, intermediate_size=13, num_local_experts=5,
                                  num_experts_per_tok=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10, sliding_window=6,
                                  rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                                   "truncate": False, "original_max_position_embeddings": 16})),
    # Queries that grow every 16 positions.
    "ministral3": (717, Ministral3Config(**common, vocab_size=62, hidden_size=22, intermediate_size=27, num_attention_heads=4, num_key_value_heads=2,
                                         head_dim=10, sliding_window=29, tie_word_embeddings=True,
                                         rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0, "original_max_position_embeddings": 16,
                                                          "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5,
                                                          "llama_4_scaling_beta": 0.4})),
    # The same without growth of the queries: a window in one of the blocks.
    "ministral": (718, MinistralConfig(**common, vocab_size=62, hidden_size=22, intermediate_size=27, num_attention_heads=4, num_key_value_heads=2,
                                       head_dim=10, sliding_window=7, layer_types=["full_attention", "sliding_attention"], rope_parameters=default)),
    # Caps that scores and logits come near to.
    "gemma2": (716, Gemma2Config(**{**common, "num_hidden_layers": 3}, vocab_size=63, hidden_size=21, intermediate_size=30, num_attention_heads=3,
                                 num_key_value_heads=1, head_dim=14, query_pre_attn_scalar=11, sliding_window=6, attn_logit_softcapping=1.25,
                                 final_logit_softcapping=4.0, rope_parameters=default)),
}
# Towers for images, as small as they can be.
tower = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4)
WHOLES = {
    "whole_mistral3": (721, Mistral3Config(text_config=CASES["ministral3"][1], vision_config=PixtralVisionConfig(**tower, head_dim=8),
                                           image_token_index=2, tie_word_embeddings=False)),
    "whole_gemma3": (722, Gemma3Config(text_config=CASES["gemma3"][1], vision_config=SiglipVisionConfig(**tower), mm_tokens_per_image=4,
                                       image_token_index=2)),
    "whole_qwen3_5": (743, Qwen3_5Config(text_config=CASES["qwen3_5"][1].to_dict(),
                                         vision_config=dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=1, patch_size=4,
                                                            out_hidden_size=20, num_position_embeddings=16), image_token_id=2, video_token_id=2)),
}
# Configurations as their publishers write them, all keys, with small sizes: Phi 4 mini and Qwen 3 of July 2025.
PUBLISHED = {
    "phi4_mini": (721, Phi3Config, {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "embd_pdrop": 0.0,
        "eos_token_id": None, "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.02, "intermediate_size": 29,
        "interpolate_factor": 1, "lm_head_bias": False, "max_position_embeddings": 128, "mlp_bias": False, "model_type": "phi3",
        "num_attention_heads": 3, "num_hidden_layers": 2, "num_key_value_heads": 1, "original_max_position_embeddings": 36, "pad_token_id": 1,
        "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [1.0, 1.75, 7.5], "short_factor": [1.0, 1.0, 1.0], "type": "longrope"}, "rope_theta": 10000.0,
        "sliding_window": 262144, "tie_word_embeddings": True, "torch_dtype": "float32", "transformers_version": "4.45.0", "use_cache": True,
        "vocab_size": 66}),
    "qwen3_2507": (722, Qwen3Config, {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": None,
        "head_dim": 10, "hidden_act": "silu", "hidden_size": 20, "initializer_range": 0.02, "intermediate_size": 38,
        "max_position_embeddings": 256, "max_window_layers": 2, "model_type": "qwen3", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000, "sliding_window": None,
        "tie_word_embeddings": True, "torch_dtype": "float32", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
        "vocab_size": 63}),
}
ROPES = {
    "rope_linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
    "rope_dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "rope_yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16},
}


def token_logps(model, ids):
    """log p of ids[1:], each given what precedes it."""
    lp = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return lp.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def answer_logps(model, pairs, side):
    return torch.stack([token_logps(model, p["prompt_ids"] + p[side])[len(p["prompt_ids"]) - 1:].sum() for p in pairs])


def greedy(model, ids):
    out, gaps = [], []
    with torch.no_grad():
        while len(out) < NEW:
            top = model(torch.tensor([ids + out])).logits[0, -1].topk(2)
            out.append(int(top.indices[0]))
            gaps.append(round(float(top.values[0] - top.values[1]), 6))
    return out, gaps


def make(seed, config, of=AutoModelForCausalLM):
    torch.manual_seed(seed)
    config.eos_token_id = None
    m = of.from_config(config, **EAGER).float().eval()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_(0, 0.2) if p.dim() > 1 else p.add_(torch.randn_like(p) * 0.1)
        for name, p in m.named_parameters():
            # Decays by which the state of a delta net lasts some rows.
            p.sub_(3.5) if name.endswith(".A_log") else None
            # Gates and ups of which some are cut off, sinks that take their part of a softmax.
            p.mul_(20.0) if name.endswith(".gate_up_proj_bias") else None
            p.mul_(10.0) if name.endswith(".sinks") else None
    g = torch.Generator().manual_seed(seed)
    return m, g, lambda n: torch.randint(3, config.get_text_config().vocab_size, (n,), generator=g).tolist()


def origin(seed, config):
    return {"script": "tests/golden/make/families.py", "seed": seed, "python": sys.version.split()[0], "torch": torch.__version__,
            "transformers": transformers.__version__, "safetensors": safetensors.__version__, "config": json.loads(config.to_json_string())}


def publish(name, dir):
    """Puts the configuration as it was published in the place of the one that transformers writes, and sees that it means the same."""
    if name in PUBLISHED:
        before = AutoModelForCausalLM.from_pretrained(dir, dtype=torch.float32, **EAGER)
        json.dump(PUBLISHED[name][2], open(f"{dir}/config.json", "w"), indent=2)
        after = AutoModelForCausalLM.from_pretrained(dir, dtype=torch.float32, **EAGER)
        ids = torch.arange(40)[None] % before.config.vocab_size
        assert torch.equal(before(ids).logits, after(ids).logits), name


def fresh(name):
    dir = os.path.join(OUT, name)
    shutil.rmtree(dir, ignore_errors=True)
    os.makedirs(dir)
    return dir


published = {name: (seed, kind(**given)) for name, (seed, kind, given) in PUBLISHED.items()}
for name, (seed, config) in {**CASES, **published}.items():
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    dir = fresh(name)
    m, g, draw = make(seed, config)
    tokens = [draw(n) for n in LENGTHS]
    # One tree beyond phi3's first context with both answers, the others within it.
    pairs = [dict(prompt_ids=draw(a), chosen_ids=draw(b), rejected_ids=draw(c)) for a, b, c in ((5, 9, 4), (12, 3, 17), (33, 8, 6))]
    m.save_pretrained(dir)
    publish(name, dir)
    ref = copy.deepcopy(m)
    with torch.no_grad():
        for p in ref.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.01)
    ref.half().save_pretrained(os.path.join(dir, "ref"))
    publish(name, os.path.join(dir, "ref"))
    ref = AutoModelForCausalLM.from_pretrained(os.path.join(dir, "ref"), dtype=torch.float32, **EAGER).eval()
    json.dump(tokens, open(f"{dir}/tokens.json", "w"))
    with open(f"{dir}/pairs.jsonl", "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in pairs)
    with torch.no_grad():
        outs = [m(torch.tensor([t]), output_hidden_states=True) for t in tokens]
        save_file({f"logits.{i}": o.logits[0].contiguous() for i, o in enumerate(outs)}, f"{dir}/logits.safetensors")
        save_file({f"hidden.{i}.{l}": h[0].contiguous().clone() for i, o in enumerate(outs[:3]) for l, h in enumerate(o.hidden_states)}, f"{dir}/hidden.safetensors")
        logps = [token_logps(m, t).tolist() if len(t) > 1 else [] for t in tokens]
        rc, rr = answer_logps(ref, pairs, "chosen_ids"), answer_logps(ref, pairs, "rejected_ids")
    continued = [greedy(m, t) for t in tokens]
    pc, pr = answer_logps(m, pairs, "chosen_ids"), answer_logps(m, pairs, "rejected_ids")
    loss = -F.logsigmoid(BETA * ((pc - rc) - (pr - rr))).mean()
    loss.backward()
    save_file({k: p.grad.contiguous().clone() for k, p in m.named_parameters()}, f"{dir}/grads.sigmoid.safetensors")
    expected = {"origin": origin(seed, config), "logps": logps, "greedy": [c[0] for c in continued], "greedy_gaps": [c[1] for c in continued],
                "max_new_tokens": NEW,
                "dpo": {"beta": BETA, "label_smoothing": {"sigmoid": 0.0}, "ref_logps_chosen": rc.tolist(), "ref_logps_rejected": rr.tolist(),
                        "logps_chosen": pc.tolist(), "logps_rejected": pr.tolist(), "loss": {"sigmoid": loss.item()}}}
    json.dump(expected, open(f"{dir}/expected.json", "w"), indent=1)
    print(name, loss.item(), min(min(c[1]) for c in continued))

for name, (seed, config) in WHOLES.items():
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    dir = fresh(name)
    m, g, draw = make(seed, config, AutoModelForImageTextToText)
    tokens = [draw(n) for n in LENGTHS]
    m.save_pretrained(dir)
    json.dump(tokens, open(f"{dir}/tokens.json", "w"))
    with torch.no_grad():
        save_file({f"logits.{i}": m(torch.tensor([t])).logits[0].contiguous() for i, t in enumerate(tokens)}, f"{dir}/logits.safetensors")
    json.dump({"origin": origin(seed, config)}, open(f"{dir}/expected.json", "w"), indent=1)

for name, rope in ROPES.items():
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    dir = fresh(name)
    sizes = dict(common, max_position_embeddings=20 if name == "rope_dynamic" else 128)
    config = LlamaConfig(**sizes, vocab_size=61, hidden_size=20, intermediate_size=20, num_attention_heads=2, num_key_value_heads=1,
                         rope_parameters=dict(rope))
    m, g, draw = make(720, config)
    tokens = [draw(n) for n in LENGTHS]
    m.save_pretrained(dir)
    json.dump(tokens, open(f"{dir}/tokens.json", "w"))
    with torch.no_grad():
        # In rising length: transformers keeps the longest sequence's dynamic angles for shorter ones beyond the context.
        save_file({f"logits.{i}": m(torch.tensor([t])).logits[0].contiguous() for i, t in enumerate(tokens)}, f"{dir}/logits.safetensors")
    json.dump({"origin": origin(720, config)}, open(f"{dir}/expected.json", "w"), indent=1)
