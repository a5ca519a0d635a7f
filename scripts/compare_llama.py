"""Does llama.cpp load what `export` writes, and say what selfreward says? Run by scripts/test-llama.
usage: python3 scripts/compare_llama.py --bin SELFREWARD --peers FOLDER [--model models/SmolLM2-135M-Instruct.Q4_1.gguf] [TYPES…]

For each type: the exported file's 24 greedy tokens for 5 prompts, here and in llama.cpp, up to the first that differs: there the two best
logits lie within 0.2 on one side. For the mixtures also each tensor's type and error beside llama.cpp's own quantiser. Then a trained
adapter as gguf-lora and merged, and those of tests/golden/lora. At last the figures of tests/golden/quants.json are made again."""
import argparse, array, json, os, subprocess, sys, tempfile

TOKENS, CLOSE, ROOT = 24, 0.2, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# llama.cpp's numbers of the mixtures; the others are pure here, and llama.cpp's files of these names are not.
MIXTURES = {"q4_k_m": 15, "q5_k_m": 17}
TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "q4_k_m", "q5_k_m"]
a = argparse.ArgumentParser()
a.add_argument("--bin", required=True), a.add_argument("--peers", required=True), a.add_argument("types", nargs="*")
a.add_argument("--model", default=f"{ROOT}/models/SmolLM2-135M-Instruct.Q4_1.gguf")
a = a.parse_args()
golden = json.load(open(f"{ROOT}/tests/golden/real/smollm2.json"))
prompts = [case["prompt_ids"] for case in golden["continuations"][:5]]
failed = []


def ours(*args):
    done = subprocess.run([a.bin, *args], stdout=subprocess.PIPE)
    if done.returncode: sys.exit(f"selfreward {' '.join(args)} failed")
    return done.stdout


def peer(name, *args, stdin=None):
    done = subprocess.run([f"{a.peers}/{name}", *args], input=stdin, stdout=subprocess.PIPE, text=True)
    if done.returncode: failed.append(f"{name} {' '.join(args)}")
    return done.stdout


def gap_here(model, adapter, more, ids):
    """By how much the best logit behind these tokens exceeds the next one, in selfreward."""
    json.dump([ids], open(f"{t}/ids.json", "w"))
    ours("dump", "logits", "--model", adapter or model, *more, "--tokens", f"{t}/ids.json", "--out", f"{t}/logits")
    with open(f"{t}/logits", "rb") as f:
        head = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        row = array.array("f", f.read()[-4 * head["logits.0"]["shape"][-1]:])
    second, first = sorted(row)[-2:]
    return first - second


def compare(what, model, adapter=None, base=None, prompts=prompts, tokens=TOKENS):
    """`base` is the file that llama.cpp lays the adapter over."""
    json.dump(prompts, open(f"{t}/prompts.json", "w"))
    more = ["--base", base] if base else []
    ours("dump", "generate", "--model", adapter or model, *more, "--tokens", f"{t}/prompts.json", "--max-new-tokens", str(tokens), "--out", f"{t}/ours.json")
    theirs = peer("llama_greedy", str(tokens), base or model, *([adapter] if adapter else []), stdin="".join(" ".join(map(str, p)) + "\n" for p in prompts))
    same, compared, wrong = 0, 0, []
    rows, answers = theirs.splitlines(), json.load(open(f"{t}/ours.json"))
    if len(rows) != len(prompts): wrong.append("llama.cpp does not answer")
    for i, (got, row) in enumerate(zip(answers, rows)):
        for j, (id, gap) in enumerate(word.split(":") for word in row.split()):
            # What follows an end of turn is not written here.
            if j >= len(got): break
            compared += 1
            if got[j] == int(id): same += 1
            else:
                # llama.cpp rounds activations to 8 bits beside quantised matrices, so each side has its own two best logits.
                here = gap_here(model, adapter, more, prompts[i] + got[:j])
                if min(float(gap), here) > CLOSE: wrong.append(f"prompt {i}, token {j} is {got[j]} by {here:.3f}, llama.cpp's {id} by {gap}")
                break
    print(f"{what}: {same} of {compared} tokens alike" + "".join(f"\n   {w}" for w in wrong), flush=True)
    failed.extend(f"{what}: {w}" for w in wrong)
    return answers


with tempfile.TemporaryDirectory() as t:
    plain = f"{t}/plain.gguf"
    ours("export", "--model", a.model, "--out", plain, "--dtype", "f32", "--quiet")
    for kind in a.types or TYPES:
        path = f"{t}/{kind}.gguf"
        told = json.loads(ours("export", "--model", a.model, "--out", path, "--quantize", kind, "--json", "--quiet"))
        print(kind, told["types"], *[f"{i['count']} {i['stored']} instead of {i['wanted']}" for i in told["instead"]], sep=", ")
        compare(kind, path)
        if kind in MIXTURES: print(peer("llama_mix", plain, path, str(MIXTURES[kind])), end="", flush=True)
        os.remove(path)
    with open(f"{t}/data.jsonl", "w") as f:
        for i in range(8): f.write(json.dumps({"prompt": f"What is {i} and {i}?", "response": f"It is the number {2 * i}, said the old captain."}) + "\n")
    half = f"{t}/f16.gguf"
    ours("export", "--model", a.model, "--out", half, "--dtype", "f16", "--quiet")
    alone = compare("f16", half)
    peft, file = f"{t}/lora", f"{t}/lora.gguf"
    ours("sft", "--model", half, "--data", f"{t}/data.jsonl", "--out", peft, "--lora-rank", "4", "--lr", "2e-3", "--epochs", "2", "--batch", "4", "--quiet")
    ours("export", "--model", peft, "--out", file, "--format", "gguf-lora", "--quiet")
    if compare("adapter", half, file, half) == alone: failed.append("adapter: the base alone says the same")
    ours("export", "--model", peft, "--out", f"{t}/merged.gguf", "--merge", "--quantize", "q8_0", "--quiet")
    compare("adapter, merged to q8_0", f"{t}/merged.gguf")
    # Small models with adapters of all kinds: rsLoRA, other ranks and α's by layer, q and k in another order of rows.
    for name in ["all", "blocks", "patterns", "qv"]:
        adapter, file = f"{ROOT}/tests/golden/lora/{name}", f"{t}/{name}.gguf"
        folder = f"{ROOT}/tests/golden/" + json.load(open(f"{adapter}/expected.json"))["base"]
        base = f"{t}/{name}.base.gguf"
        ours("export", "--model", folder, "--out", base, "--dtype", "f32", "--quiet")
        ours("export", "--model", adapter, "--out", file, "--format", "gguf-lora", "--quiet")
        few = [ids[:12] for ids in json.load(open(f"{folder}/tokens.json"))]
        if compare(f"adapter {name}", base, file, base, few, 12) == compare("its base", base, prompts=few, tokens=12): failed.append(f"adapter {name}: the base alone says the same")
    again = json.loads(peer("llama_quants", a.model) or "{}")
    recorded = json.load(open(f"{ROOT}/tests/golden/quants.json"))
    for part in recorded:
        if part == "ggml": continue
        for name, errors in recorded[part].items():
            for kind, error in errors.items():
                if abs(again.get(part, {}).get(name, {}).get(kind, 0) / error - 1) > 1e-3: failed.append(f"quants.json: {name} {kind} is {error}, llama.cpp's now {again.get(part, {}).get(name, {}).get(kind)}")
print("\n".join(failed) or "llama.cpp loads and says the same")
sys.exit(bool(failed))
