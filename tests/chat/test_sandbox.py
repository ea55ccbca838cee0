"""Attacks on the sandbox. None of them may reach Python, last long or use much memory: each would hang if it worked."""

import pytest

from handler.chat import budget
from handler.chat.budget import MAX_STEPS
from handler.chat.sandbox import MAX_OUTPUT_CHARS, MAX_SOURCE_CHARS, Program, RefusalError

LOOP = "{%% for i in range(100000) %%}%s{%% endfor %%}"


def run(source: str, **variables: object) -> str:
    return Program(source).run({"messages": [{"role": "user", "content": "hello"}], **variables})


def grown(start: str, step: str, end: str = "") -> str:
    """A value that a loop builds on itself, 60 times."""
    return f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{step}{{% endfor %}}{end}"


def doubled(step: str) -> str:
    return grown("'0123456789abcdef'", f"{{% set ns.x = {step} %}}")


def nested(end: str) -> str:
    """A list of 60 levels that share their parts: 61 objects, 2 ** 60 paths."""
    return grown("[1]", "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}", end)


def tuples(end: str) -> str:
    return grown("(1,)", "{% set ns.x = (ns.x, ns.x) %}", end)


LONG = {
    "loops": LOOP % (LOOP % ""),
    "loops that drop every item": LOOP % "{% for j in range(100000) if j < 0 %}{% endfor %}",
    "loops that leave early": LOOP % (LOOP % "{% continue %}"),
    "a tree of loops": "{% for i in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
    "a tree of macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a tree of callers": "{% macro m() %}{% for i in range(9) %}{{ caller() }}{% endfor %}{% endmacro %}"
    + "{% call m() %}" * 9
    + "{% endcall %}" * 9,
    "lazy filters": LOOP % ("{% set x = range(100000)" + "|rejectattr('x')" * 9 + "|list %}"),
    "lazy filters searched": LOOP % "{% set x = 'x' in range(100000)|map('string') %}",
    "loop.length": LOOP % "{% for i in range(100000)|map('string') %}{{ loop.length }}{% endfor %}",
    "the meter itself": "{{ -1000000000|_steps }}{{ [-1000000000]|map('_steps')|list }}" + LOOP % (LOOP % ""),
    "text in a macro": "{% macro m() %}" + LOOP % ("x" * 50_000) + "{% endmacro %}{% set x = m() %}",
    "'a' * n": "{{ 'a' * 10 ** 9 }}",
    "n * 'a'": "{{ 10 ** 9 * 'a' }}",
    "a list * n": "{{ ([1] * 10 ** 9)|length }}",
    "doubling by +": doubled("ns.x + ns.x"),
    "doubling by ~": doubled("ns.x ~ ns.x"),
    "doubling by a block": grown("'0123456789abcdef'", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "doubling by join": doubled("[ns.x, ns.x]|join"),
    "doubling by a separator": doubled("ns.x.join(ns.x)"),
    "doubling by format": doubled("'{0}{0}'.format(ns.x)"),
    "doubling by replace": doubled("ns.x.replace('a', ns.x + ns.x)"),
    "doubling by the filter": doubled("ns.x|replace(old='a', new=ns.x + ns.x)"),
    "doubling a list": grown("[1]", "{% set ns.x = ns.x + ns.x %}"),
    "printing a shared list": nested("{{ ns.x }}"),
    "concatenating a shared list": nested("{% set y = '' ~ ns.x %}"),
    "a shared list as JSON": nested("{{ ns.x|tojson }}"),
    "comparing shared lists": nested("{{ ns.x == [ns.x, 1] }}"),
    "finding a shared list": nested("{{ ns.x in [ns.x] }}"),
    "a shared list in a test": nested("{{ ns.x is eq(ns.x) }}"),
    "the index of a shared list": nested("{{ [ns.x].index(ns.x) }}"),
    "a change of shared lists": nested("{% for i in [1] %}{{ loop.changed(ns.x) }}{% endfor %}"),
    "a shared tuple as key": tuples("{{ {ns.x: 1} }}"),
    "a shared tuple looked up": tuples("{{ {}.get(ns.x) }}"),
    "a shared tuple in a dict": tuples("{{ dict([[ns.x, 1]]) }}"),
    "unique shared tuples": tuples("{{ [ns.x]|unique|list|length }}"),
    "a wide indent": "{{ 'a\\na'|indent(1000000000) }}",
    "a long indent": "{{ ('a\\n' * 100000)|indent('x' * 100000) }}",
    "many stripped characters": "{{ ('a' * 1000000).strip('b' * 1000000 + 'a') }}",
    "many pieces": "{{ ('a' * 80000000).split('a')|length }}",
    "many words": "{{ ('a ' * 40000000).split()|length }}",
    "many characters": "{{ ('a' * 80000000)|list|length }}",
    "many sort keys": "{{ range(100000)|sort(attribute='" + "a," * 1000 + "a') }}",
    "many sorts": "{% set x = range(100000)|list %}" + LOOP % "{% set y = x|sort %}",
    "many slices": "{% set x = range(100000)|list %}" + LOOP % "{% set y = x[:] %}",
    "many searches": "{% set x = 'a' * 1000000 %}" + LOOP % "{% set y = 'ab' in x %}",
    "many titles": "{% set x = 'a b ' * 100000 %}" + LOOP % "{% set y = x|title %}",
    "a long number divided": "{{ ('f' * 1000000)|int(base=16) is divisibleby(('f' * 500000)|int(base=16)) }}",
}


@pytest.mark.parametrize("source", LONG.values(), ids=LONG)
def test_what_takes_long_or_grows_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to work or to allocate without end runs out of steps. A tenth of them, so that the tests are quick."""
    monkeypatch.setattr(budget, "MAX_STEPS", MAX_STEPS // 10)

    with pytest.raises(Exception, match=f"more than {MAX_STEPS // 10} steps"):
        run(source)


REFUSED = {
    "a format operator": ("{{ '%1000000000d' % 1 }}", "does not format"),
    "a format operator in a test": ("{{ '%1000000000d' is odd }}", "neither odd"),
    "a format operator in another": ("{{ '%1000000000d' is divisibleby(3) }}", "neither odd"),
    "str.format": ("{{ '{0.__class__}'.format(1) }}", "more than plain fields"),
    "str.format with a width": ("{{ '{:1000000000}'.format(1) }}", "more than plain fields"),
    "str.format_map": ("{{ '{a:1000000000}'.format_map({}) }}", "'format_map' of 'str' object is unsafe"),
    "str.ljust": ("{{ 'a'.ljust(1000000000) }}", "unsafe"),
    "str.zfill": ("{{ 'a'.zfill(1000000000) }}", "unsafe"),
    "a great power": ("{{ 2 ** 1000000000 }}", "too large a number"),
    "long factors": ("{% set x = ('f' * 100000)|int(base=16) %}{{ x * x }}", "too large a number"),
    "a wide JSON": ("{{ [1]|tojson(indent=1000000000) }}", "spreads JSON"),
    "a separated JSON": ("{{ [1]|tojson(separators=('x' * 1000, ':')) }}", "spreads JSON"),
    "a long date": ("{{ strftime_now('%010000d' * 100) }}", "at great length"),
    "a long range": ("{{ range(1000000000) }}", "Range too big"),
    "a tuple's item": ("{{ {}[(1, 2)] }}", "looks up a tuple"),
    "the class of a text": ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
    "the class by its item": ("{{ ''['__class__'].mro() }}", "unsafe"),
    "the class by a filter": ("{{ ['']|map(attribute='__class__')|map(attribute='mro')|list }}", "unsafe"),
    "the globals of a function": ("{{ raise_exception.__globals__.x }}", "unsafe"),
    "the globals of a class": ("{{ joiner.__init__.__globals__ }}", "unsafe"),
    "the globals of a macro": ("{% macro m() %}{% endmacro %}{{ m._invoke.__globals__ }}", "unsafe"),
    "the globals of a namespace": ("{{ namespace()['_Namespace__attrs'].x }}", "unsafe"),
    "the environment of a loop": ("{% for i in [1] %}{{ loop._undefined.x }}{% endfor %}", "unsafe"),
    "the template": ("{{ self._TemplateReference__context.x }}", "unsafe"),
    "a class method": ("{{ dict.fromkeys([1]) }}", "unsafe"),
    "appending": ("{{ messages.append(1) }}", "unsafe"),
    "updating": ("{{ messages[0].update({'role': 'system'}) }}", "unsafe"),
    "lipsum": ("{{ lipsum(100000) }}", "'lipsum' is undefined"),
    "cycler": ("{{ cycler(1) }}", "'cycler' is undefined"),
}


@pytest.mark.parametrize(("source", "words"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_price_is_not_there(source: str, words: str) -> None:
    """Padding, formatting, Python's attributes and everything that changes a value."""
    with pytest.raises(Exception, match=words):
        run(source)


@pytest.mark.parametrize(
    "name",
    ["attr", "batch", "center", "format", "groupby", "pprint", "random", "slice", "truncate", "urlize", "xmlattr"],
)
def test_unlisted_filters_do_not_compile(name: str) -> None:
    """Who uses one learns it at start."""
    with pytest.raises(Exception, match=f"No filter named '{name}'"):
        Program(f"{{{{ messages|{name} }}}}")


@pytest.mark.parametrize(
    "source",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}" + LOOP % "{% set ns.x = [ns.x] %}" + "{{ ns.x }}",
        "{% set ns = namespace(x=(1,)) %}" + LOOP % "{% set ns.x = (ns.x,) %}" + "{{ {ns.x: 1} }}",
    ],
    ids=["macros", "loops", "lists", "tuples"],
)
def test_what_nests_without_end_is_stopped(source: str) -> None:
    """By an exception, not by the end of the C stack."""
    with pytest.raises(RecursionError):
        run(source)


HALF = MAX_SOURCE_CHARS // 2
SOURCES = {
    "parentheses": "{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}",
    "lists": "{{ " + "[" * 40_000 + "1" + "]" * 40_000 + " }}",
    "a sum": "{{ 1" + "+1" * 40_000 + " }}",
    "attributes": "{{ a" + ".a" * 40_000 + " }}",
    "filters": "{{ a" + "|e" * 40_000 + " }}",
    "branches": "{% if 1 %}" * 4_000 + "{% endif %}" * 4_000,
    "loops": "{% for a in b %}" * 3_000 + "{% endfor %}" * 3_000,
    "conditions": "{{ " + "1 if 1 else " * 8_000 + "1 }}",
    "open blocks": "{%" * HALF,
    "open comments": "{#" * HALF,
    "escapes": "{{ " + "'\\" * 45_000,
    "a long number": "{{ " + "1" * 90_000 + " }}",
    "too much": "x" * (MAX_SOURCE_CHARS + 1),
    "a block": "{% block a %}{% endblock %}",
    "an include": "{% include 'a' %}",
    "an import": "{% import 'a' as b %}",
    "a parent": "{% extends 'a' %}",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_sources_that_break_compilers_raise(source: str) -> None:
    """Deep or strange, they are errors and nothing worse."""
    with pytest.raises(Exception, match=r"."):
        Program(source)


def test_a_long_output_is_stopped() -> None:
    """Before it is all there, even where its parts cost little."""
    with pytest.raises(Exception, match=f"longer than {MAX_OUTPUT_CHARS}"):
        run(LOOP % ("x" * 50_000))


def test_a_namespace_does_not_show_what_it_holds() -> None:
    """It may hold itself."""
    assert run("{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{{ ns.x }}") == "[<Namespace>, <Namespace>]"


def test_a_refusal_is_told_from_a_failure() -> None:
    """`raise_exception` is what a template says on purpose."""
    with pytest.raises(RefusalError, match="no"):
        run("{{ raise_exception('no') }}")


def test_runs_leave_no_trace() -> None:
    """Each has its own variables and its own budget."""
    program = Program("{% set ns = namespace(n=0) %}" + LOOP % "{% set ns.n = ns.n + 1 %}" + "{{ ns.n }}")

    assert [program.run({}) for _ in range(3)] == ["100000"] * 3


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("{{ {'b': '<ü>', 'a': 1}|tojson }}", '{"b": "<ü>", "a": 1}'),
        ("{{ {'a': [1]}|tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
        (
            "{{ 'a\nb'|indent(2) }}|{{ ' a '|trim }}|{{ 'a b'|title }}|{{ ['b', 'a']|sort|join('-') }}",
            "a\n  b|a|A B|a-b",
        ),
        ("{{ messages|map(attribute='role')|join }}|{{ none|map('upper')|list }}", "user|[]"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
        (
            "{% for k, v in {'b': 1, 'a': 2}|dictsort if v > 0 %}{{ k }}{{ v }}{{ ', ' if not loop.last }}{% endfor %}",
            "a2, b1",
        ),
        (
            "{% for i in range(9)%}{% if not i %}{% continue %}{% elif i > 2 %}{% break %}{% endif %}{{i}}{% endfor %}",
            "12",
        ),
        ("{{ '</t>a'.split('</t>')[-1].lstrip('\\n') }}{{ 'x' if 'a' in 'cab' else 'y' }}{{ 'abc'[::-1] }}", "axcba"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call m(1) %}!{% endcall %}", "12!"),
        ("{% filter upper %}a{% endfilter %}{% set x %}b{{ 1 + 1 }}{% endset %}{{ x }}", "Ab2"),
        ("{{ 7 % 2 }}{{ 7 // 2 }}{{ 2 ** 3 }}{{ 3 is odd }}{{ 'a' * 3 }}{{ [1] + [2] }}", "138Trueaaa[1, 2]"),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        ("{{ '<{}|{name}>'.format('a', name='c') }}", "<a|c>"),
        ("{% set j = joiner(', ') %}{% for i in [1, 2] %}{{ j() }}{{ i }}{% endfor %}{{ dict(a=1).a }}", "1, 21"),
    ],
)
def test_what_templates_use_works(source: str, output: str) -> None:
    """The sandbox is Jinja as transformers sets it up."""
    assert run(source) == output
