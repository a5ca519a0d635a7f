#!/usr/bin/env python3
"""Prints what docs/CONSTRAINTS.md and docs/PAPER.md say of runs of scripts/constraints: each model by rules (the answer obeys and
the model ended it), strict, ended, words; head to head by prompt; and by kind of constraint. Several folders are runs that differ
in their seed; their rates are averaged.
usage: python scripts/figures/constraints.py NAME RUN…        (no packages; NAME is that of the task, such as dev)"""
import collections, json, pathlib, random, statistics, sys

NAME, RUNS = sys.argv[1], [pathlib.Path(path) for path in sys.argv[2:]]
DRAWS = 2000


def mean(values):
    return statistics.fmean(values)


def read(path):
    """Of each prompt the answers."""
    prompts = collections.defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        prompts[answer["key"]].append(answer)
    return prompts


def rules(answer):
    return float(all(answer["strict"]) and answer["stopped"])


MEASURES = {"by rules": rules, "strict": lambda a: float(all(a["strict"])), "ended": lambda a: float(a["stopped"]),
            "words": lambda a: float(len(a["response"].split()))}


def by_prompt(prompts, measure):
    return {key: mean([measure(answer) for answer in answers]) for key, answers in prompts.items()}


def interval(values):
    """The middle 95 % of the means of prompts drawn anew."""
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(DRAWS))
    return f"({means[DRAWS // 40]:.2f} to {means[-DRAWS // 40 - 1]:.2f})"


models = {}  # of each model the prompts' answers, run by run
for run in RUNS:
    for file in sorted((run / "evaluation" / NAME).glob("*.jsonl")):
        models.setdefault(file.stem, []).append(read(file))
# A prompt of another run is another prompt.
scores = {name: {measure: [{(i, key): value for key, value in by_prompt(one, of).items()} for i, one in enumerate(all_)]
                 for measure, of in MEASURES.items()} for name, all_ in models.items()}


def joined(name, measure):
    return {key: value for one in scores[name][measure] for key, value in one.items()}


print("| model | by rules | above the one before | strict | ended | words |\n|---|---|---|---|---|---|")
before = None
for name in models:
    own = joined(name, "by rules")
    gain = "—"
    if before is not None:
        gains = [value - before[key] for key, value in own.items() if key in before]
        gain = f"{mean(gains):+.2f} {interval(gains)}"
    cells = [f"{mean(list(own.values())):.2f} {interval(list(own.values()))}", gain]
    cells += [f"{mean(list(joined(name, m).values())):.{0 if m == 'words' else 2}f}" for m in ("strict", "ended", "words")]
    print(f"| {name} | {' | '.join(cells)} |")
    before = own

print("\n| head to head, by rules | win / tie / loss, % |\n|---|---|")
names = list(models)
for i, a in enumerate(names):
    for b in names[:i]:
        one, other = joined(a, "by rules"), joined(b, "by rules")
        differences = [one[key] - other[key] for key in one if key in other]
        parts = [sum(d > 0 for d in differences), sum(d == 0 for d in differences), sum(d < 0 for d in differences)]
        print(f"| {a} against {b} | {' / '.join(f'{100 * n / len(differences):.1f}' for n in parts)} |")

kinds = collections.defaultdict(lambda: collections.defaultdict(list))
for name, all_ in models.items():
    for one in all_:
        for answers in one.values():
            for answer in answers:
                kinds["; ".join(answer["instruction_id_list"])][name].append(rules(answer))
print(f"\n| kind, by rules | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
for kind, of in sorted(kinds.items()):
    print(f"| {kind} | {' | '.join(f'{mean(of[name]):.2f}' for name in names)} |")

for i, run in enumerate(RUNS):
    for file in sorted(run.glob("round-*/pairs.jsonl")):
        pairs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        print(f"\n{run.name}, {file.parent.name}: {len(pairs)} pairs", end="")
print()
