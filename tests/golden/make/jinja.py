"""Makes tests/golden/jinja/expressions.json: what jinja2, set up as transformers does for chat templates, writes.

usage: python tests/golden/make/jinja.py        (transformers, jinja2)

Each line of the file is [template, text], with null for a text where jinja2 refuses. The values are VALUES below, which
stand in the file as well. The time of strftime_now is kept still; its lines are [format, text] under "dates".
"""
import datetime, json, os
from transformers.utils import chat_template_utils

VALUES = {
    "d": {"b": 1, "a": [1, 2.5, None], "C": {"x": "it's", "y": True}},
    "e": {}, "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "s": "Grüße, Welt! It's ok.", "m": " a\tb \n c\r\nd\x0be ", "i": 7, "x": 1.5,
    "n": None, "t": True, "q": "a'b\"c\\d\n\x07\u200b\u00a0é😀",
    "p": [{"name": "Ann", "age": 31, "tag": {"k": "z"}}, {"name": "bob", "age": 25, "tag": {"k": "y"}}, {"name": "Cy", "age": 31}],
    "schema": {"type": "array", "items": {"type": "string"}, "keys": 3, "values": None},
    "html": "<a href=\"x\">&'</a>",
}

PRINTED = """
d|e|l|w|s|q|x|n|t|p|(1, 2)|(1,)|()|[(1, 'a')]|{'a': none}|{'a': {'b': []}}|1e-5|1e16|1e22|123456789.123|0.1 + 0.2|1.0|-0.0
5e-324|1.7976931348623157e308|12345678901234567890|1e15|0.0001|'a' "b"|none ~ 1|[none, true, 1.0]|'x' ~ d|'x' ~ l|['it\\'s', "say \\"x\\"", 'both \\' "']
['\\n', '\\t', '\\\\', 'é', '\\x00']|undefined_name|[undefined_name]|range(3)|range(1, 7, 2)|d.items()|d.keys()|d.values()|d.items() , list
""".replace("\n", "|")
TESTS = """
none is iterable;none is sequence;none is mapping;none is string;none is number;none is defined;none is none;none is undefined;none is boolean;none is callable
u is iterable;u is sequence;u is mapping;u is string;u is defined;u is none;u is undefined;u is number;u is integer;u is sameas(u)
'a' is iterable;'a' is sequence;'a' is mapping;'a' is string;'' is sequence;'a' is number;'A' is upper;'a' is lower;'1' is lower;'' is lower;'Ab' is lower;'Ab' is upper
l is iterable;l is sequence;l is mapping;d is iterable;d is sequence;d is mapping;(1, 2) is sequence;range(3) is sequence;range(3) is iterable;d.items() is sequence;d.keys() is iterable
true is number;true is integer;true is boolean;true is true;true is false;1 is true;1 is boolean;1 is integer;1.0 is integer;1.0 is float;1 is float;1.5 is number;0 is false
1 is odd;2 is even;9 is divisibleby 3;9 is divisibleby(2);-3 is odd;1.5 is odd;'a' is in 'abc';1 is in l;9 is not in l;'b' is in d;3 is eq 3;3 is ne 4;3 is lt 4;3 is le 3;3 is gt 2;3 is ge 4
3 is equalto 3;3 is greaterthan 2;3 is lessthan 2;3 is sameas 3;none is sameas none;true is sameas 1;'upper' is filter;'nope' is filter;'iterable' is test;'nope' is test;s is escaped;range is callable;d is callable
x is integer;i is integer;'%s' is string;d.a is sequence;d.nope is defined;d.nope.x is defined;d['nope'] is defined;namespace() is mapping;loop is defined;messages is defined;u is not defined
3 == 3.0;1 == true;'1' == 1;none == false;[1, 2] == [1.0, 2];(1, 2) == [1, 2];{'a': 1} == {'a': 1.0};'a' < 'b';'a' < 1;[1] < [1, 2];none < 1;u == none;u == u;u != 1;u < 1;u + 1;u ~ 'a';not u;not none;1 < 2 < 3;3 > 2 > 2
1 in u;1 in none;1 in 'a1';'1' in 'a1';'' in 'a';1 in {1: 2};'b' in d.keys();1 in d.values();('b', 1) in d.items();1 in 5
""".replace("\n", ";")
NUMBERS = """
7 // 2;-7 // 2;7 // -2;7 % 3;-7 % 3;7 % -3;7.5 // 2;-7.5 // 2;-7.5 % 2;7 / 2;6 / 2;1 / 0;1 // 0;1 % 0;2 ** 10;2 ** -1;2 ** 0.5;-2 ** 2;+3;-x;true + true;true * 3;'ab' * 2;2 * 'ab';'ab' * -1;[1] * 2;[1, 2] * 0;[1] + [2];(1,) + (2,)
[1] + (2,);'a' + 1;1 + 'a';none + 1;1.5 + 1;10 - 2.5;{'a': 1} + {'b': 2};'a' + 'b';2 ** 100;9007199254740993 * 1.0;3 - true;1 - 'a';-'a';-none;- true;2 * none;7 // 0.0;0.1 * 3;1e3 // 7;5 and 0;0 or 'x';'' or none;not 1;1 if 0 else 2
1 if 0;'a' if u else 'b';(1 if 0) is defined;3 | abs;-3 | abs;(-3) | abs;(-2.5) | abs;2.5 | round;3.5 | round;-2.5 | round;(-2.5) | round;2.675 | round(2);1234.5 | round(-2);2.4 | round(0, 'ceil');2.6 | round(0, 'floor');2.21 | round(1, 'ceil');7 | round;7 | round(1);2.5 | round | int
'12' | int;'12.7' | int;'a' | int;'a' | int(5);'0x1A' | int(base=16);'0b11' | int(0, 2);none | int;true | int;12.9 | int;-12.9 | int;' 7 ' | int;'1_000' | int;l | int;'1e3' | int;u | int;'1.5' | float;'a' | float;'a' | float(2.5);none | float;'1e3' | float;'inf' | float;'nan' | float;3 | float;true | float;1e400;'-inf' | float
l | sum;l | sum(start=10);p | sum(attribute='age');p | sum('age', 5);[] | sum;[1.5, 2] | sum;l | min;l | max;w | min;w | max;w | min(case_sensitive=true);[] | max;p | max(attribute='age');5 | string;1.0 | string;[1, 'a'] | string;d | string;none | string;true | string;u | string;5 | filesizeformat;1500 | filesizeformat;1500 | filesizeformat(true);1234567 | filesizeformat
100 | string | length;3.0 | int;3.7 // 1;i / 2 | int;(i / 2) | int;(i / 2) | round | int;1 + 2 ~ 3;1 ~ 2 + 3;divmod(7, 2);range(5) | list;range(5, 0, -2) | list;range(0) | list;range(2, 5)[1];range(5)[-1];range(5)[1:3];range(3) | length;range(1000000) | length;[1, 2, 3] | random in [1, 2, 3];1.0 == 1 and 1 is sameas 1
""".replace("\n", ";")
STRINGS = """
s.upper();s.lower();s.title();s.capitalize();s.swapcase();s.casefold();'ß'.upper();'İ'.lower();'they\\'re bill\\'s'.title();'a1b c-d_e'.title();'ǆ'.title();'ΑΣ'.lower();m.strip();m.split();m.split(none, 1);m.splitlines();m.splitlines(true);'a\\x1cb\\x85c\\u2028d'.splitlines();''.splitlines();'a\\n'.splitlines();'a\\n\\nb'.splitlines()
'a,b,,c'.split(',');'a,b,,c'.split(',', 1);'a,b,,c'.split(',', maxsplit=2);'a,b,,c'.split(sep=',');'a,b,,c'.rsplit(',', 1);'a,b,,c'.rsplit(',');' a  b '.rsplit(none, 1);' a  b '.rsplit();' a  b '.split(' ');''.split();''.split(',');'abc'.split('');'a-b'.rsplit('-', 1)[0];'a b c'.rsplit(maxsplit=1);'aXXbXXc'.split('XX');'aXXbXXc'.rsplit('XX', 1)
'abcabc'.find('c');'abcabc'.find('c', 3);'abcabc'.find('x');'abcabc'.rfind('c');'abcabc'.index('b');'abcabc'.index('x');'abcabc'.rindex('b');'äbc'.find('c');'abcabc'.find('b', -3);'abcabc'.rfind('b', 0, 3);'abcabc'.count('bc');'abcabc'.count('');'aaa'.count('aa');'abcabc'.count('a', 1);'abc'.find('');'abc'.find('', 9);'abcabc'.rindex('x')
'a-b-c'.partition('-');'a-b-c'.rpartition('-');'abc'.partition('-');'abc'.rpartition('-');'abc'.partition('');'abc'.removeprefix('a');'abc'.removeprefix('b');'abc'.removesuffix('bc');'abc'.removesuffix('');'7'.zfill(3);'-7'.zfill(4);'+7'.zfill(4);'abc'.zfill(2);''.zfill(2);'ab'.center(7);'ab'.center(6, '*');'abc'.center(6, '*');'ab'.ljust(5, '.') ~ '|';'ab'.rjust(5) ~ '|';'ab'.center(5, '**')
'a\\tb'.expandtabs();'a\\tbc\\td'.expandtabs(4);'a\\tb'.expandtabs(0);'a\\n\\tb'.expandtabs(3);'a\\tb'.expandtabs(tabsize=2);'xxaxx'.strip('x');'xyaxy'.strip('yx');'xxaxx'.lstrip('x');'xxaxx'.rstrip('x');' a '.strip(none);'\\x1ca\\x85'.strip() | length;'\\u200ba'.strip() | length;'abc'.strip('');'abc'.startswith('ab');'abc'.startswith(('x', 'a'));'abc'.startswith('b', 1);'abc'.endswith('c');'abc'.endswith(('x', 'bc'));'abc'.endswith('b', 0, 2);'abc'.startswith(1);'abc'.startswith(['a']);'abc'.startswith('')
'aaa'.replace('a', 'b');'aaa'.replace('a', 'b', 2);'abc'.replace('', '-');'abc'.replace('', '-', 2);'aaa'.replace('a', 1);'aaa'.replace('a', 'b', -1);'a'.join(['x', 'y']);','.join([1, 2]);','.join('abc');','.join({'k': 1, 'j': 2});''.join([]);','.join(w);'abc'.join(5);'a'.join(u)
'abc'.isalpha();'ab1'.isalpha();''.isalpha();'²'.isdigit();'²'.isdecimal();'²'.isnumeric();'½'.isnumeric();'½'.isdigit();'12'.isdigit();'१'.isdecimal();''.isdigit();'ab1'.isalnum();'a b'.isalnum();' \\t'.isspace();''.isspace();'\\x1c'.isspace();'abc'.islower();'a1'.islower();'1'.islower();'Ab'.islower();'AB'.isupper();'A1'.isupper();'1'.isupper();'A Title'.istitle();'A title'.istitle();''.istitle();'ab_1'.isidentifier();'1a'.isidentifier();'a b'.isidentifier();'abc'.isprintable();'a\\n'.isprintable();'é'.isascii();''.isascii();'五'.isnumeric();'五'.isdigit();'ªᵃ'.isalpha();'Ⅷ'.isnumeric()
'abc'[0];'abc'[-1];'abc'[5];'abc'[-5];'abc'[1:];'abc'[::-1];'abc'[:2];'äöü'[1];'abc'['x'];'abc'.nope;'abc'.nope();'abc' | first;'abc' | last;'abc' | length;'äöü😀' | length;'abc' | reverse;'abc' | list;'' | first;'abc' | sort;'abc'[1:2];'abc'[9:];'abc'[true]
'%s' % 'a';'%s-%s' % ('a', 1);'%d' % 7;'%d' % 7.9;'%5d|' % 7;'%-5d|' % 7;'%05d' % 7;'%+d' % 7;'% d' % 7;'%x' % 255;'%X' % 255;'%#x' % 255;'%o' % 8;'%.2f' % 3.14159;'%8.3f|' % 3.14159;'%e' % 12345.678;'%g' % 0.00001;'%g' % 1000000;'%g' % 100000.5;'%G' % 1e-10;'%r' % 'a';'%a' % 'é';'%%' % ();'%c' % 65;'%c' % 'x';'%(a)s %(b)d' % {'a': 'x', 'b': 2};'%s' % [1, 'a'];'%s' % none;'%s' % d;'%.2s' % 'abc';'%5s|' % 'ab';'%-5s|' % 'ab'
'%s' % ();'%s %s' % 'a';'%d' % 'a';'%s' % ('a', 'b');'a' % 1;'%q' % 1;'%*d' % (5, 7);'%.*f' % (2, 1.5);'%i' % 3;'%u' % 3;'%.3d' % 7;'%#o' % 8;'%e' % 0;'%.0f' % 2.5;'%.0e' % 15000;'%f' % 1;'%s' % true;'%d' % true;'%s' % 1.0;'%5.1f%%' % 99.55;'%x' % -255;'%x' % 1.5;'%' % 1;'%(a' % {'a': 1};'%F' % 1.5;'%#g' % 1.5;'%.3g' % 1234.5
'%s' | format('a');'%s-%d' | format('a', 3);'%(a)s' | format(a=1);'%s' | format;'{}' | format(1);'%s %s' | format('a')
'{} {}'.format(1, 'a');'{1} {0}'.format('a', 'b');'{a}'.format(a=1);'{a.b}'.format(a={'b': 1});'{a[b]}'.format(a={'b': 1});'{0[1]}'.format([1, 2]);'{:>5}|'.format('a');'{:<5}|'.format('a');'{:^5}|'.format('a');'{:*^7}'.format('ab');'{:05d}'.format(7);'{:+d}'.format(7);'{:,}'.format(1234567);'{:_}'.format(1234567);'{:.2f}'.format(3.14159);'{:.1%}'.format(0.256);'{:e}'.format(12345.678);'{:g}'.format(1e-5);'{:x}'.format(255);'{:#x}'.format(255);'{:b}'.format(5);'{:o}'.format(8);'{:08.3f}'.format(3.14159)
'{{}}'.format();'{}'.format(none);'{}'.format(true);'{}'.format([1, 'a']);'{}'.format(d);'{!r}'.format('a');'{!s:>4}'.format(1);'{!a}'.format('é');'{:d}'.format('a');'{}'.format();'{0} {}'.format(1, 2);'{'.format();'}'.format();'{:{}}'.format('a', 5) ~ '|';'{:.2}'.format('abc');'{:5}|'.format(7);'{:5}|'.format('a');'{:>5}|'.format(none);'{:,.2f}'.format(1234567.891);'{:.3g}'.format(1234.5);'{}'.format(1e16);'{:c}'.format(65);'{:n}'.format(1234);'{:d}'.format(true);'{:=+6}'.format(7);'{:s}'.format(1);'{a}'.format(b=1);'{:.0f}'.format(0.5);'{:#b}'.format(5);'{:010,}'.format(1234);'{: }'.format(5);'{:}'.format(1.0);'{:.1}'.format(0.25);'{:10.3}|'.format('abcdef');'{:%}'.format(0.5)
'a'.encode();'abc'.translate({97: 'b'});'a'.maketrans('a', 'b');'a'.__class__;''.__class__.__mro__;'a'.format_map({'a': 1});'{a}'.format_map({'a': 1});'a'.isdigit;'{0.__class__}'.format('a');'{a.__class__}'.format(a=1)
""".replace("\n", ";")
FILTERS = """
s | upper;s | lower;s | title;'ab-cd (ef) [gh] {ij} <kl>' | title;'fOO bAR' | title;s | capitalize;m | trim;'xxaxx' | trim('x');none | trim;5 | upper;none | upper;u | upper;u | trim;true | lower;d | upper;s | replace('ü', 'ue');'aaa' | replace('a', 'b', 2);'a1' | replace(1, 2);'aaa' | replace('a', 'b', count=1);5 | replace(5, 6);u | replace('a', 'b');none | replace('None', 'x')
u | length;none | length;5 | length;d | length;d | count;'abc' | count;u | count;l | first;l | last;[] | first;[] | last;u | first;d | first;d | last;u | last;none | first;l | sort;l | sort(reverse=true);w | sort;w | sort(case_sensitive=true);w | sort(false, true);p | sort(attribute='age') | map(attribute='name') | list;p | sort(attribute='age,name') | map(attribute='name') | list;p | sort(attribute='name', reverse=true) | map(attribute='name') | join(',');['a', 1] | sort;u | sort;none | sort;d | sort
w | unique | list;w | unique(case_sensitive=true) | list;[1, 1.0, true] | unique | list;p | unique(attribute='age') | map(attribute='name') | list;l | reverse | list;l | reverse;'ab' | reverse;none | reverse;l | join;l | join('-');l | join(d='-');[1, none, 'a', [2]] | join(',');p | join(', ', attribute='name');'abc' | join('-');u | join;none | join;d | join(',');[u, 1] | join('-');[] | join('-');w | list;'ab' | list;d | list;u | list;none | list;(1, 2) | list;5 | list;range(3) | list
d | dictsort;d | dictsort(true);d | dictsort(by='value');{'b': 2, 'a': 3} | dictsort(false, 'value');{'b': 2, 'a': 3} | dictsort(reverse=true);l | dictsort;d | items;d | items | list;u | items | list;none | items;e | items | list;schema.items;schema['items'];schema.items();schema.keys;schema['keys'];schema.values is none;schema.get('items');schema.get('nope');schema.get('nope', 5);schema.get('values', 5);schema.items is defined;schema.type
l | map('string') | list;l | map('abs') | list;w | map('upper') | list;p | map(attribute='name') | list;p | map(attribute='tag.k') | list;p | map(attribute='tag.k', default='-') | list;p | map(attribute='nope') | list;p | map(attribute='nope', default=none) | list;l | map('nope') | list;l | map('add', 1) | list;w | map('replace', 'a', 'z') | list;[[1, 2], [3]] | map('first') | list;[[1, 2], [3]] | map(attribute=0) | list;[[1, 2], [3]] | map(attribute='0') | list;u | map('upper') | list;l | map | list;none | map('upper') | list;l | map('string') | join('-');l | map('string');w | map('length') | sum;w | map('upper') is iterable
l | select | list;[0, 1, '', none, 'a'] | select | list;[0, 1, '', none, 'a'] | reject | list;l | select('odd') | list;l | reject('odd') | list;l | select('gt', 1) | list;l | select('>', 1) | list;l | select('in', [1, 2]) | list;p | selectattr('tag') | map(attribute='name') | list;p | selectattr('tag', 'defined') | map(attribute='name') | list;p | rejectattr('tag') | map(attribute='name') | list;p | selectattr('age', 'equalto', 31) | map(attribute='name') | list;p | selectattr('age', '==', 31) | list | length;p | rejectattr('age', 'eq', 31) | map(attribute='name') | list;p | selectattr('tag.k', 'equalto', 'z') | list | length;u | select | list;none | select | list;l | select('nope') | list;p | selectattr('tag') | list;l | select('odd');l | select('none') | list;p | selectattr('name', 'in', 'Ann bob') | map(attribute='age') | list
p | groupby('age') | list;p | groupby('age') | map(attribute='grouper') | list;p | groupby('age') | map('first') | list;p | groupby('age') | map(attribute='list') | map('length') | list;p | groupby('tag.k', default='-') | map('first') | list;l | batch(2) | list;l | batch(2, 'x') | list;l | slice(2) | list;l | slice(2, 'x') | list;l | batch(0) | list;[1, 2, 3, 4, 5] | slice(3) | list;[] | batch(2) | list
u | default('x');none | default('x');none | default('x', true);'' | default('x', true);'' | default('x', boolean=true);'' | d('x');u | default;0 | default(5, true);false | default('x');d.nope | default('x');d.nope.x | default('x');u | d(none);1 | default(default_value=3)
'a\\nb' | indent;'a\\nb' | indent(2);'a\\nb' | indent(2, true);'a\\n\\nb' | indent(2);'a\\n\\nb' | indent(2, false, true);'a\\nb' | indent('> ');'a\\nb' | indent(width=1, first=true);'a\\nb\\n' | indent(2);none | indent;'' | indent(2, true);'a\\nb' | indent(first=true, width='--');5 | indent;'a\\r\\nb' | indent(1)
'a b c d' | truncate(5);'abcdefgh' | truncate(5, true);'abcdefgh' | truncate(5, true, '');'abc def ghi' | truncate(9, false, '..', 0);'abcdef' | truncate(5);'abcdef' | truncate(3, leeway=0);'foo bar baz qux' | truncate(11, end='…', leeway=0);'a b c' | wordcount;'' | wordcount;'don\\'t stop' | wordcount;s | wordcount;'a b c d e f' | wordwrap(3);'abcdefgh' | wordwrap(3);'abcdefgh ij' | wordwrap(3, false);'a b\\n\\nc d e' | wordwrap(3);'aa bb cc' | wordwrap(5, wrapstring='|');'ab-cd ef' | wordwrap(4);'ab' | center(6) ~ '|';'ab' | center(5) ~ '|';'ab' | center ~ '|'
html | escape;html | e;html | safe;html | forceescape;html | striptags;'<p>a  <b>b</b>\\n c &amp; d</p>' | striptags;html | urlencode;'a b&c/d' | urlencode;{'a': 1, 'b c': 'x y'} | urlencode;[('a', 1)] | urlencode;'é' | urlencode;5 | urlencode;none | escape;5 | e;l | e;'<b>' | e | e;html | e | length;('<b>' | e) ~ '<i>';'<b>' | safe ~ '<i>';('<b>' | e).upper();'a' | e == 'a';{'class': 'a b', 'id': none, 'x': '<'} | xmlattr;'http://a.b c' | urlize;[1] | pprint;'a' | pprint
d | attr('a');d | attr('items');'a' | attr('upper');messages[0] | attr('role');p | first | attr('name');l | nope;l | first | nope;'a' | length | string | length;l | lines;l | chain;l | bool;l | zip(l);'a,b' | split(',');l | sum | string ~ 'x';s | string | upper | length;s|replace("\\n", "")|trim|length;1 | default(2) | string;l | random is in l;x | round | string
d | tojson;q | tojson;s | tojson(ensure_ascii=true);'😀' | tojson(ensure_ascii=true);d | tojson(indent=2);d | tojson(indent=0);d | tojson(indent='--');d | tojson(indent=1, separators=(',', ':'));d | tojson(separators=(',', ':'));d | tojson(sort_keys=true);d | tojson(ensure_ascii=false);d | tojson(true);d | tojson(false, 2);d | tojson(false, none, (';', '=')); d | tojson(separators=[',', ':']);d | tojson(separators=('a',));1.0 | tojson;1e-5 | tojson;1e16 | tojson;'nan' | float | tojson;'inf' | float | tojson;none | tojson;true | tojson;u | tojson;(1, 2) | tojson;{1: 2} | tojson;{none: 1, true: 2, 1.5: 3} | tojson;{(1, 2): 3} | tojson;[] | tojson(indent=2);[[], {}] | tojson(indent=2);html | tojson;d.items() | tojson;d.items() | list | tojson;range(3) | tojson;'\\x7f\\u2028\\x00' | tojson;12345678901234567890 | tojson;d | tojson(nope=1);d | tojson(indent=-1);d | tojson(indent=none);{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true, indent=1);{'a': 1, 2: 3} | tojson(sort_keys=true);l | map('string') | tojson;d | tojson | length;d | tojson(indent=true);d | tojson(skipkeys=true)
""".replace("\n", ";")
METHODS = """
d.get('b');d.get('z');d.get('z', 'y');d.get(key='b');d.keys() | list;d.values() | list;d.items() | list;d.items() | first;d.copy();d.pop('b');d.update({'z': 1});d.setdefault('z', 1);d.clear();d.popitem();d.fromkeys(['a']);dict(a=1);dict(a=1, **{'b': 2});dict({'a': 1}, b=2);dict([('a', 1)]);dict.fromkeys(['a', 'b'], 0);d.b;d['b'];d.nope;d['nope'];d.nope.x;d['a'][0];d.a.0;d.a[0];d.keys() | length;d.items() | length;d.values() | sort | length;d.keys()[0]
l.count(1);l.index(2);l.index(9);l.append(4);l.pop();l.insert(0, 1);l.extend([1]);l.remove(1);l.sort();l.reverse();l.clear();l.copy();l[0];l[-1];l[9];l[-9];l[1:];l[::-1];l['x'];l.0;l.nope;l.length;l[none];l[true];l[1.0];l[:-1];l[5:];l[0:3:2];(1, 2).count(1);(1, 2).index(2);(1, 2)[0];(1, 2)[1:];(3, 4)[::-1];(1, 2) + (3,);(1, 2) == (1, 2);((1, 2), 3);('a');('a',)[0];()|length;[(1, 2), (3, 4)] | map('last') | list
i.bit_length();x.is_integer();x.nope;n.x;n['x'];n.x();u.x;u['x'];u.x();u();n();s();l();d();i.x;t.x;nope_function();l.__class__;d.__class__;d['__class__'];''['__class__'];l.__len__();namespace(a=1).a;namespace(a=1)['a'];namespace({'a': 1}).a;namespace(_a=1).a;namespace(a=1);cycler('a', 'b').next();joiner(',')();lipsum();lipsum is defined;cycler is defined;joiner is defined;range is defined;dict is defined;debug is defined;self is defined;caller is defined;varargs is defined;loop.index;raise_exception('no');raise_exception();raise_exception(5);raise_exception(message='x');strftime_now is defined;range(3).index(1);range('a');range(1.5);range(1, 5, 0);range(-1) | list;range(100001) | length
"""
METHODS = METHODS.replace("\n", ";")

STATEMENTS = [
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for x in u %}a{% else %}b{% endfor %}", "{% for x in none %}a{% endfor %}",
    "{% for x in 5 %}a{% endfor %}", "{% for c in 'aé😀' %}{{ c }}-{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{{ loop.last }} {% endfor %}",
    "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}", "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }} {% endfor %}", "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}", "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{{ x }}{% endfor %}{{ x }}",
    "{% for x in d.items() | sort %}{{ x }}{% endfor %}", "{% for m in messages[::-1] %}{{ m.role }} {% endfor %}", "{% for m in messages recursive %}{{ m.role }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + 1 %}{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set ns = namespace() %}{{ ns.x is defined }}{{ ns.x }}", "{% set d.x = 1 %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set (a, b) = (1, 2) %}{{ b }}", "{% set x %}  a {{ 1 }}{% endset %}[{{ x }}]{{ x is string }}",
    "{% set x | upper %}ab{% endset %}{{ x }}", "{% if l %}a{% elif d %}b{% else %}c{% endif %}", "{% if none is none and not u %}a{% endif %}", "{% if '' %}a{% elif 0.0 %}b{% elif [] %}c{% elif {} %}d{% elif () %}e{% else %}f{% endif %}",
    "{% if ns is defined and ns.x %}a{% else %}b{% endif %}", "{% if tools is iterable and tools | length > 0 %}tools{% else %}no tools{% endif %}", "{% if messages[0]['content'] is string %}s{% endif %}",
    "{% macro f(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(c=2) }}",
    "{% macro f(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, c=3) }}", "{% macro f() %}{{ caller() }}!{% endmacro %}{% call f() %}x{% endcall %}", "{% macro f() %}{{ caller(1) }}!{% endmacro %}{% call(y) f() %}{{ y }}{% endcall %}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f.name }}", "{% macro f(a) -%} {{ a }} {%- endmacro %}[{{ f(1) | trim }}]{{ f(2) is string }}", "{% macro f(x, y=x) %}{{ y }}{% endmacro %}{{ f(1) }}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% raw %}{{ a }}{% endraw %}", "{# c #}a{#- c -#} b", "  {%- if true -%}  a  {%- endif -%}  b", "a\n{% if true %}\n  b\n{% endif %}\nc\n", "a\n  {%+ if true %}b{% endif %}\n", "{{ 'a' }}\n", "{{ 'a' }}\n\n",
    "{% if true +%}\na{% endif %}", "\t{% if true %}\t\n a{% endif %}", "{{- ' a ' -}} b", "a {{- 'b' }}", "{% generation %}a{{ i }}{% endgeneration %}b", "{%- generation -%}\n a {%- endgeneration -%}\n b", "{% generation %}{% set z = 1 %}{% endgeneration %}{{ z }}", "{% for m in messages %}{% generation %}{{ m.role }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block a %}x{% endblock %}{{ self.a() }}", "{% do l.append(1) %}", "{% autoescape true %}{{ html }}{% endautoescape %}", "{% nope %}", "{{ }}", "{{ 1", "{% if %}", "{% endif %}", "{% for x in l %}", "{{ 'a }}", "{% trans %}a{% endtrans %}", "{% debug %}",
    "{{ messages[0].content }}{{ messages[0]['role'] }}{{ messages | length }}{{ messages[-1].role }}", "{{ messages[0].tool_calls is defined }}{{ messages[0].name is defined }}", "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "{{ messages | map(attribute='role') | join(',') }}", "{{ messages }}", "{{ messages[0] | string }}",
    "{{ tools }}", "{{ tools is none }}{{ documents is none }}{{ documents is defined }}", "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ cls_token is defined }}", "{{ add_generation_prompt }}", "{{ continue_final_message is defined }}", "{% set messages = messages[1:] %}{{ messages | length }}", "{{ not tools }}{{ tools or 'x' }}", "{{ (messages[0].content or '').strip() }}",
    "{{ '\\n' }}{{ '\\x41\\u00e9\\101' }}{{ \"\\\"\" }}{{ '\\q' }}", "{{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1.5e3 }}", "{{ True }} {{ False }} {{ None }} {{ TRUE is defined }}", "{{ {'a': 1}.a }} {{ {'a': 1}['a'] }} {{ [1, 2][1] }} {{ 'ab'[1] }}", "{{ d.b if d.b is defined else 'x' }}", "{{ l[0] if l else none }}", "{{ [1, 2,] }} {{ {'a': 1,} }}", "{{ [*l] }}", "{{ {**d} }}", "{{ dict(**d).b }}", "{{ range(*[1, 3]) | list }}",
    "{{ 'a' 'b' ~ 'c' }}", "{{ 1 is 1 }}", "{{ l is sameas l }}", "{{ 'x' is not none and 'x' }}", "{{ not 'a' in 'abc' }}", "{{ 'a' not in 'abc' }}", "{{ 2 + 3 * 4 ** 2 / 8 - 1 }}", "{{ -1 ** 2 }} {{ (-1) ** 2 }} {{ 2 ** 3 ** 2 }}", "{{ 'a' | upper ~ 'b' }}", "{{ -1 | abs }}", "{{ 1 if true else 2 if false else 3 }}", "{{ x if false }}|", "{{ ('a', 'b') | join }}", "{{ 1, 2 }}", "{{ lambda }}", "{{ a.b.c }}", "{{ a }}{{ a | upper }}{{ a ~ 1 }}",
    "{{ p[0].name.upper()[0:2] ~ p[-1]['age'] }}", "{{ p | length }}{{ p[0] }}", "{{ d['C']['x'] }}{{ d.C.y }}", "{{ (1, 2)[0] }}{{ ((1)) }}", "{{ s.split(', ')[0].lower().replace('ü', 'u') }}", "{{ 'a' if 1 == 1 and 2 == 2 or 3 == 4 }}", "{%- set x = [] -%}{%- for i in l -%}{%- set x = x + [i] -%}{%- endfor -%}{{ x }}", "{{ l.append(1) }}", "{% set _ = l.append(1) %}", "{{ d.__init__ }}", "{{ loop }}",
    "{{ -l[0] }} {{ -p[0].age }} {{ 3 - -l[1] * 2 }} {{ [1, 2, 3][-l[1]] }} {{ -l[0] | abs }} {{ -(l[0] + 1) }} {{ - l | length }}", "{{ -p[0]['age'] + -l[-l[1]] }}", "{{ -x }} {{ l[:-l[1]] }} {{ [-i, -p[2].age] }}{% set z = -p[0].age %}{{ z }}{{ range(-l[0], -l[1]) | list }}",
    "{{ strftime_now('%Y') | length }}", "{{ messages[0].items() | list }}", "{% for key, value in messages[0].items() %}{{ key }}:{{ value }},{% endfor %}", "{{ [messages[0]] + messages | length }}", "{{ l | sort | first ~ l | max }}", "{% for key in schema %}{{ key }}={{ schema[key] }} {% endfor %}", "{% if schema.items %}y{% endif %}{% if schema['items'] %}z{% endif %}", "{% if d.items is defined %}y{% endif %}{% if d.nope %}z{% endif %}",
    "{% set x = {'a': 1} %}{{ x.a }}{{ x['a'] }}{{ x.get('a') }}{{ x }}", "{{ {'a': 1} | items | list }}", "{{ dict(d, z=1) | length }}", "{{ {'a': 1, 'a': 2} }}", "{{ 'a' in d }} {{ 'a' in ['a'] }} {{ [1] in [[1]] }}", "{% set k = 'b' %}{{ d[k] }}{{ d['C'][('x')] }}", "{{ l | join(',') | replace(',', ';') | upper | length }}",
    "{% for g, items in p | groupby('age') %}{{ g }}:{{ items | length }} {% endfor %}", "{% for row in l | batch(2) %}{{ row }}{% endfor %}", "{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for k, v in d | items %}{{ k }}{% endfor %}", "{{ [1, 2, 3] | select('divisibleby', 2) | list }}", "{{ ['a', 'b'] | map('upper') | join }}", "{{ [{'a': 1}, {'a': 2}] | map(attribute='a') | sum }}",
]
DATES = ("%Y %m %d %B %b %A %a %H %M %S|%y %I %p %-d %e %j %F|%c|%x|%X|%D %T %R %r|%h %n %t %%|%U %W %V %G %g %u %w|%C|%k %l %P|%s|%z|%Z|%f|%-m %-H %-I %-M %-S %-j %-y|%_d %_m %_H|%^a %^B %#p %#Z %#a"
         "|%05d %3m %10Y|%q|%|a%|%E|%Ey %Od %EY|%i %J %L %N %v %!|%:z|Grüße %d|%-|%010d|%+|%5%").split("|")
TIMES = [(2024, 2, 29, 12, 34, 56, 789), (2026, 1, 1, 0, 0, 5, 0), (2026, 11, 8, 23, 5, 9, 120000), (2020, 12, 31, 13, 0, 0, 999999)]
MESSAGES = [{"role": "system", "content": " Be kind. "}, {"role": "user", "content": "Hi", "name": "Ann"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}]


def render(source):
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[MESSAGES], chat_template=source, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", **VALUES)
        return texts[0]
    except Exception as error:
        return None


def main():
    sources = ["{{ " + e.strip() + " }}" for e in PRINTED.split("|") if e.strip()]
    sources += ["{{ " + e.strip() + " }}" for part in (TESTS, NUMBERS, STRINGS, FILTERS, METHODS) for e in part.split(";") if e.strip()]
    sources = list(dict.fromkeys(sources + STATEMENTS))
    # What differs from one run to the next, or names an address in memory.
    left_out = lambda text: text is not None and " at 0x" in text
    rows = [[source, text] for source in sources for text in [render(source)] if not left_out(text) and "lipsum()" not in source]
    dates = []
    for time in TIMES:
        now = datetime.datetime(*time)
        dates += [[list(time), form, now.strftime(form)] for form in DATES if form != "%s"]
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "jinja")
    line = lambda row: json.dumps(row, ensure_ascii=True)
    with open(os.path.join(here, "expressions.json"), "w") as out:
        out.write('{"messages": %s,\n"values": %s,\n"rows": [\n%s\n],\n"dates": [\n%s\n]}\n' % (
            line(MESSAGES), line(VALUES), ",\n".join(map(line, rows)), ",\n".join(map(line, dates))))
    print(len(rows), "templates,", sum(text is None for _, text in rows), "refused;", len(dates), "dates")


main()
