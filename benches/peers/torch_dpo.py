"""torch on the CPU: DPO steps of a model of SmolLM2-135M's shape, `torch_dpo.py STEPS`; prints one JSON object.

A pair is two sequences of prompt 64 + answer 64, one pair a step, f32, AdamW, the reference's log-probs known beforehand.
The weights are random: speed does not depend on them.
"""
import json
import os
import sys
import time

import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM

PROMPT, ANSWER = 64, 64
torch.manual_seed(0)
torch.set_num_threads(len(os.sched_getaffinity(0)))
model = LlamaForCausalLM(LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5,
))
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)


def step():
    ids = torch.randint(0, 49152, (2, PROMPT + ANSWER))
    ids[1, :PROMPT] = ids[0, :PROMPT]
    # Only the rows that predict an answer's tokens go through the head.
    logits = model(ids, logits_to_keep=ANSWER + 1, use_cache=False).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(-1, ids[:, PROMPT:, None]).sum((1, 2))
    loss = -logsigmoid(0.1 * (logps[0] - logps[1]))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()


step()
times = []
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
median = sorted(times)[len(times) // 2]
print(json.dumps({"pairs_s": 1 / median, "tokens_s": 2 * (PROMPT + ANSWER) / median, "threads": torch.get_num_threads()}))
