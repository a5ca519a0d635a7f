"""Makes tests/golden/choice: questions with choices and what lm-evaluation-harness says of two small models on them.

usage: python tests/golden/make/choice.py        (lm_eval 0.4.13, torch, transformers, datasets)

One model is the small world's, whose tokenizer begins each text with a token of its own. The other has random weights
and the tokenizer of tests/golden/tokenizers/bytelevel, which joins characters across the border of context and choice;
it is written as tests/golden/choice/model.safetensors and config.json. expected.json has a list for each model and
number of worked examples: the log-likelihood of each choice and both accuracies, item by item.
"""
import json, os, shutil, tempfile
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

here = os.path.dirname(os.path.abspath(__file__))
root = os.path.join(here, "..", "..", "..")
folder = os.path.join(here, "..", "choice")
tokenizer = os.path.join(here, "..", "tokenizers", "bytelevel")

ITEMS = [
    {"question": "upper: ab", "choices": ["AB", "ab", "BA"], "answer": 0},
    {"question": "reverse: abc", "choices": ["abc", "cba"], "answer": 1},
    {"question": "double: a", "choices": ["a", "aa", "aaaa", "aaaaaaaa"], "answer": 1},
    {"question": "what ends?", "choices": ["in the end", "a", "ll"], "answer": 2},
    {"context": "a turn in  ", "choices": ["the end", "-", "1200"], "answer": 0},
    {"context": "a  \n", "choices": ["a a", "aa"], "answer": 1},
    {"context": "(0", "choices": ["0)", "00)", "..."], "answer": 0},
    {"context": "it is", "choices": [".", "b  ", "w"], "answer": 1},
    {"context": "x", "choices": [" turn", "turn"], "answer": 0},
]

SHOTS = [
    {"question": "upper: cd", "choices": ["CD", "cd"], "answer": 0},
    {"question": "double: b", "choices": ["b", "bb"], "answer": 1},
]


def build():
    """A model of random weights for the tokenizer that joins."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=484, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, head_dim=8, max_position_embeddings=128, tie_word_embeddings=True, initializer_range=0.4)
    model = LlamaForCausalLM(config)
    made = tempfile.mkdtemp()
    model.save_pretrained(made)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(os.path.join(made, name), os.path.join(folder, name))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(tokenizer, name), os.path.join(made, name))
    return made


def lines(name, records):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return path


def context(record):
    return record["context"] if "context" in record else f"Question: {record['question']}\nAnswer:"


def measured(path, shots):
    flat = [{"text": context(r), "choices": r["choices"], "answer": r["answer"]} for r in ITEMS]
    shown = [{"text": context(r), "choices": r["choices"], "answer": r["answer"]} for r in SHOTS]
    data = tempfile.mkdtemp()
    files = {}
    for name, records in (("test", flat), ("train", shown)):
        files[name] = os.path.join(data, f"{name}.jsonl")
        with open(files[name], "w", encoding="utf-8") as out:
            out.writelines(json.dumps(record) + "\n" for record in records)
    task = ConfigurableTask(config={
        "task": "choice", "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "output_type": "multiple_choice",
        "test_split": "test", "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}, "num_fewshot": shots,
        "doc_to_text": "text", "doc_to_choice": "choices", "doc_to_target": "answer",
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
    })
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=1, backend="causal")
    out = evaluate(lm=lm, task_dict={"choice": task}, log_samples=True, bootstrap_iters=0)
    samples = sorted(out["samples"]["choice"], key=lambda s: s["doc_id"])
    return [{"logps": [float(r[0][0]) for r in s["resps"]], "acc": bool(s["acc"]), "acc_norm": bool(s["acc_norm"])} for s in samples]


os.makedirs(folder, exist_ok=True)
lines("items.jsonl", ITEMS)
lines("shots.jsonl", SHOTS)
models = {"world": os.path.join(root, "src", "world", "m1"), "joining": build()}
expected = {name: {str(shots): measured(path, shots) for shots in (0, 2)} for name, path in models.items()}
with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as out:
    json.dump(expected, out, indent=1)
    out.write("\n")
