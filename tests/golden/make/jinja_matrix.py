"""Makes tests/golden/jinja/matrix.json: what jinja2, set up as transformers does for chat templates, makes of every kind of
value by every filter, test and operator, and by the methods of Python's types.

usage: python tests/golden/make/jinja_matrix.py        (transformers, jinja2)

"subjects" are expressions. A row of "rows" is a template and what it writes where the variable v is each of them: null where
jinja2 refuses, false where the text differs from run to run (an address in memory). v is a variable, since jinja2 computes
with constants in a way of its own.
"""
import json, os
from transformers.utils import chat_template_utils

SUBJECTS = ["u", "none", "true", "0", "7", "-3", "2.5", "-0.0", "1e20", "''", "'abc'", "' Ab  c\\n'", "'12'", "'-1.5'",
            "'ß É ǆ😀'", "'<b>&\\'x\\''", "[]", "[3, 1, 2]", "['b', 'A', 'a']", "[1, 'a', none]", "[[1, 2], [3]]", "(1, 2)", "()",
            "{}", "{'b': 1, 'a': 2}", "{'x': [1]}", "[{'a': 1}, {'a': 2, 'b': 3}]", "range(3)", "range(1, 9, 3)",
            "namespace(a=1)", "{'a': 1}.items()", "{'a': 1}.keys()"]

FILTERS = """abs|attr('a')|attr('upper')|attr('items')|batch(2) | list|batch(2, 0) | map('list') | list|capitalize|center(9)|count
default(5)|default('x', true)|d|dictsort|dictsort(by='value')|dictsort(reverse=true)|e|escape|filesizeformat|filesizeformat(true)|first
float|float(1.5)|forceescape|format(1)|format(a=1)|groupby('a') | list|indent|indent(2, true)|int|int(5)|int(base=16)|items|items | list
join|join('-')|join('-', attribute='a')|last|length|list|lower|map('string') | list|map('upper') | list|map(attribute='a') | list
map(attribute='a', default=0) | list|map('length') | list|map('first') | list|map('abs') | list|map('default', 1) | list
map('tojson') | list|max|max(attribute='a')|min|min(case_sensitive=true)|pprint|reject | list|reject('string') | list|reject('none') | list
rejectattr('a') | list|replace('a', 'b')|replace('', '-')|replace('b', 'xy', 1)|reverse|reverse | list|round|round(1)|round(-1, 'floor')
round(0, 'ceil')|safe|select | list|select('number') | list|select('odd') | list|select('eq', 1) | list|selectattr('a') | list
selectattr('a', 'eq', 1) | list|selectattr('b', 'defined') | list|slice(2) | list|slice(2, 0) | map('list') | list|sort
sort(reverse=true)|sort(true, true)|sort(attribute='a')|string|striptags|sum|sum(start=1)|sum(attribute='a')|title|tojson
tojson(indent=1)|tojson(sort_keys=true, separators=(',', ':'))|trim|trim('a')|truncate(3)|truncate(4, true)|truncate(4, end='…', leeway=0)
unique | list|unique(attribute='a') | list|upper|urlencode|wordcount|wordwrap(3)|wordwrap(3, false, '|')|xmlattr|xmlattr(false)
nope""".replace("\n", "|")
TESTS = """boolean|callable|defined|divisibleby(3)|divisibleby 2|eq(1)|eq 'abc'|equalto [3, 1, 2]|escaped|even|false|filter|float|ge 1
greaterthan 'a'|gt 2|in 'abc12'|in [7, 'abc', none, true, (1, 2)]|in {'abc': 1, 7: 2}|integer|iterable|le 7|lessthan 1|lower|lt 'b'|mapping
ne 1|ne none|none|number|odd|sameas none|sameas true|sequence|string|test|true|undefined|upper|not none|not defined|not string|nope"""
TESTS = TESTS.replace("\n", "|")
OPERATORS = """+ 1|+ 1.5|+ 'a'|+ [1]|+ (1,)|- 1|- 0.5|* 2|* 0|* 1.5|* 'a'|/ 2|/ 0|// 2|// -2|% 2|% -2|% (1,)|% {'a': 1}|** 2|** -1|~ 'x'|~ 1|== 1
== 'abc'|== [3, 1, 2]|== (1, 2)|== none|== true|== {'b': 1, 'a': 2}|!= 7|< 1|< 'b'|<= [3]|> 2.4|>= (1,)|in 'abc12'|in [7, 'abc', none]
not in [1]|and 1|or 1|if true else 1|if u else 1|[0]|[-1]|[5]|[true]|['a']|['upper']|[none]|[1:]|[:-1]|[::2]|[::-1]|[-2:]|[1:3:2]|[:0:-1]
[0:99]|[2:1]|[:none]|.a|.b|.x|.upper|.items|.length|.a.b|.__class__|['__class__']|.0"""
OPERATORS = OPERATORS.replace("\n", "|")
METHODS = """capitalize()|casefold()|center(9)|center(9, '*')|count('b')|count(1)|endswith('c')|endswith(('x', 'c'))|expandtabs(2)|find('b')
format(1)|format(a=1)|index('b')|index(1)|isalnum()|isalpha()|isascii()|isdecimal()|isdigit()|isidentifier()|islower()|isnumeric()
isprintable()|isspace()|istitle()|isupper()|join(['x', 'y'])|join('xy')|ljust(5, '.')|lower()|lstrip()|partition('b')|removeprefix('a')
removesuffix('c')|replace('b', 'x')|replace('', '-')|rfind('b')|rindex('b')|rjust(5)|rpartition(' ')|rsplit()|rsplit('b', 1)|rstrip()|split()
split('b')|split(none, 1)|split(' ')|splitlines()|splitlines(true)|startswith('a')|startswith('b', 1)|strip()|strip('ac ')|swapcase()
title()|translate({97: 'z', 98: none})|upper()|zfill(5)|encode()|isnope()|get('a')|get('z', 5)|get('b', 0)|items()|items() | list|keys()
keys() | list|values()|values() | list|copy()|pop()|append(1)|update({})|setdefault('a', 1)|bit_length()|bit_count()|is_integer()|conjugate()
as_integer_ratio()|hex()|sort()|reverse()|clear()|extend([1])|a()"""
METHODS = METHODS.replace("\n", "|")
AROUND = r"""{{ v }};{{ [v] }};{{ {'k': v} }};{{ (v,) }};{{ not v }};{{ -v }};{{ +v }};{{ 1 + v }};{{ 'a' + v }};{{ [1] + v }};{{ 2 * v }};{{ 'ab' * v }}
{{ 7 / v }};{{ 7 % v }};{{ 2 ** v }};{{ 1 in v }};{{ 'a' in v }};{{ none in v }};{{ [] == v }};{{ 1 < v }};{{ '%s' % v }};{{ '%d' % v }};{{ '%r|%s' % v }}
{{ '%5.1f' % v }};{{ '%r' % v }};{{ '%x' % v }};{{ '%c' % v }};{{ '%e' % v }};{{ '%g' % v }};{{ '%-6s|' % v }};{{ '%(a)s' % v }};{{ '%a' % v }};{{ '%05d' % v }}
{{ '%s' | format(v) }};{{ '%d' | format(v) }};{{ '{}'.format(v) }};{{ '{:5}|'.format(v) }};{{ '{:>5}|'.format(v) }};{{ '{:d}'.format(v) }};{{ '{:.2f}'.format(v) }};{{ '{:,}'.format(v) }};{{ '{:x}'.format(v) }}
{{ '{!r:>9}'.format(v) }};{{ '{:e}'.format(v) }};{{ '{:.1%}'.format(v) }};{{ '{:s}'.format(v) }};{{ '{:c}'.format(v) }};{{ '{0[0]}'.format(v) }};{{ '{0.a}'.format(v) }};{{ '{0[a]}'.format(v) }};{{ '{:+}'.format(v) }}
{{ '{:g}'.format(v) }};{{ '{:b}'.format(v) }};{{ '{:05}'.format(v) }};{{ '-'.join(v) }};{{ 'abc'.strip(v) }};{{ 'abcabc'.split(v) }};{{ 'abc'.startswith(v) }};{{ 'abc'.replace('b', v) }};{{ 'abc'.find(v) }}
{{ 'abc'.zfill(v) }};{{ 'abc'.center(v) }};{{ [3, 1, 2][v] }};{{ 'abc'[v] }};{{ {'abc': 1, 7: 2, none: 3, true: 4}[v] }};{{ [3, 1, 2][v:] }};{{ 'abc'[:v] }};{{ [3, 1, 2].index(v) }};{{ ['abc', 7].count(v) }}
{{ range(v) }};{{ range(v) | list }};{{ range(0, 9, v) | list }};{{ dict(v) }};{{ dict(a=v) }};{{ dict.fromkeys(v) }};{{ namespace(v).a }};{{ namespace(a=v).a }};{{ raise_exception(v) }};{{ strftime_now(v) }}
{{ [2, 1] | join(v) }};{{ 'abc' | replace('b', v) }};{{ [3, 1] | sum(start=v) }};{{ u | default(v) }};{{ 'a\nb' | indent(v) }};{{ 'abcdefgh' | truncate(v) }};{{ 'a' | center(v) }};{{ 2.567 | round(v) }}
{{ {'a': 1} | tojson(indent=v) }};{{ [1, 2, 3] | batch(v) | list }};{{ [1, 2, 3] | slice(v) | list }};{{ [v, v] | unique | list }};{{ [1, v] | max }};{{ ['a', v] | sort }};{{ [v, u] | join(',') }};{{ [v, 'a'] | tojson }}
{% if v %}y{% else %}n{% endif %};{% for x in v %}{{ x }},{% else %}-{% endfor %};{% for x in v %}{{ loop.index }}{{ loop.last }}{{ loop.length }};{% endfor %};{% for a, b in v %}{{ a }}{{ b }},{% endfor %}
{% for x in v if x %}{{ loop.revindex }}{{ x }} {% endfor %};{% for x in v %}{{ loop.previtem is defined }}{{ loop.nextitem }} {% endfor %};{% for x in v %}{{ loop.changed(x) }}{{ loop.cycle('a', 'b') }} {% endfor %}
{% set a, b = v %}{{ a }}{{ b }};{% set x = v %}{{ x }}{{ x is defined }};{% set x %}{{ v }}{% endset %}{{ x }}|{{ x | length }};{% macro f(x, y=2) %}<{{ x }}{{ y }}>{% endmacro %}{{ f(v) }}{{ f(y=v) }}
{% macro f(x) %}{{ x }}{{ caller(v) }}{% endmacro %}{% call(z) f(v) %}[{{ z }}]{% endcall %};{% with x = v %}{{ x }}{% endwith %};{% filter upper %}{{ v }}{% endfilter %};{{ f(*v) if f else v }}
{% macro f(a=1, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(*v) }};{% macro f(a=1, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(**v) }};{{ 'a' if v else 'b' }};{{ v is v }};{% for x in [0, v] %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}
{% set ns = namespace(n=0) %}{% for x in v %}{% set ns.n = x %}{% endfor %}{{ ns.n }};{% for x in v | list %}{{ loop.index0 }}{{ x }}{% endfor %};{% for k, w in v.items() %}{{ k }}={{ w }}{% endfor %};{% for k in v | sort %}{{ k }}{% endfor %}
{% set c = cycler('a', v) %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }};{% set j = joiner(v) %}{{ j() }}{{ j() }}{{ j() }};{% for x in v recursive %}{{ loop(x) if x is iterable and x is not string else x }}{% endfor %}"""
AROUND = AROUND.replace("\n", ";")


def render(source):
    try:
        message = [{"role": "user", "content": "Hi"}]
        text = chat_template_utils.render_jinja_template(conversations=[message], chat_template=source)[0][0]
        return False if " at 0x" in text else text
    except Exception:
        return None


def main():
    split = lambda text, by: list(dict.fromkeys(x.strip() for x in text.split(by) if x.strip()))
    # A filter's name may be followed by a further filter, so the bars between blanks do not divide.
    joined = []
    for part in FILTERS.replace("'|'", "'\0'").replace(" | ", " \1 ").split("|"):
        joined.append(part.strip().replace("\0", "|").replace("\1", "|"))
    templates = ["{{ v | %s }}" % f for f in dict.fromkeys(joined) if f]
    templates += ["{{ v is %s }}" % t for t in split(TESTS, "|")]
    templates += ["{{ v%s%s }}" % ("" if o[0] in "[." else " ", o) for o in split(OPERATORS, "|")]
    for part in METHODS.replace(" | ", " \1 ").split("|"):
        templates.append("{{ v.%s }}" % part.strip().replace("\1", "|"))
    # Of the templates around a subject some hold the sign that divides the others.
    templates += [t for t in split(AROUND.replace("}};{% endfor", "}}\0{% endfor"), ";")]
    templates = list(dict.fromkeys(t.replace("\0", ";") for t in templates))
    rows = [[t, [render("{%% set v = %s %%}" % s + t) for s in SUBJECTS]] for t in templates]
    line = lambda row: json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "jinja", "matrix.json")
    with open(out, "w") as file:
        file.write('{"subjects": %s,\n"rows": [\n%s\n]}\n' % (line(SUBJECTS), ",\n".join(map(line, rows))))
    cells = [c for _, row in rows for c in row]
    print(len(rows), "templates,", len(cells), "texts,", cells.count(None), "refused,", sum(c is False for c in cells), "left out")


main()
