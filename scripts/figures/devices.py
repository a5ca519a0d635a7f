# python scripts/figures/devices.py [FILE.json …] : the tables of docs/DEVICES.md, of all of devices/*.json where no file is named.
import glob, json, os, sys

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
FILES = sys.argv[1:] or sorted(glob.glob(f"{ROOT}/devices/*.json"))
HEAD = """# Devices

What `scripts/bench-gpu` measured on each device: eight minutes after the build, each step with a limit of its own. Send yours in: run the script, and add
the file that it writes into devices/. This page is made by `python scripts/figures/devices.py > docs/DEVICES.md`. Times of a software adapter are those of a
machine that had other work to do; they say that the steps run, and little of how fast.
"""


def cell(text):
    return str(text).replace("|", "/")


def table(head, rows):
    lines = ["| " + " | ".join(map(cell, line)) + " |" for line in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


if not sys.argv[1:]:
    print(HEAD)
for path in FILES:
    with open(path) as f:
        d = json.load(f)
    if d["schema"] != 1:
        sys.exit(f"{path}: its form is of version {d['schema']}, this program reads version 1")
    rows = [r for step in d["steps"] for r in step["rows"]]
    driver = f", {rows[0]['driver']} ({rows[0]['backend']})" if rows else ""
    print(f"## {d['device']}\n\n{d['program']}{', commit ' + rows[0]['commit'] if rows and rows[0]['commit'] else ''}, {d['date'][:10]}{driver}\n")
    print(table(["step", "status", "s", ""], [[s["name"], s["status"], s["seconds"], s["note"]] for s in d["steps"]]))
    kernels = [r for r in rows if r["name"] != "model"]
    if kernels:
        best = {}
        for r in kernels:
            if r["name"] not in best or r["share"] > best[r["name"]]["share"]:
                best[r["name"]] = r
        shown = [[r["name"], r["variant"], r["shape"], r["dtype"], f"{r['median_ms']:.3f}", f"{r['gflops']:.1f}", f"{r['gbs']:.1f}", f"{100 * r['share']:.0f} %"] for r in best.values()]
        print("Of each kernel the shape with the largest share of the device's own peak that bounds it:\n")
        print(table(["kernel", "variant", "shape", "dtype", "ms", "GFLOP/s", "GB/s", "share"], shown))
    shown = []
    for step in d["steps"]:
        model = [r for r in step["rows"] if r["name"] == "model"]
        shown += [[step["name"], r["shape"], f"{r['median_ms']:.1f} ± {r['sd_ms']:.1f}", f"{r['tok_s']:.1f}", f"{100 * r['share']:.0f} %"] for r in model]
    if shown:
        print(table(["model", "test", "ms", "tok/s", "share"], shown))
