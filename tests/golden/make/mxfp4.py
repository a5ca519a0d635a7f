"""Makes tests/golden/gpt_oss_mxfp4: a tiny gpt-oss whose experts' matrices are in blocks of MXFP4, as a folder of transformers and as a GGUF file with
llama.cpp's names, token ids, and the logits that transformers computes.

usage: python tests/golden/make/mxfp4.py        (torch, transformers, safetensors, numpy, gguf)
"""
import importlib.metadata, json, os, shutil, sys
import numpy as np
import torch, transformers
from gguf import GGMLQuantizationType as T, GGUFWriter, RopeScalingType
from gguf.quants import quantize
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

SEED = 736
# Wide enough for blocks of 32; the rope is the class's own.
config = GptOssConfig(num_hidden_layers=2, max_position_embeddings=128, bos_token_id=1, vocab_size=61, hidden_size=64,
                      intermediate_size=32, num_local_experts=3, num_experts_per_tok=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                      sliding_window=9)
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "post_attention_norm", "mlp.router": "ffn_gate_inp"}
torch.set_num_threads(1)
torch.manual_seed(SEED)
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "gpt_oss_mxfp4")
shutil.rmtree(out, ignore_errors=True)
os.makedirs(out)
m = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager").float().eval()
tokens = [torch.randint(3, config.vocab_size, (n,)).tolist() for n in (1, 7, 20, 41)]
w = GGUFWriter(f"{out}/model.gguf", "gpt-oss")
rope = config.rope_parameters
w.add_context_length(config.max_position_embeddings), w.add_embedding_length(config.hidden_size), w.add_block_count(config.num_hidden_layers)
w.add_feed_forward_length(config.intermediate_size), w.add_expert_feed_forward_length(config.intermediate_size)
w.add_head_count(config.num_attention_heads), w.add_head_count_kv(config.num_key_value_heads)
w.add_key_length(config.head_dim), w.add_value_length(config.head_dim), w.add_layer_norm_rms_eps(config.rms_norm_eps)
w.add_vocab_size(config.vocab_size), w.add_expert_count(config.num_local_experts), w.add_expert_used_count(config.num_experts_per_tok)
w.add_sliding_window(config.sliding_window), w.add_rope_freq_base(rope["rope_theta"]), w.add_rope_scaling_type(RopeScalingType.YARN)
w.add_rope_scaling_factor(rope["factor"]), w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def add(name, value, kind):
    w.add_tensor(name, np.ascontiguousarray(value), raw_dtype=None if kind == T.F32 else kind)


def add_blocks(name, blocks, scales):
    """A block is its scale and 16 bytes; a byte holds values i and i + 16 where transformers' has neighbours."""
    values = np.stack([blocks & 15, blocks >> 4], -1).reshape(*scales.shape, 32)
    all = np.concatenate([scales[..., None], values[..., :16] | values[..., 16:] << 4], -1)
    add(name, all.reshape(*scales.shape[:2], -1), T.MXFP4)


stored = {}
with torch.no_grad():
    for name, p in m.named_parameters():
        p.normal_(0, 0.2) if p.dim() > 1 else p.add_(torch.randn_like(p) * 0.1)
        block = f"blk.{name.split('.')[2]}." if name.startswith("model.layers.") else ""
        # Of gate and up every other row is the gate's.
        parts = {"gate": slice(0, None, 2), "up": slice(1, None, 2)} if "gate_up_proj" in name else {"down": slice(None)}
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, ins, outs = p.shape
            blocks = torch.randint(0, 256, (experts, outs, ins // 32, 16), dtype=torch.uint8)
            scales = torch.randint(122, 127, (experts, outs, ins // 32), dtype=torch.uint8)
            p.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            stored[f"{name}_blocks"], stored[f"{name}_scales"] = blocks, scales
            for part, rows in parts.items():
                add_blocks(f"{block}ffn_{part}_exps.weight", blocks[:, rows].numpy(), scales[:, rows].numpy())
            continue
        stored[name] = p.bfloat16()
        p.copy_(stored[name])
        value = p.numpy()
        if name.endswith("_bias"):
            for part, rows in parts.items():
                add(f"{block}ffn_{part}_exps.bias", value[:, rows], T.F32)
        elif name.endswith(".sinks"):
            add(f"{block}attn_sinks.weight", value, T.F32)
        else:
            module, kind = name.rsplit(".", 1)
            to = f"{block}{NAMES[module.split('.', 3)[3] if block else module]}.{kind}"
            wide = p.dim() > 1 and "router" not in name
            add(to, quantize(value, T.BF16) if wide else value, T.BF16 if wide else T.F32)
    save_file({f"logits.{i}": m(torch.tensor([t])).logits[0].contiguous() for i, t in enumerate(tokens)}, f"{out}/logits.safetensors")
w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
m.config.save_pretrained(out)
written = json.load(open(f"{out}/config.json"))
written["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                                                     "model.embed_tokens", "lm_head"]}
json.dump(written, open(f"{out}/config.json", "w"), indent=2)
save_file({k: v.contiguous().clone() for k, v in stored.items()}, f"{out}/model.safetensors", {"format": "pt"})
json.dump(tokens, open(f"{out}/tokens.json", "w"))
origin = {"script": "tests/golden/make/mxfp4.py", "seed": SEED, "python": sys.version.split()[0], "torch": torch.__version__,
          "transformers": transformers.__version__, "gguf": importlib.metadata.version("gguf")}
json.dump({"origin": origin}, open(f"{out}/expected.json", "w"), indent=1)
