#!/usr/bin/env python3
"""Writes tests/data/jinja/cases.json: templates and variables, and what Python's jinja2 makes of them.

Needs jinja2 (PyPI). The environment is the one that Hugging Face transformers renders chat templates with.
With --model FILE.gguf (repeatable; needs the gguf package) the template of that file is rendered too.

With --upper-table it writes model/jinja/upper_table.h instead: characters whose upper case is more than one character.

    python3 tools/make_jinja_fixture.py --model smollm2.gguf > tests/data/jinja/cases.json
"""
import argparse
import json
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  2+2?\n"},
     {"role": "assistant", "content": "4"}, {"role": "user", "content": "And <|im_end|> <end_of_turn> 3+3?"}],
    [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b\n"}]}],
    [{"role": "user", "content": "é漢😀 \u2003x"}, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}],
    [{"role": "assistant", "content": "first"}],
    [{"role": "system", "content": [{"type": "text", "text": "S"}]}, {"role": "user", "content": "x"}],
    [{"role": "user", "content": None}],
    [],
]

DATA = {
    "s": "Hello World", "u": "straße ÉCOLE ΟΔΟΣ ǆ", "w": "  a b\tc \n", "n": 7, "f": 2.5, "z": 0, "none": None,
    "t": True, "l": [3, 1, 2], "e": [], "words": ["b", "A", "c"], "d": {"k": "v", "a": 1, "items": "own"},
    "nested": {"x": {"y": [1, {"z": "deep"}]}}, "ms": [{"r": "u", "c": "1"}, {"r": "a", "c": "2"}, {"r": "u"}],
    "q": "it's \"q\" \\ \n\t\x01é\u200b", "multi": "l1\n  l2\n\nl4", "big": 12345678901234, "neg": -7,
    "tool": {"name": "f", "parameters": {"type": "object", "properties": {"p": {"type": "string"}}, "required": ["p"]}},
}

SNIPPETS = r'''
{{ s }}|{{ n }}|{{ f }}|{{ none }}|{{ t }}|{{ l }}|{{ d }}|{{ missing }}
===
{% if t %}yes{% else %}no{% endif %}{% if z %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if missing %}x{% endif %}
===
a
  {% if t %}
  b
  {% endif %}
c
===
a   {%- if t -%}   b   {%- endif -%}   c
===
  {%+ if t +%}
 x {% endif %}
===
{# comment #}a{#- c -#} b {# x
y #}
c
===
x
{# comment line #}
  {# second #}
y
===
{% raw %}{{ not }} {% if %}{% endraw %}!
===
{%- raw -%}  keep {{ x }}  {%- endraw -%}  end
===
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}:{{ x }};{% endfor %}
===
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.cycle('a', 'b') }} {{ loop.depth }}{% endfor %}
===
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}={{ x }} {% else %}none{% endfor %}{% for x in e %}x{% else %}empty{% endfor %}
===
{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in s[:3] %}({{ c }}){% endfor %}
===
{% for x in range(10) %}{% if x == 3 %}{% continue %}{% endif %}{% if x > 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
===
{% for a in l %}{% for b in l %}{{ loop.index }}{{ a * b }} {% endfor %}{{ loop.index }}|{% endfor %}
===
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}
===
{% for i in [1, 2] %}{% if i == 1 %}{% set seen = i %}{% endif %}[{{ seen }}]{% endfor %}
===
{% set ns = namespace(n=0, found=false) %}{% for i in l %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ ns.found }}{{ ns.zzz }}
===
{% set a, b = 1, 'x' %}{{ a }}{{ b }}{% set c = (1, 2) %}{{ c }}{% set (p, q) = c %}{{ p + q }}
===
{% set body %}
 text {{ n }}
{% endset %}[{{ body }}]{% set up | upper | trim %}  abc {% endset %}[{{ up }}]
===
{% macro m(a, b=2, c='z') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(a=5, c='q') }}{{ m() }}
===
{% set g = 1 %}{% macro m(x) %}{{ g }}{{ x }}{% set g = 9 %}{{ g }}{% endmacro %}{% set g = 2 %}{{ m('a') }}{{ g }}
===
{% macro down(n) %}{{ n }}{% if n > 0 %},{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(4) }}
===
{% macro walk(v) %}{% if v is mapping %}{ {% for k, x in v.items() %}{{ k }}:{{ walk(x) }} {% endfor %}}{% elif v is string %}'{{ v }}'{% elif v is iterable %}[{% for x in v %}{{ walk(x) }}{% endfor %}]{% else %}{{ v }}{% endif %}{% endmacro %}{{ walk(nested) }}{{ walk(tool) }}
===
{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b') | upper %}aaa{% endfilter %}
===
{% with x = 1, y = n %}{{ x }}{{ y }}{% set x = 5 %}{{ x }}{% endwith %}{{ x }}
===
{% generation %}gen {{ s }}{% endgeneration %}
===
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
===
{{ 1 / 3 }} {{ 1e100 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 0.0001 }} {{ 5.0 }} {{ 1.5e3 }} {{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ -0.0 }}
===
{{ 'a' ~ 1 ~ none ~ 2.5 ~ true ~ missing }}{{ 'x' + 'y' * 3 }}{{ [1] + [2] }}{{ [0] * 3 }}{{ (1,) }}{{ () }}
===
{{ 1 < 2 < 3 }}{{ 1 < 2 > 5 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}{{ 1 == 1.0 }}{{ '1' == 1 }}{{ true == 1 }}{{ none == none }}{{ missing == missing }}{{ l != [3, 1, 2] }}
===
{{ 3 in l }}{{ 9 not in l }}{{ 'ell' in s }}{{ 'k' in d }}{{ 'x' in missing }}{{ not t }}{{ not t or n }}{{ z and 1 }}{{ e or 'empty' }}{{ t and s }}
===
{{ 'yes' if t else 'no' }}{{ 'yes' if z }}{{ 1 if z else 2 if z else 3 }}{{ ('a' if t else 'b') ~ 'c' }}
===
{{ s[0] }}{{ s[-1] }}{{ s[1:4] }}{{ s[:-3] }}{{ s[::-1] }}{{ s[::2] }}{{ s[-3:] }}{{ s[100:] }}{{ s[5:2] }}{{ u[4:8] }}{{ s[8:2:-2] }}{{ s[99] }}
===
{{ l[0] }}{{ l[-1] }}{{ l[1:] }}{{ l[::-1] }}{{ l[:0] }}{{ l[10] }}{{ (1, 2, 3)[1:] }}{{ l.0 }}{{ range(5)[2] }}{{ range(9)[::3] | list }}
===
{{ d.k }}{{ d['k'] }}{{ d['items'] }}{{ d.get('k') }}{{ d.get('q') }}{{ d.get('q', 'def') }}{{ d.missing }}{{ nested.x.y[1].z }}{{ nested['x']['y'][0] }}
===
{{ d.items is defined }}{{ d.nope is defined }}{{ s.upper is defined }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.items() | list }}
===
{{ missing is defined }}{{ n is defined }}{{ missing is undefined }}{{ none is none }}{{ s is string }}{{ n is string }}{{ d is mapping }}{{ l is mapping }}
===
{{ l is iterable }}{{ s is iterable }}{{ n is iterable }}{{ missing is iterable }}{{ l is sequence }}{{ d is sequence }}{{ n is sequence }}{{ t is boolean }}{{ n is boolean }}{{ t is true }}{{ z is false }}
===
{{ n is number }}{{ t is number }}{{ f is float }}{{ n is integer }}{{ t is integer }}{{ n is odd }}{{ n is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ n is eq 7 }}{{ n is ne(7) }}{{ n is gt 3 }}{{ n is lessthan 3 }}{{ n is in l }}{{ n is not none }}{{ n is sameas n }}
===
{{ s is upper }}{{ 'ABC' is upper }}{{ 'abc1' is lower }}{{ '1' is lower }}{{ s is not defined }}{{ range is callable }}{{ s is callable }}
===
{{ s | upper }}{{ s | lower }}{{ u | upper }}{{ u | lower }}{{ u | title }}{{ u | capitalize }}{{ 'ŉ ﬁne ΐ' | upper }}{{ 'foo-bar (baz) [q]x <y' | title }}
===
[{{ w | trim }}][{{ 'xxaxx' | trim('x') }}][{{ 5 | trim }}][{{ missing | trim }}]{{ s | length }}{{ u | length }}{{ l | count }}{{ d | length }}{{ missing | length }}
===
{{ missing | default('d') }}{{ missing | default }}{{ '' | default('d') }}{{ '' | default('d', true) }}{{ none | default('x') }}{{ missing | d('q') }}{{ none | default('x', boolean=true) }}
===
{{ l | join(', ') }}{{ l | join }}{{ words | join('-') }}{{ ms | join('|', attribute='r') }}{{ s | join('.') }}{{ l | first }}{{ l | last }}{{ s | first }}{{ s | last }}{{ e | first }}{{ d | first }}
===
{{ l | sort }}{{ words | sort }}{{ words | sort(case_sensitive=true) }}{{ l | sort(reverse=true) }}{{ ms | sort(attribute='r') | map(attribute='c') | list }}{{ d | dictsort }}{{ {'b': 1, 'a': 2} | dictsort(by='value') }}{{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
===
{{ l | reverse | list }}{{ s | reverse }}{{ l | list }}{{ s | list }}{{ l | sum }}{{ l | min }}{{ l | max }}{{ words | min }}{{ [1, 2, 1, 'a', 'A'] | unique | list }}{{ e | max }}
===
{{ ms | selectattr('r', 'equalto', 'u') | list | length }}{{ ms | selectattr('c', 'defined') | map(attribute='c') | join(',') }}{{ ms | rejectattr('r', '==', 'u') | list }}{{ l | select('odd') | list }}{{ l | reject('>', 1) | list }}{{ [0, 1, ''] | select | list }}{{ ms | selectattr('c') | list | length }}
===
{{ words | map('upper') | list }}{{ ms | map(attribute='c', default='?') | list }}{{ ['a b', 'c'] | map('replace', ' ', '_') | join(' ') }}{{ [[1, 2], [3]] | map('length') | list }}{{ [[1, 2], [3]] | map('first') | list }}{{ ms | map(attribute='r') | unique | list }}
===
{{ s | replace('l', 'L') }}{{ s | replace('l', 'L', 1) }}{{ s | replace('', '-') }}{{ s.replace('o', '0', 1) }}{{ 123 | replace('2', 'x') }}{{ s | string }}{{ n | string }}{{ [1, 'a'] | string }}
===
{{ '42' | int }}{{ 'x' | int }}{{ 'x' | int(5) }}{{ '3.7' | int }}{{ 3.9 | int }}{{ '2.5' | float }}{{ 'q' | float }}{{ neg | abs }}{{ 2.5 | round }}{{ 3.14159 | round(2) }}{{ 2.1 | round(0, 'ceil') }}{{ 2.9 | round(method='floor') }}{{ 7 | round }}{{ -3.5 | abs }}
===
{{ multi | indent }}|{{ multi | indent(2, true) }}|{{ multi | indent(2, blank=true) }}|{{ multi | indent('> ') }}|{{ 'a\n' | indent }}
===
{{ d | tojson }}{{ q | tojson }}{{ q | tojson(ensure_ascii=true) }}{{ l | tojson }}{{ none | tojson }}{{ t | tojson }}{{ f | tojson }}{{ [] | tojson }}{{ {} | tojson }}{{ '😀</script>' | tojson(ensure_ascii=true) }}
===
{{ tool | tojson(indent=2) }}{{ tool | tojson(indent=4, sort_keys=true) }}{{ tool | tojson(separators=(',', ':')) }}{{ {1: 'a', none: 2, true: 3} | tojson }}{{ [1, [2, []], {}] | tojson(indent=1) }}{{ (1, 2) | tojson }}
===
{{ tool | tojson | safe }}{{ s | safe }}
===
{{ q }}{{ [q] }}{{ ['it\'s', "d\"q", 'b"o\'th'] }}{{ {'a': none, 1: [true]} }}{{ ['\u200b\x7fé'] }}
===
{{ 'a\nb\t\'\"\\ \x41 \u00e9 \U0001F600 \101 \q' }}{{ "dq 'x'" 'joined' }}
===
[{{ w.strip() }}][{{ w.lstrip() }}][{{ w.rstrip() }}][{{ 'xyax'.strip('xy') }}]{{ s.split() }}{{ s.split('o') }}{{ 'a,b,,c'.split(',', 1) }}{{ ' a  b '.split(' ') }}{{ 'a b c'.rsplit(' ', 1) }}{{ ' a b c '.split(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}
===
{{ s.startswith('He') }}{{ s.endswith('x') }}{{ s.startswith(('a', 'H')) }}{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ s.capitalize() }}{{ s.find('o') }}{{ s.rfind('o') }}{{ s.find('q') }}{{ s.count('l') }}{{ s.index('W') }}{{ u.find('C') }}
===
{{ '123'.isdigit() }}{{ 'a1'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ ''.isspace() }}{{ 'AB'.isupper() }}{{ 'ab'.islower() }}{{ 'a\nb\r\nc'.splitlines() }}{{ 'a\nb\n'.splitlines(true) }}{{ '-'.join(words) }}{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}
===
{{ range(3) | list }}{{ range(1, 4) | list }}{{ range(5, 0, -2) | list }}{{ range(0) | list }}{{ dict(a=1, b=2) }}{{ {'x': [1, 2]}['x'][1] }}{{ [1, 2, 3,] }}{{ {'a': 1,} }}
===
{% set items = ms | map(attribute='r') %}{{ items | join }}{{ items | join }}|{% set it = l | select %}{{ it | first }}{{ it | list }}
===
{{ -5 | abs }}{{ (-5) | abs }}{{ s | upper | lower | title }}{{ (s ~ '!') | length }}{{ s.upper().lower() }}{{ 'a' 'b' }}{{ l | length + 1 }}{{ not l | length == 3 }}
===
{{ {'a': {'b': 1}}.a.b }}{{ [[1, 2], [3, 4]][1][0] }}{{ {'}}': 1} | length }}{{ '%}' }}{{ "{{" }}{{ {} }}{{ {'a': {}} }}
===
{%- for m in ms %}
    {%- if loop.first %}
        {{- 'F' }}
    {%- endif %}
    {{- m.r ~ ':' ~ (m.c | default('?')) + '\n' }}
{%- endfor %}
===
{% if s is string and s | length > 3 and not s.startswith('x') or false %}ok{% endif %}{% if l is not mapping and l is iterable %}ok2{% endif %}{% if (n, 1) == (7, 1) %}ok3{% endif %}{% if none is not none %}bad{% endif %}
===
line1
{% set x = 5 %}
line2 {% set y = 6 %}
line3 {{ x }}{{ y }}

{% if x %}

block

{% endif %}

end

===
{{ raise_exception('no: ' ~ n) }}
===
{{ missing.attr }}
===
{{ 'a' + 1 }}
===
{{ 1 < 'a' }}
===
{% for x in n %}{% endfor %}
===
{{ l | join(',', attribute='q.r') }}
===
{{ none.split() }}
===
{% set q = 'x' %}{% set q.y = 1 %}
===
{{ missing() }}
===
{{ missing + 1 }}
===
{{ 5 | length }}
===
{% set a, b = [1, 2, 3] %}
===
{{ 1 // 0 }}
===
{{ [missing] | tojson }}
===
{{ s | first }}{{ missing | first }}{{ missing | list }}{{ missing | join }}{{ missing | upper }}{{ missing | map('upper') | list }}{% for x in missing %}x{% endfor %}{{ missing ~ 'a' }}{{ missing | string }}
===
{{ '  x' | trim ~ '|' ~ ' y ' | trim }}{{ 'abc'[1] ~ 'abc'[:1] }}{{ ('a' ~ 'b') * 2 }}{{ 'a' if 'a' in 'abc' and 'd' not in 'abc' }}
'''

GEMMA = r'''{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
'''


def render(template, variables):
    try:
        return {"text": environment().from_string(template).render(**variables)}
    except Exception as e:  # which error matters less than that there is one
        return {"error": f"{type(e).__name__}: {e}"}


def chat_cases(name, template):
    cases = []
    for messages in CHATS:
        for generation in (True, False):
            given = {"messages": messages, "add_generation_prompt": generation, "bos_token": "<bos>", "eos_token": "<eos>"}
            cases.append({"messages": messages, "add_generation_prompt": generation, **render(template, given)})
    return {"name": name, "template": template, "cases": cases}


UPPER_HEAD = """// Characters whose upper case is more than one character (Unicode's SpecialCasing), made by tools/make_jinja_fixture.py.
#pragma once

#include <cstdint>

namespace lanyard::model::jinja {

struct SpecialUpper {
  char32_t from;
  const char* upper;
  const char* title;
};

inline constexpr SpecialUpper kSpecialUpper[] = {"""


def upper_table():
    def literal(s):
        return '"' + "".join("\\u%04X" % ord(c) if ord(c) > 0x9F else c for c in s) + '"'

    rows = []
    for c in map(chr, (i for i in range(0x110000) if not 0xD800 <= i < 0xE000)):
        if len(c.upper()) > 1 or len(c.title()) > 1:
            rows.append("{0x%X, %s, %s}" % (ord(c), literal(c.upper()), literal(c.title())))
    print(UPPER_HEAD)
    for i in range(0, len(rows), 2):
        print("    " + ", ".join(rows[i:i + 2]) + ",")
    print("};\n\n}  // namespace lanyard::model::jinja")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--upper-table", action="store_true")
    options = parser.parse_args()
    if options.upper_table:
        upper_table()
        return
    out = {"made_by": f"jinja2 {jinja2.__version__}, tools/make_jinja_fixture.py", "data": DATA, "snippets": [], "chats": []}
    for snippet in SNIPPETS[1:-1].split("\n===\n"):
        out["snippets"].append({"template": snippet, **render(snippet, DATA)})
    out["chats"].append(chat_cases("gemma3", GEMMA))
    for path in options.model:
        from gguf import GGUFReader
        template = GGUFReader(path).fields["tokenizer.chat_template"].contents()
        out["chats"].append(chat_cases(path.rsplit("/", 1)[-1], template))
    json.dump(out, sys.stdout, ensure_ascii=True, indent=0)
    print()


if __name__ == "__main__":
    main()
