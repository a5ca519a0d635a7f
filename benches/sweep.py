"""Products of SmolLM2's layers with 1 to 4,096 rows: whether any number of rows is a cliff beside its neighbours.
usage: python benches/sweep.py [target/release/selfreward] [f32|bf16|f16|q4|q8]        (plain Python; prints Markdown; three minutes)"""
import json
import subprocess
import sys

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "target/release/selfreward"
DTYPE = sys.argv[2] if len(sys.argv) > 2 else "f32"
# The best of so many processes: the system may put both threads of a software driver on one core for a while.
PROCESSES = 6
# N x K: query and output, gate and up, down.
LAYERS = [(576, 576), (3072, 576), (576, 1536)]
# Every power of two with what lies around it, and points between.
POWERS = [2**i for i in range(13)]
ROWS = sorted({m for p in POWERS for m in (p - 1, p, p + 1, p * 5 // 4, p * 3 // 2) if 1 <= m <= 4096})

shapes = [option for n, k in LAYERS for m in ROWS for option in ("--shape", f"{m},{n},{k}")]
bench = [PROGRAM, "bench", "--json", "--runs", "9", "--dtype", DTYPE, *shapes]
speed = {}
for _ in range(PROCESSES):
    found = json.loads(subprocess.run(bench, stdout=subprocess.PIPE, text=True, check=True).stdout)
    for row in found["kernels"]:
        shape = row["shape"].split()[1]
        speed[shape] = max(row["gflops"], speed.get(shape, 0))

print(f"{found['device']['name']}, {DTYPE}, {len(ROWS)} numbers of rows from {ROWS[0]} to {ROWS[-1]}; GFLOP/s\n")
print("| N x K | " + " | ".join(str(p) for p in POWERS) + " | least share of a neighbour |\n|---|" + "---|" * (len(POWERS) + 1))
for n, k in LAYERS:
    of = [speed[f"{m}x{k}x{n}"] for m in ROWS]
    # The better of the two neighbours in the list.
    around = [max(of[max(i - 1, 0)], of[min(i + 1, len(of) - 1)]) for i in range(len(of))]
    share, rows = min((own / other, m) for own, other, m in zip(of, around, ROWS))
    cells = " | ".join(f"{of[ROWS.index(p)]:.1f}" for p in POWERS)
    print(f"| {n} x {k} | {cells} | {share:.2f} at {rows} rows |")
