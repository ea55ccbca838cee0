"""What a template may do, what it may not, and how much of it."""

import pytest

from handler.chat.sandbox import MAX_OUTPUT_CHARS, MAX_SOURCE_CHARS, Program, RefusalError


def run(source: str, **variables: object) -> str:
    return Program(source).run({"messages": [{"role": "user", "content": "hello"}], **variables})


REFUSED = {
    "the class of a text": ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
    "the class by its item": ("{{ ''['__class__'].mro() }}", "unsafe"),
    "the class by a filter": ("{{ ['']|map(attribute='__class__')|map(attribute='mro')|list }}", "unsafe"),
    "the class by str.format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
    "the globals of a function": ("{{ raise_exception.__globals__.x }}", "unsafe"),
    "the globals of a class": ("{{ joiner.__init__.__globals__ }}", "unsafe"),
    "the globals of a macro": ("{% macro m() %}{% endmacro %}{{ m._invoke.__globals__ }}", "unsafe"),
    "the environment of a loop": ("{% for i in [1] %}{{ loop._undefined.x }}{% endfor %}", "unsafe"),
    "the template": ("{{ self._TemplateReference__context.x }}", "unsafe"),
    "an include": ("{% include 'a' %}", "no loader"),
    "a parent": ("{% extends 'a' %}", "no loader"),
    "a long range": ("{{ range(1000000000) }}", "Range too big"),
    "JSON of what is none": ("{{ namespace()|tojson }}", "has no JSON"),
    "JSON of what is not there": ("{{ nothing|tojson }}", "has no JSON"),
}


@pytest.mark.parametrize(("source", "words"), REFUSED.values(), ids=REFUSED)
def test_what_leads_out_of_the_sandbox_is_refused(source: str, words: str) -> None:
    """Python's attributes, other files, and loops without end."""
    with pytest.raises(Exception, match=words):
        run(source)


def test_a_long_source_does_not_compile() -> None:
    """Compiling may take the square of its length."""
    Program("x" * MAX_SOURCE_CHARS)
    with pytest.raises(Exception, match=f"longer than {MAX_SOURCE_CHARS}"):
        Program("x" * (MAX_SOURCE_CHARS + 1))


def test_a_long_output_is_stopped() -> None:
    """Before it is all there."""
    with pytest.raises(Exception, match=f"longer than {MAX_OUTPUT_CHARS}"):
        run("{% for i in range(100000) %}" + "x" * 50_000 + "{% endfor %}")


def test_a_template_changes_its_own_lists_and_no_callers() -> None:
    """Kimi K2's appends to lists that it made; what came with the request stays as it was."""
    messages = [{"role": "user", "parts": [1]}]
    source = "{% set ns = namespace(ids=[]) %}{% set _ = ns.ids.append('a') %}{{ ns.ids.pop(0) }}"
    source += "{% set _ = messages[0].parts.append(2) %}{% set _ = messages[0].update(role='x') %}{{ messages }}"

    assert run(source, messages=messages) == "a[{'role': 'x', 'parts': [1, 2]}]"
    assert messages == [{"role": "user", "parts": [1]}]


@pytest.mark.parametrize(
    "source",
    ["{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"],
    ids=["macros", "loops"],
)
def test_what_nests_without_end_is_stopped(source: str) -> None:
    """By an exception, not by the end of the C stack."""
    with pytest.raises(RecursionError):
        run(source)


def test_a_refusal_is_told_from_a_failure() -> None:
    """`raise_exception` is what a template says on purpose."""
    with pytest.raises(RefusalError, match="no"):
        run("{{ raise_exception('no') }}")


def test_runs_leave_no_trace() -> None:
    """Each has its own variables."""
    program = Program("{% set ns = namespace(n=n) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}")

    assert [program.run({"n": 1}) for _ in range(3)] == ["2"] * 3


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("{{ {'b': '<ü>', 'a': 1}|tojson }}", '{"b": "<ü>", "a": 1}'),
        ("{{ {'a': [1]}|tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
        (
            "{{ 'a\nb'|indent(2) }}|{{ ' a '|trim }}|{{ 'a b'|title }}|{{ ['b', 'a']|sort|join('-') }}",
            "a\n  b|a|A B|a-b",
        ),
        ("{{ messages|map(attribute='role')|tojson }}", '["user"]'),
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
