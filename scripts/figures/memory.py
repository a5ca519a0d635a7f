#!/usr/bin/env python3
"""Writes the table of docs/MEMORY.md anew from `selfreward plan` and the shapes beside this file.
usage: python scripts/figures/memory.py [target/release/selfreward]        (no packages)"""
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BIN = sys.argv[1] if len(sys.argv) > 1 else "target/release/selfreward"
CARDS = [8, 12, 16, 24]
MODELS = ["SmolLM2-135M", "SmolLM2-360M", "Qwen2.5-0.5B", "Llama-3.2-1B", "Qwen2.5-1.5B", "SmolLM2-1.7B", "Qwen2.5-3B", "Llama-3.2-3B",
          "Qwen2.5-7B", "Llama-3.1-8B"]
# A driver, a desktop and what the ledger does not see (pipelines, staging) want their share.
USABLE = 0.92
WAYS = [("all weights", "f32", []), ("all in bf16, Adam in 8 bits", "bf16", ["--weights", "bf16", "--optimizer", "adamw8bit"]),
        ("LoRA, bf16", "bf16", ["--lora-rank", "16"]), ("LoRA, Q4", "q4_1", ["--lora-rank", "16"])]


def plan(model, stored, flags, gib=None):
    memory = [] if gib is None else ["--memory", str(int(gib * USABLE * 2**30))]
    command = [BIN, "plan", "--task", "dpo", "--config", HERE / "shapes" / f"{model}.json", "--stored", stored, "--desktop", "--max-length",
               "1024", "--batch", "16", "--json", *flags, *memory]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def cell(model, stored, flags, gib):
    planned = plan(model, stored, flags, gib)
    if not planned["fits"]:
        return f"– ({planned['peak_bytes'] / 2**30:.1f})"
    cut = planned["training"]
    return f"{cut['micro_rows'] // cut['longest']}{'' if not cut['checkpoint'] else ' ✓'}"


def table():
    yield "| model | trained | " + " | ".join(f"{gib} GB" for gib in CARDS) + " |"
    yield "|---|---|" + "---|" * len(CARDS)
    for model in MODELS:
        for name, stored, flags in WAYS:
            yield f"| {model} | {name} | " + " | ".join(cell(model, stored, flags, gib) for gib in CARDS) + " |"


page = HERE.parents[1] / "docs" / "MEMORY.md"
text = page.read_text()
mark = "<!-- made by scripts/figures/memory.py -->\n"
end = "<!-- end -->"
made = re.sub(re.escape(mark) + ".*?" + end, lambda _: mark + "\n".join(table()) + "\n" + end, text, flags=re.S)
page.write_text(made)
