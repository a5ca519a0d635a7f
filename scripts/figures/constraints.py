#!/usr/bin/env python3
"""Prints what docs/CONSTRAINTS.md and docs/PAPER.md say of runs of scripts/constraints: each model by rules (the answer obeys and
the model ended it), strict, ended, words; head to head by prompt; and by kind of constraint. Several folders are runs that differ
in their seed; their rates are averaged.
usage: python scripts/figures/constraints.py NAME RUN…        (no packages; NAME is that of the task, such as dev, or of a file
NAME.jsonl in the folder that `selfreward eval --model RUN --out` has written)"""
import collections, json, pathlib, random, statistics, sys

NAME, RUNS = sys.argv[1], [pathlib.Path(path) for path in sys.argv[2:]]
DRAWS = 2000


def mean(values):
    return statistics.fmean(values)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(run):
    """Of each model, and of each prompt, the answers."""
    folder, file = run / "evaluation" / NAME, run / f"{NAME}.jsonl"
    all_ = {path.stem: lines(path) for path in sorted(folder.glob("*.jsonl"))}
    if not all_:
        for answer in lines(file):
            all_.setdefault(answer["model"], []).append(answer)
    prompts = {name: collections.defaultdict(list) for name in all_}
    for name, answers in all_.items():
        for answer in answers:
            prompts[name][answer["key"]].append(answer)
    return prompts


def rules(answer):
    return float(all(answer["strict"]) and answer["stopped"])


MEASURES = {"by rules": rules, "strict": lambda a: float(all(a["strict"])), "ended": lambda a: float(a["stopped"]),
            "words": lambda a: float(len(a["response"].split()))}


def interval(values):
    """The middle 95 % of the means of prompts drawn anew."""
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(DRAWS))
    return f"({means[DRAWS // 40]:.2f} to {means[-DRAWS // 40 - 1]:.2f})"


models = {}  # of each model the prompts' answers, run by run
for run in RUNS:
    for name, prompts in read(run).items():
        models.setdefault(name, []).append(prompts)
# Of each model and measure the mean of each prompt's answers; a prompt of another run is another prompt.
scores = {name: {measure: {(i, key): mean([of(answer) for answer in answers]) for i, one in enumerate(all_) for key, answers in one.items()}
                 for measure, of in MEASURES.items()} for name, all_ in models.items()}

print("| model | by rules | strict | ended | words |\n|---|---|---|---|---|")
for name in models:
    own = list(scores[name]["by rules"].values())
    cells = [f"{mean(own):.2f} {interval(own)}"]
    cells += [f"{mean(scores[name][m].values()):.{0 if m == 'words' else 2}f}" for m in ("strict", "ended", "words")]
    print(f"| {name} | {' | '.join(cells)} |")

print("\n| head to head, by rules | win / tie / loss, % | difference |\n|---|---|---|")
names = list(models)
for i, a in enumerate(names):
    for b in names[:i]:
        one, other = scores[a]["by rules"], scores[b]["by rules"]
        differences = [one[key] - other[key] for key in one if key in other]
        parts = [sum(d > 0 for d in differences), sum(d == 0 for d in differences), sum(d < 0 for d in differences)]
        shares = " / ".join(f"{100 * n / len(differences):.1f}" for n in parts)
        print(f"| {a} against {b} | {shares} | {mean(differences):+.2f} {interval(differences)} |")

kinds = collections.defaultdict(lambda: collections.defaultdict(list))
for name, all_ in models.items():
    for one in all_:
        for answers in one.values():
            for answer in answers:
                kinds["; ".join(answer["instruction_id_list"])][name].append(rules(answer))
print(f"\n| kind, by rules | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
for kind, of in sorted(kinds.items()):
    print(f"| {kind} | {' | '.join(f'{mean(of[name]):.2f}' for name in names)} |")

for run in RUNS:
    for file in sorted(run.glob("round-*/pairs.jsonl")):
        print(f"\n{run.name}, {file.parent.name}: {len(lines(file))} pairs", end="")
print()
