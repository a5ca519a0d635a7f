"""Makes tests/golden/real/NAME.json: what transformers and TRL compute with the model that `scripts/fetch-models NAME`
fetches, dequantised to f32, on the CPU; and tests/golden/real/inputs.json, the texts that all of them are given.

usage: python tests/golden/make/real_models.py NAME…        (torch, transformers, trl, gguf; smollm2, gemma, qwen)

transformers' own reading of GGUF tokenizers is not used for smollm2 and qwen, because it leaves steps out that the files
name (`tokenizer.ggml.pre`) and the published tokenizer.json have: of SmolLM2 the split of digits, so that blanks before
digits are cut otherwise, of Qwen 2 the normal form NFC. Both are put together here from the file's vocabulary and
merges. Gemma's is what transformers makes of it.

Records are tokenised by TRL's trainers; what a template writes after the last end of turn is left out, as in training
here. The first step's reference is the model itself.
"""
import copy, hashlib, json, math, os, sys, tempfile
import gguf, torch, transformers, tokenizers, trl
from datasets import Dataset, disable_progress_bars
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers as pt
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from texts import CHATS, STRINGS, TOOL_CHATS, user, assistant

here = os.path.dirname(os.path.abspath(__file__))
root = os.path.join(here, "..", "..", "..")
folder = os.path.join(here, "..", "real")
disable_progress_bars()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
NEW, BETA, WINDOWS = 24, 0.1, [(8192, 4096), (256, 64)]
FILES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma": "gemma-3-270m-q4_k_m.gguf", "qwen": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"}
# The tokens that end an answer where one of them is in the vocabulary.
ENDS = ["<|im_end|>", "<|endoftext|>", "<eos>", "<end_of_turn>"]
# The first four go through the chat template, if the model has one.
PROMPTS = [
    "What is the capital of France?", "Write one sentence about the sea.", "List three things one needs to bake bread.", "Say hello in Spanish.",
    "def add(a, b):\n    ", "The three largest planets are", "12 + 30 =", "Once upon a time, in a village by a river,",
]
JUDGED = [
    ("What is the capital of France?", "The capital of France is Paris."), ("What is the capital of France?", "Bananas are yellow."),
    ("How many legs does a spider have?", "A spider has eight legs, in four pairs."), ("Write a haiku about rain.", "Rain on the tin roof,\nthe cat counts each falling drop\nand forgets to sleep."),
]
RECORDS = [
    ("Name a fruit that is red.", "A ripe strawberry is red, and so are most cherries.", "The number seven."),
    ("What do bees make?", "Bees make honey and wax.", "Bees are small insects, and I do not know what they make."),
]
# A text of up to a thousand tokens: letters, digits, code and other scripts in turn.
TEXT = "\n".join(text for text in STRINGS if len(text) > 8 and "<|" not in text)
CONVERSATIONS = [{"messages": c} for c in CHATS] + TOOL_CHATS
PAGE = open(os.path.join(folder, "page.txt")).read()


def by_hand(fields, steps, nfc):
    """A byte-level tokenizer of the file's vocabulary that cuts text by the given steps."""
    vocabulary, merges, kinds = (fields["tokenizer.ggml." + k].contents() for k in ("tokens", "merges", "token_type"))
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary)}, [tuple(m.split(" ")) for m in merges]))
    tok.normalizer = normalizers.NFC() if nfc else None
    tok.pre_tokenizer, tok.decoder = pt.Sequence(steps), decoders.ByteLevel()
    # 3 are control tokens, 4 are those that someone has added.
    for kind in (3, 4):
        tok.add_tokens([AddedToken(t, special=kind == 3, normalized=False) for t, k in zip(vocabulary, kinds) if k == kind])
    named = {key: vocabulary[fields[f"tokenizer.ggml.{k}_token_id"].contents()] for key, k in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))}
    return PreTrainedTokenizerFast(tokenizer_object=tok, chat_template=fields["tokenizer.chat_template"].contents(), clean_up_tokenization_spaces=False, **named)


def tokenizer(name, path):
    fields = gguf.GGUFReader(path).fields
    if name == "smollm2":
        return by_hand(fields, [pt.Digits(individual_digits=True), pt.ByteLevel(add_prefix_space=False)], False)
    if name == "qwen":
        words = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                 r"|\s+(?!\S)|\s+")
        return by_hand(fields, [pt.Split(Regex(words), "isolated"), pt.ByteLevel(add_prefix_space=False, use_regex=False)], True)
    return AutoTokenizer.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path))


class Real:
    def __init__(self, name):
        self.path = os.path.realpath(os.path.join(root, "models", FILES[name]))
        self.tok = tokenizer(name, self.path)
        self.model = AutoModelForCausalLM.from_pretrained(os.path.dirname(self.path), gguf_file=os.path.basename(self.path), dtype=torch.float32,
                                                          attn_implementation="eager").eval()
        self.stop = {self.tok.convert_tokens_to_ids(t) for t in ENDS if t in self.tok.get_vocab()}

    def bare(self, text):
        return self.tok(text, add_special_tokens=False).input_ids

    def plain(self, text):
        return self.tok(text).input_ids

    def chat(self, conversation):
        """Ids up to where the assistant begins to speak; None where the template refuses."""
        c = copy.deepcopy(conversation)
        try:
            text = render_jinja_template([c["messages"]], tools=c.get("tools"), chat_template=self.tok.chat_template, add_generation_prompt=True)[0][0]
        except Exception as error:
            print("refused:", type(error).__name__, error, json.dumps(conversation, ensure_ascii=False)[:150])
            return None
        return self.bare(text)

    def rows(self, ids):
        """Log-probs of all tokens after each place but the last."""
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)

    def logps(self, ids):
        return [float(row[id]) for row, id in zip(self.rows(ids), ids[1:])]

    def greedy(self, ids):
        out, gaps, cache, new = [], [], None, ids
        with torch.no_grad():
            while len(out) < NEW and (not out or out[-1] not in self.stop):
                step = self.model(torch.tensor([new]), past_key_values=cache, use_cache=True)
                top, cache = step.logits[0, -1].topk(2), step.past_key_values
                new = [int(top.indices[0])]
                out += new
                gaps.append(round(float(top.values[0] - top.values[1]), 5))
        return {"prompt_ids": ids, "greedy": out, "gaps": gaps}

    def perplexity(self, ids, length, stride):
        """Each token is scored once, in the first window that holds it."""
        begin, start, count, nll = 0, 1, 0, 0.0
        while start < len(ids):
            end = min(begin + length, len(ids))
            if end > start:
                nll -= sum(self.logps(ids[begin:end])[start - begin - 1:])
                start, count = end, count + 1
            begin += stride
        nll /= len(ids) - 1
        return {"window": length, "stride": stride, "windows": count, "tokens": len(ids) - 1, "nll": round(nll, 7), "perplexity": round(math.exp(nll), 6)}

    def asked(self, message):
        """What the judge's message becomes, as text, and how it is encoded."""
        if self.tok.chat_template:
            return render_jinja_template([[user(message)]], chat_template=self.tok.chat_template, add_generation_prompt=True)[0][0], self.bare
        return f"Question: {message}\n\nAnswer:", self.plain

    def filled(self, template, question, answer):
        text = open(os.path.join(root, "prompts", template)).read().rstrip("\n")
        return text.replace("{{ question }}", question).replace("{{ answer }}", answer)

    def judged_yes(self, question, answer):
        """5 P(yes): the probability of all spellings of yes among those of yes and no."""
        text, encode = self.asked(self.filled("yes.txt", question, answer))
        spellings = lambda word: {ids[0] for form in (word, word.title(), word.upper()) for ids in map(self.bare, (form, " " + form)) if len(ids) == 1}
        yes, no, ids = sorted(spellings("yes")), sorted(spellings("no")), encode(text)
        p = self.rows(ids + ids[:1])[-1][yes + no].softmax(0)
        return round(5 * float(p[: len(yes)].sum()), 6)

    def judged_expected(self, question, answer):
        """The expectation over the digits 0 to 5 behind `Score: `."""
        text, encode = self.asked(self.filled("additive.txt", question, answer))
        wholes = [encode(f"{text}Score: {k}") for k in range(6)]
        at = len(os.path.commonprefix(wholes))
        assert all(len(ids) == at + 1 for ids in wholes)
        p = self.rows(wholes[0])[-1][[ids[at] for ids in wholes]].softmax(0)
        return round(sum(k * float(x) for k, x in enumerate(p)), 6)

    def records(self):
        say = (lambda p, a: ([user(p)], [assistant(a)])) if self.tok.chat_template else (lambda p, a: (p, " " + a))
        sft = [dict(zip(("prompt", "completion"), say(p, c))) for p, c, _ in RECORDS]
        dpo = [{"prompt": say(p, c)[0], "chosen": say(p, c)[1], "rejected": say(p, r)[1]} for p, c, r in RECORDS]
        return sft, dpo

    def tokenised(self, sft, dpo):
        """What TRL's trainers make of the records: (prompt, completion) and (prompt, chosen, rejected)."""
        small = LlamaForCausalLM(LlamaConfig(vocab_size=len(self.tok), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))
        with tempfile.TemporaryDirectory() as out:
            args = {"output_dir": out, "report_to": [], "use_cpu": True, "max_length": None}
            ours = SFTTrainer(small, args=SFTConfig(**args), train_dataset=Dataset.from_list(sft), processing_class=self.tok)
            pairs = DPOTrainer(small, copy.deepcopy(small), args=DPOConfig(**args), train_dataset=Dataset.from_list(dpo), processing_class=self.tok)

            def ended(ids):
                turn = [i for i, id in enumerate(ids) if id == self.tok.eos_token_id]
                return ids[: turn[-1] + 1] if self.tok.chat_template else ids
            one = []
            for row in ours.train_dataset:
                learnt = row["completion_mask"] if "completion_mask" in row else [int(l != -100) for l in row["labels"]]
                at = learnt.index(1)
                one.append((row["input_ids"][:at], ended(row["input_ids"][at:])))
            return one, [(row["prompt_ids"], ended(row["chosen_ids"]), ended(row["rejected_ids"])) for row in pairs.train_dataset]

    def sums(self, prompt, answer):
        """Log-probs of an answer's tokens, with their gradient."""
        rows = self.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
        return rows.gather(1, torch.tensor(answer)[:, None])[:, 0]

    def norms(self):
        """The norm of the whole gradient and those of some parameters; takes the gradients away."""
        squares = {n: float(p.grad.double().pow(2).sum()) for n, p in self.model.named_parameters()}
        last = self.model.config.num_hidden_layers - 1
        shown = [n for n in squares if "layers" not in n or f"layers.{last // 2}." in n or f"layers.{last}.input_layernorm" in n or "layers.0.self_attn" in n]
        self.model.zero_grad(set_to_none=True)
        return {"grad_norm": math.sqrt(sum(squares.values())), "grad_norms": {n: math.sqrt(squares[n]) for n in shown}}

    def steps(self):
        sft, dpo = self.records()
        one, pairs = self.tokenised(sft, dpo)
        total = sum(len(c) for _, c in one)
        losses = [-self.sums(p, c).sum() / total for p, c in one]
        for loss in losses:
            loss.backward()
        results = {"sft": {"records": sft, "loss": sum(l.item() for l in losses), **self.norms()}}
        loss, logps = 0.0, []
        for prompt, chosen, rejected in pairs:
            c, r = self.sums(prompt, chosen).sum(), self.sums(prompt, rejected).sum()
            term = -torch.nn.functional.logsigmoid(BETA * ((c - c.detach()) - (r - r.detach()))) / len(pairs)
            term.backward()
            loss, logps = loss + term.item(), logps + [[c.item(), r.item()]]
        results["dpo"] = {"records": dpo, "beta": BETA, "loss": loss, "logps_chosen": [l[0] for l in logps], "logps_rejected": [l[1] for l in logps], **self.norms()}
        return results


def write(name, result):
    pack = lambda x: json.dumps(x, ensure_ascii=True, separators=(",", ":"))
    rows = lambda v: "[\n" + ",\n".join(pack(x) for x in v) + "\n]"
    with open(os.path.join(folder, f"{name}.json"), "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: " + (rows(v) if isinstance(v, list) and v and not isinstance(v[0], (int, float)) else pack(v))
                                   for k, v in result.items()) + "\n}\n")


def run(name):
    real = Real(name)
    text_ids = real.plain(TEXT)[:1000]
    page = real.plain(PAGE)
    chats = bool(real.tok.chat_template)
    special = [real.plain(s) for s in STRINGS]
    bare = [real.bare(s) for s in STRINGS]
    around = real.plain("")
    assert all(s == around + b for s, b in zip(special, bare)) or not print([s for s, a, b in zip(STRINGS, special, bare) if a != around + b])
    asked = [(p, chats and i < 4) for i, p in enumerate(PROMPTS)]
    result = {
        "origin": {"script": "tests/golden/make/real_models.py", "file": FILES[name], "sha256": hashlib.sha256(open(real.path, "rb").read()).hexdigest(),
                   "python": sys.version.split()[0], **{m.__name__: m.__version__ for m in (torch, transformers, tokenizers, trl)}},
        "special": around,
        "strings": bare,
        "chats": [real.chat(c) for c in CONVERSATIONS] if chats else [],
        "max_new_tokens": NEW,
        "continuations": [{"text": p, "template": t, **real.greedy(real.chat({"messages": [user(p)]}) if t else real.plain(p))} for p, t in asked],
        "page_ids": page,
        "perplexity": [real.perplexity(page, *w) for w in WINDOWS],
        "text_ids": text_ids,
        "text_logps": [round(x, 5) for x in real.logps(text_ids)],
        "yes": [real.judged_yes(*item) for item in JUDGED],
        "expected": [real.judged_expected(*item) for item in JUDGED],
        **real.steps(),
    }
    write(name, result)
    for c in result["continuations"]:
        print(repr(real.tok.decode(c["greedy"])), min(c["gaps"]))
    print({k: result[k] for k in ("perplexity", "yes", "expected")}, {k: result[k]["loss"] for k in ("sft", "dpo")}, result["dpo"]["grad_norm"], result["sft"]["grad_norm"])


write("inputs", {"strings": STRINGS, "chats": CONVERSATIONS, "judged": [{"prompt": p, "response": a} for p, a in JUDGED]})
for name in sys.argv[1:]:
    run(name)
