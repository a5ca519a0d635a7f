"""Makes tests/golden/records.json: training records and the token ids that TRL's own trainers make of them.

usage: python tests/golden/make/records.py        (torch, transformers, trl)

Each tokenizer is one of tests/golden/tokenizers with a post-processor and a chat template of its own, both of which
stand in the file, so that the test can put the same together. "sft" rows are the whole sequence with the places that
have a loss; "dpo" rows are prompt, chosen and rejected. A row is null where TRL raises.
"""
import copy, json, os, tempfile
import datasets
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.data_utils import maybe_convert_to_chatml, maybe_extract_prompt

datasets.disable_progress_bars()
here = os.path.dirname(os.path.abspath(__file__))
CHATML = ("{% for m in messages %}{{ '<|turn|>' + m.role + '<|sep|>' }}{% if m.role == 'assistant' %}{% generation %}"
          "{{ m.content + '<|stop|>' }}{% endgeneration %}{% else %}{{ m.content + '<|stop|>' }}{% endif %}{{ '\\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant<|sep|>' }}{% endif %}")
OPENS = CHATML.replace("assistant<|sep|>' }}{% endif %}", "assistant<|sep|><think>\\n' }}{% endif %}")
SWITCH = CHATML.replace("assistant<|sep|>' }}{% endif %}", "assistant<|sep|>' }}{% if enable_thinking is defined and not "
                        "enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}")
TOOLS = ("{% if tools %}{{ '<|turn|>tools<|sep|>' + (tools | tojson) + '<|stop|>\\n' }}{% endif %}"
         + CHATML.replace("{{ m.content + '<|stop|>' }}{% endgeneration", "{% for c in m.tool_calls or [] %}{{ 'CALL ' "
                          "+ c.function.name }}{% endfor %}{{ (m.content or '') + '<|stop|>' }}{% endgeneration"))
ZEPHYR = ("{% for m in messages %}{{ '<|' + m.role + '|>\\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content "
          "+ '</s>' }}{% endgeneration %}{% else %}{{ m.content + '</s>' }}{% endif %}{{ '\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}")


def template(bos, eos=None):
    piece = lambda t: {"SpecialToken": {"id": t, "type_id": 0}}
    single = [piece(bos), {"Sequence": {"id": "A", "type_id": 0}}] + ([piece(eos)] if eos else [])
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special": [t for t in (bos, eos) if t]}


def say(*turns):
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]


call = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
tool = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
PLAIN = [
    ("sft", {"prompt": "The capital of France is", "completion": " Paris, and more."}),
    ("sft", {"prompt": "The capital of France is ", "completion": "Paris"}),
    ("sft", {"prompt": "Hel", "completion": "lo world"}),
    ("sft", {"prompt": "Hi", "completion": " yo{eos}"}),
    ("sft", {"prompt": "", "completion": "Hello world"}),
    ("sft", {"text": "Hello world, this is a text."}),
    ("dpo", {"prompt": "Name a fruit.", "chosen": "Apple", "rejected": "Car"}),
    ("dpo", {"prompt": "Name a fruit: ", "chosen": "Apple", "rejected": "Car"}),
    ("dpo", {"prompt": "Name a fruit.", "chosen": "Apple", "rejected": ""}),
    ("dpo", {"prompt": "ab", "chosen": "cd{eos}", "rejected": "ef"}),
    ("dpo", {"chosen": "The sky is blue", "rejected": "The sky is green"}),
    ("dpo", {"chosen": "\n\nHuman: Name one.\n\nAssistant: Apple", "rejected": "\n\nHuman: Name one.\n\nAssistant: Apple pie"}),
]
CHAT = [
    ("sft", {"messages": say("Q1", "Answer one here", "Q2", "B")}),
    ("sft", {"messages": [{"role": "system", "content": "Be short."}] + say("Hi", "Hello")}),
    ("sft", {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]}),
    ("sft", {"prompt": say("Hi"), "completion": say("", "Hello there")[1:]}),
    ("sft", {"prompt": say("Hi", "Ho", "Hi again"), "completion": say("", "Hello there")[1:], "label": "pos"}),
    ("dpo", {"prompt": say("Name a fruit."), "chosen": say("", "Apple")[1:], "rejected": say("", "Car")[1:]}),
    ("dpo", {"prompt": "Name a fruit.", "chosen": say("Name a fruit.", "Apple"), "rejected": say("Name a fruit.", "Car")}),
    ("dpo", {"chosen": say("Hi", "Yo", "And?", "a"), "rejected": say("Hi", "Yo", "And?", "b")}),
    ("dpo", {"prompt": say("Name a fruit."), "chosen": say("", "Apple")[1:], "rejected": say("", "")[1:]}),
]
SWITCHED = [(k, {**r, "chat_template_kwargs": {"enable_thinking": False}}) for k, r in CHAT[3:4] + CHAT[5:6]]
CALLS = [
    ("sft", {"messages": say("Hi", "Hello"), "tools": tool}),
    ("sft", {"messages": say("Hi", "Hello"), "tools": json.dumps(tool)}),
    ("sft", {"messages": [*say("Hi"), {"role": "assistant", "content": None, "tool_calls": call},
                          {"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3"}]}),
    ("dpo", {"prompt": say("Hi"), "chosen": say("", "Hello")[1:], "rejected": say("", "Ho")[1:], "tools": tool}),
]
# Roles that a template does not know: written like the others (CHATML), passed over, or refused.
PASSES = ("{% for m in messages %}{% if m.role == 'user' %}{{ '<|turn|>user<|sep|>' + m.content + '<|stop|>\\n' }}{% elif m.role == "
          "'assistant' %}{{ '<|turn|>assistant<|sep|>' }}{% generation %}{{ m.content + '<|stop|>' }}{% endgeneration %}{{ '\\n' }}"
          "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant<|sep|>' }}{% endif %}")
RAISES = PASSES.replace("{% endif %}{% endfor %}", "{% else %}{{ raise_exception('Only user and assistant speak, not ' + m.role) }}{% endif %}{% endfor %}")
STRANGERS = [
    ("sft", {"messages": [{"role": "narrator", "content": "She smiles."}, *say("Hi", "Hello")]}),
    ("sft", {"messages": [*say("Hi"), {"role": "narrator", "content": "He nods."}, {"role": "assistant", "content": "Hello"}]}),
    ("sft", {"messages": [*say("Hi", "Hello"), {"role": "critic", "content": "Too short."}, {"role": "assistant", "content": "Hello, you"}]}),
    ("dpo", {"prompt": [{"role": "developer", "content": "Be brief."}, *say("Hi")], "chosen": say("", "Hello")[1:],
             "rejected": say("", "Ho")[1:]}),
]
CASES = [
    ("bytelevel", None, CHATML, PLAIN + CHAT),
    ("bytelevel", template("<|begin|>"), CHATML, PLAIN + CHAT),
    ("bytelevel", template("<|begin|>", "<|stop|>"), CHATML, PLAIN[:2] + PLAIN[5:7]),
    ("bytelevel", {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, template("<|begin|>")]},
     OPENS, PLAIN[:1] + PLAIN[6:7] + CHAT),
    ("bytelevel", None, SWITCH, SWITCHED + CHAT[3:4]),
    ("bytelevel", None, TOOLS, CALLS),
    ("metaspace", template("<s>"), ZEPHYR, PLAIN + CHAT),
    ("metaspace", None, ZEPHYR, PLAIN[:4] + CHAT[:6]),
    ("bytelevel", None, CHATML, STRANGERS),
    ("bytelevel", None, PASSES, STRANGERS),
    ("bytelevel", None, RAISES, STRANGERS),
]


def whole(processor, ids):
    """The post-processor as tokenizer.json has it: the special tokens with their ids."""
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        return {**processor, "processors": [whole(p, ids) for p in processor["processors"]]}
    if processor["type"] != "TemplateProcessing":
        return processor
    special = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in processor["special"]}
    return {k: v for k, v in processor.items() if k != "special"} | {"special_tokens": special}


def tokenizer(name, processor, chat_template, folder):
    source = os.path.join(here, "..", "tokenizers", name)
    file = json.load(open(f"{source}/tokenizer.json"))
    ids = {t["content"]: t["id"] for t in file["added_tokens"]}
    file["post_processor"] = whole(processor, ids)
    config = json.load(open(f"{source}/tokenizer_config.json"))
    config["chat_template"] = chat_template
    if name == "metaspace":
        # What this class makes of a file it does once; the file written here has its result.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        file["normalizer"] = None
        file["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    json.dump(file, open(f"{folder}/tokenizer.json", "w"))
    json.dump(config, open(f"{folder}/tokenizer_config.json", "w"))
    tok = AutoTokenizer.from_pretrained(folder)
    tok.pad_token = tok.eos_token
    return tok, file["post_processor"]


def rows(tok, records, folder):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=700, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1, max_position_embeddings=512))
    out = {"output_dir": folder, "report_to": [], "use_cpu": True, "max_length": None}
    sft_args = SFTConfig(**out)
    dummy = Dataset.from_list([{"prompt": "a", "completion": "b"}])
    sft = SFTTrainer(model, args=sft_args, train_dataset=dummy, processing_class=tok)
    pair = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    dpo = DPOTrainer(model, copy.deepcopy(model), args=DPOConfig(**out), train_dataset=pair, processing_class=tok)
    made = []
    for kind, record in records:
        record = json.loads(json.dumps(record).replace("{eos}", tok.eos_token))
        row = {"kind": kind, "record": record}
        given = maybe_convert_to_chatml(json.loads(json.dumps(record)))
        try:
            if kind == "dpo":
                data = dpo._prepare_dataset(Dataset.from_list([maybe_extract_prompt(given) | {k: v for k, v in given.items()
                    if k in ("tools", "chat_template_kwargs")}]), tok, dpo.args, "x")[0]
                row |= {k: data[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")}
            else:
                masks = "messages" in given
                if masks:
                    text = tok.apply_chat_template(given["messages"], tokenize=True, return_dict=True, tools=json.loads(given["tools"])
                        if isinstance(given.get("tools"), str) else given.get("tools"), return_assistant_tokens_mask=True)
                    ids, learnt = text["input_ids"], [i for i, m in enumerate(text["assistant_masks"]) if m]
                else:
                    data = sft._prepare_dataset(Dataset.from_list([given]), tok, sft_args, False, None, "x")[0]
                    ids = data["input_ids"]
                    learnt = [i for i, m in enumerate(data.get("completion_mask") or data.get("labels") or [1] * len(ids))
                              if m not in (0, -100)]
                    if "labels" in data:
                        learnt = [i for i, l in enumerate(data["labels"]) if l != -100]
                row |= {"ids": ids, "learnt": learnt}
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:200]
            print(kind, record, row["error"])
        made.append(row)
    return made


cases = []
for name, processor, chat_template, records in CASES:
    with tempfile.TemporaryDirectory() as folder:
        tok, processor = tokenizer(name, processor, chat_template, folder)
        cases.append({"tokenizer": name, "post_processor": processor, "chat_template": chat_template,
                      "rows": rows(tok, records, folder)})
path = os.path.join(here, "..", "records.json")
with open(path, "w") as f:
    f.write("[\n" + ",\n".join(
        "{" + ",\n ".join(f"{json.dumps(k)}: " + ("[\n  " + ",\n  ".join(json.dumps(r) for r in v) + "\n ]" if k == "rows"
                         else json.dumps(v)) for k, v in case.items()) + "}" for case in cases) + "\n]\n")
print(sum(len(c["rows"]) for c in cases), "rows")
