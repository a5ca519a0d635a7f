"""Makes tests/golden/tokenizers/NAME: two tiny tokenizers trained on texts.py, and the token ids transformers gives.

usage: python tests/golden/make/tiny_tokenizers.py        (transformers, tokenizers)

bytelevel: byte-level BPE, Llama 3's pattern, a template with a header around each role. metaspace: SentencePiece-style
BPE with byte fallback whose file prepends the blank in a normalizer, as converters write it, and whose class
(LlamaTokenizer) puts a pre-tokenizer in its place; the template marks turns and wants roles to alternate.
"""
import json, os
import tokenizers, transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from texts import CHATS, STRINGS

here = os.path.dirname(os.path.abspath(__file__))

HEADER = """{{- bos_token }}
{%- set ns = namespace(system='', rest=messages) %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set ns.rest = messages[1:] %}
{%- endif %}
{%- if ns.system or tools is not none %}
    {{- '<|turn|>system<|sep|>\\n\\n' + ns.system }}
    {%- if tools is not none %}
        {{- '\\nTools:' }}
        {%- for tool in tools %}
            {{- '\\n' ~ loop.index ~ '. ' + (tool | tojson(indent=4)) }}
        {%- endfor %}
    {%- endif %}
    {{- '<|stop|>' }}
{%- endif %}
{%- for message in ns.rest %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|turn|>' + message.role + '<|sep|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- '}<|stop|>' }}
    {%- elif message.role in ['tool', 'ipython'] %}
        {{- '<|turn|>ipython<|sep|>\\n\\n' }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|stop|>' }}
    {%- else %}
        {{- '<|turn|>' + message['role'] + '<|sep|>\\n\\n' }}
        {%- if message['content'] is string %}
            {{- message['content'] | trim }}
        {%- else %}
            {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
                {{- part.text }}{{ '' if loop.last else ' ' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|stop|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|turn|>assistant<|sep|>\\n\\n' }}
{%- endif %}
"""
TURNS = """{% if messages[0].role == 'system' %}{% set head = messages[0].content.strip() + '\\n\\n' %}{% set loop_messages = messages[1:] %}{% else %}{% set head = '' %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}
{%- set asks = loop_messages | selectattr('role', 'equalto', 'user') | list %}
{%- set state = namespace(turn=0) %}
{%- for message in loop_messages %}
    {%- if message.role in ('user', 'assistant') and not message.tool_calls %}
        {%- if (message.role == 'user') != (state.turn % 2 == 0) %}
            {{- raise_exception('user and assistant must take turns') }}
        {%- endif %}
        {%- set state.turn = state.turn + 1 %}
    {%- endif %}
    {%- if message.role == 'user' %}
        {%- if tools and message == asks[-1] %}
            {{- '[TOOLS] ' ~ tools | map(attribute='function') | list | tojson ~ ' [/TOOLS]' }}
        {%- endif %}
        {{- '[TURN] ' + (head if loop.first else '') + (message.content if message.content is string else message.content | map(attribute='text') | join('\\n')) + ' [END]' }}
    {%- elif message.tool_calls %}
        {{- '[CALLS] [' }}
        {%- for call in message.tool_calls %}
            {{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id | default('none')} | tojson }}
            {%- if not loop.last %}{{ ', ' }}{% endif %}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[RESULT] {"name": ' ~ message.name | tojson ~ ', "content": ' ~ message.content ~ '} for ' ~ message.tool_call_id }}
    {%- else %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""


def bytelevel():
    tok = Tokenizer(models.BPE())
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|turn|>", "<|sep|>", "<|stop|>"]
    tok.train_from_iterator(STRINGS, trainers.BpeTrainer(vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tok, {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|stop|>", "chat_template": HEADER, "clean_up_tokenization_spaces": False}


def metaspace():
    # Trained on words with their marks; characters seen once go to bytes.
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    trained.train_from_iterator(STRINGS, trainers.BpeTrainer(vocab_size=330, limit_alphabet=110, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = special + [f"<0x{b:02X}>" for b in range(256)] + ["▁" * n for n in range(4, 1, -1)]
    tokens += [t for t in model["vocab"] if t not in tokens]
    blanks = [("▁", "▁"), ("▁▁", "▁▁"), ("▁▁", "▁"), ("▁", "▁▁")]
    merges = blanks + [tuple(m) for m in model["merges"] if tuple(m) not in blanks]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special + ["[TURN]", "[END]"]])
    return tok, {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TURNS, "clean_up_tokenization_spaces": False, "legacy": False}


def rows(cases):
    return "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]"


for build in (bytelevel, metaspace):
    folder = os.path.join(here, "..", "tokenizers", build.__name__)
    os.makedirs(folder, exist_ok=True)
    tok, config = build()
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        f.write(json.dumps(json.loads(tok.to_str()), separators=(",", ":"), ensure_ascii=False) + "\n")
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        f.write(json.dumps(config, indent=1) + "\n")
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    strings = [{"text": s, "ids": loaded(s, add_special_tokens=False)["input_ids"]} for s in STRINGS]
    chats = []
    for case in [{"messages": c} for c in CHATS]:
        try:
            ids = loaded.apply_chat_template(case["messages"], tools=case.get("tools"), add_generation_prompt=True, return_dict=False)
        except Exception as error:
            # What the template refuses.
            print(build.__name__, error, case)
            ids = None
        chats.append({**case, "ids": ids})
    origin = {"script": "tests/golden/make/tiny_tokenizers.py", "transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "class": type(loaded).__name__}
    with open(os.path.join(folder, "expected.json"), "w") as f:
        f.write('{"origin": ' + json.dumps(origin) + ',\n"strings": ' + rows(strings) + ',\n"chats": ' + rows(chats) + "}\n")
    print(build.__name__, loaded._tokenizer.get_vocab_size(), type(loaded).__name__, loaded._tokenizer.normalizer, loaded._tokenizer.pre_tokenizer)
