"""Makes tests/golden/ifeval.jsonl: answers to instructions of each kind, with the reference checkers' verdicts.

usage: python tests/golden/make/ifeval.py VERDICTS.jsonl

VERDICTS.jsonl has a line a prompt: instruction_id_list, kwargs, response, and the lists strict and loose, computed by
the checkers of google-research/instruction_following_eval. Of each kind the shortest answers with each pair of verdicts
are kept, each with this one instruction; long ones are left out, and prompts, on which no verdict hangs, are replaced by numbers.
"""
import json, os, sys

EACH, LONGEST = 4, 1200
here = os.path.dirname(os.path.abspath(__file__))
found = {}
for line in open(sys.argv[1], encoding="utf-8"):
    record = json.loads(line)
    for kind, kwargs, strict, loose in zip(*(record[k] for k in ("instruction_id_list", "kwargs", "strict", "loose"))):
        # The reference draws another letter for a sign, so that its verdict is chance.
        if not kwargs.get("letter", "a").isalpha():
            continue
        found.setdefault((kind, strict, loose), []).append((kwargs, record["response"]))
rows = []
for (kind, strict, loose), answers in sorted(found.items()):
    short = sorted((a for a in answers if len(a[1]) <= LONGEST), key=lambda a: len(a[1]) + len(json.dumps(a[0])))
    for kwargs, response in short[:EACH]:
        rows.append({"key": len(rows), "prompt": f"prompt {len(rows)}", "instruction_id_list": [kind],
                     "kwargs": [kwargs], "response": response, "strict": [strict], "loose": [loose]})
with open(os.path.join(here, "..", "ifeval.jsonl"), "w", encoding="utf-8") as out:
    out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
