#!/usr/bin/env python3
"""Writes the tables of loops in docs/MEMORY.md anew from `selfreward plan` and the shapes beside this file.
usage: python scripts/figures/loops.py [target/release/selfreward]        (no packages)"""
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BIN = sys.argv[1] if len(sys.argv) > 1 else "target/release/selfreward"
CARDS = [8, 12, 16, 24]
MODELS = ["Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B", "Llama-3.1-8B", "Qwen2.5-14B"]
STORED = [("f16", "f16"), ("Q8_0", "q8_0"), ("Q4_K", "q4_k")]
# Mixtures of experts, which hardly fit in any other type.
MIXTURES = [("gpt-oss-20b", ("MXFP4", "mxfp4")), ("Qwen3-30B-A3B", ("Q4_K", "q4_k")), ("Qwen3-30B-A3B", ("Q4_1", "q4_1"))]
KV = ["f32", "f16"]
STAGES = ["prompts", "candidates", "gate", "judge", "training"]
# What a GPU plans with of its card.
USABLE = 0.92


def plan(model, stored, kv, gib):
    command = [BIN, "plan", "--task", "run", "--config", HERE / "shapes" / f"{model}.json", "--stored", stored, "--desktop",
               "--lora-rank", "16", "--kv", kv, "--memory", str(int(gib * USABLE * 2**30)), "--json"]
    document = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return document, {stage["name"]: stage for stage in document["run"]["stages"]}


def fits(document, stages):
    if not document["fits"]:
        return f"– ({document['peak_bytes'] / 2**30:.1f})"
    cut = stages["training"]["training"]
    pairs = max(cut["micro_rows"] // cut["longest"], 1)
    return f"{stages['candidates']['at_once']} · {pairs}{' ✓' if cut['checkpoint'] else ''}"


def work(document, stages):
    of = lambda stage: f"{stage['flops'] / 1e12:.0f} / {stage['bytes'] / 1e12:.1f}"
    return [of(stages[name]) if document["fits"] else "–" for name in STAGES]


KINDS = [(model, kind) for model in MODELS for kind in STORED] + MIXTURES
rows = [(model, name, stored, kv) for model, (name, stored) in KINDS for kv in KV]
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    jobs = {(row, gib): pool.submit(plan, row[0], row[2], row[3], gib) for row in rows for gib in CARDS}
    planned = {key: job.result() for key, job in jobs.items()}


def line(row, cells):
    return f"| {row[0]} | {row[1]} | {row[3]} | " + " | ".join(cells) + " |"


cards = ["| model | stored | keys and values | " + " | ".join(f"{gib} GB" for gib in CARDS) + " |", "|---|---|---|" + "---|" * len(CARDS),
         *(line(row, [fits(*planned[row, gib]) for gib in CARDS]) for row in rows)]
works = ["| model | stored | keys and values | " + " | ".join(STAGES) + " |", "|---|---|---|" + "---|" * len(STAGES),
         *(line(row, work(*planned[row, CARDS[-1]])) for row in rows)]
page = HERE.parents[1] / "docs" / "MEMORY.md"
text = page.read_text()
for what, table in [("which loops run", cards), ("what a round does", works)]:
    mark, end = f"<!-- made by scripts/figures/loops.py: {what} -->\n", "<!-- end -->"
    assert mark in text, mark
    text = re.sub(re.escape(mark) + ".*?" + end, lambda _: mark + "\n".join(table) + "\n" + end, text, flags=re.S)
page.write_text(text)
