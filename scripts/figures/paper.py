"""Prints the tables of docs/PAPER.md: what the small world gives for the quantities that arXiv 2401.10020 measures, over three seeds.
usage: python scripts/figures/paper.py target/release/selfreward        (no packages; some 2 minutes on two cores)"""
import collections, json, os, statistics, subprocess, sys, tempfile

BIN, SEEDS, MODELS = sys.argv[1], (0, 1, 2), ("M1", "M2", "M3")


def mean(values):
    return statistics.fmean(values)


def percent(part, whole):
    return f"{100 * part / whole:.1f}"


def demo(folder, judge, train, seed):
    """A demo's metrics, and for each model the records of its evaluation."""
    out = f"{folder}/{judge}-{train}-{seed}"
    subprocess.run([BIN, "demo", "--judge", judge, "--train", train, "--seed", str(seed), "--out", out, "--quiet"],
                   check=True, stdout=subprocess.DEVNULL)
    lines = lambda name: [json.loads(line) for line in open(f"{out}/evaluation/{name}.jsonl", encoding="utf-8")]
    return json.load(open(f"{out}/metrics.json", encoding="utf-8")), {name: lines(name) for name in MODELS if os.path.exists(f"{out}/evaluation/{name}.jsonl")}


def five_best(records):
    """Of the answers scored 5 (at least 4.5), the fraction that no other answer to the question beats; a dash where none is."""
    best = [j["truth"] == max(k["truth"] for k in r["judged"]) for r in records for j in r["judged"] if j["score"] >= 4.5]
    return percent(sum(best), len(best)) if best else "—"


with tempfile.TemporaryDirectory() as folder:
    own = [demo(folder, "self", "dpo", seed) for seed in SEEDS]
    random = [demo(folder, "random", "dpo", seed) for seed in SEEDS]
    best = [demo(folder, "self", "sft-best", seed) for seed in SEEDS]

print("| head to head | win / tie / loss, % |\n|---|---|")
for a, b in (("M2", "M1"), ("M3", "M2"), ("M3", "M1")):
    duels = [d for metrics, _ in own for d in metrics["head_to_head"] if (d["a"], d["b"]) == (a, b)]
    count = {key: sum(d[key] for d in duels) for key in ("win", "tie", "loss")}
    print(f"| {a} against {b} | {' / '.join(percent(n, sum(count.values())) for n in count.values())} |")


def of(runs, name, key):
    return mean([next(m for m in metrics["models"] if m["name"] == name)[key] for metrics, _ in runs])


print("\n| model | true score | greedy | length, characters | pairwise, % | 5-best, % | exact match, % | Spearman | Kendall |\n|" + "---|" * 9)
for name in MODELS:
    length = mean([len(answer) for _, records in own for r in records[name] for answer in r["answers"]])
    fives = five_best([r for _, records in own for r in records[name]])
    row = [f"{of(own, name, 'truth_mean'):.2f}", f"{of(own, name, 'greedy_mean'):.2f}", f"{length:.1f}",
           f"{100 * of(own, name, 'judge_pairwise'):.1f}", fives, f"{100 * of(own, name, 'judge_exact'):.1f}",
           f"{of(own, name, 'judge_spearman'):.3f}", f"{of(own, name, 'judge_kendall'):.3f}"]
    print(f"| {name} | {' | '.join(row)} |")

kinds = collections.defaultdict(lambda: collections.defaultdict(list))
for _, records in own:
    for name in MODELS:
        for r in records[name]:
            kinds[r["prompt"].split(":")[0].split()[0]][name] += r["truth"]
print("\n| kind | M1 | M2 | M3 |\n|---|---|---|---|")
for kind, by in sorted(kinds.items()):
    print(f"| {kind} | {' | '.join(f'{mean(by[name]):.2f}' for name in MODELS)} |")

print("\n| M2 and M3 trained by | M2 - M1 | M3 - M1 |\n|---|---|---|")
for name, runs in (("DPO, judged by itself", own), ("DPO, random judge", random), ("the best answers alone (SFT)", best)):
    gain = lambda model: of(runs, model, "truth_mean") - of(runs, "M1", "truth_mean")
    print(f"| {name} | {gain('M2'):+.2f} | {gain('M3'):+.2f} |")
pairs = [mean([metrics["rounds"][r]["pairs"] for metrics, _ in own]) for r in (0, 1)]
print(f"\nPairs a round: {pairs[0]:.0f} and {pairs[1]:.0f}.")
