"""Runs the programs of strangers: Jinja, bounded in time and memory.

A chat template comes with a model file. It runs in Jinja's immutable sandbox, and every piece of work is paid for,
before it is done, from the steps one run has:

    loop rounds, macro calls      by the size of their body; `metering` writes the payment into the syntax tree
    operators, calls, slices      by the size of what they make
    text, comparisons, filters    by the weight of what they read, where a part that occurs twice counts twice

What has no honest price does not exist here: `%` on text, padding to a width, other templates, and every attribute,
method, filter, test and global that is not listed below. `str.format` fills in plain fields and nothing else.

Knows nothing about chats.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import datetime
from string import Formatter
from typing import Any, NoReturn, TypeVar

from jinja2 import Template, TemplateRuntimeError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Joiner, Namespace, _PassArg

from handler.chat.budget import Budget
from handler.chat.metering import CALL_STEPS, CHARS_PER_STEP, MADE, READ, STEPS, TEXT, meter

MAX_SOURCE_CHARS = 100_000  # the longest templates in use have 40,000; compiling can take the square of the length
MAX_OUTPUT_CHARS = 16_000_000  # four million tokens: more than any context holds
MAX_INT_BITS = 1024  # arithmetic on longer numbers is slow, and no template counts that far
MAX_DATE_FORMAT = 256  # the C library pads a date as wide as its format asks
MAX_JSON_INDENT = 16  # it multiplies by depth and by lines
SLOW_STEPS = 24  # times a sort compares an item at most: log2 of the longest list that can be paid for

T = TypeVar("T")
Function = Callable[..., Any]


class RefusalError(TemplateRuntimeError):
    """The program called `raise_exception`."""


class Program:
    """A compiled template. Runs any number of times, in any thread; no run leaves a trace in another."""

    def __init__(self, source: str) -> None:
        """Raises what Jinja's and Python's compilers raise: syntax errors mostly, RecursionError for deep nesting."""
        if len(source) > MAX_SOURCE_CHARS:
            raise SecurityError(f"it is longer than {MAX_SOURCE_CHARS} characters")
        tree = _ENVIRONMENT.parse(source)
        meter(tree)
        tree.set_environment(_ENVIRONMENT)
        self._template: Template = _ENVIRONMENT.from_string(tree)

    def run(self, variables: Mapping[str, object]) -> str:
        """The program's output. Raises whatever the program makes Python raise: any Exception."""
        context = self._template.new_context(dict(variables))
        num_chars = 0
        texts = []
        for text in self._template.root_render_func(context):
            num_chars += len(text)
            if num_chars > MAX_OUTPUT_CHARS:
                raise SecurityError(f"its output is longer than {MAX_OUTPUT_CHARS} characters")
            texts.append(text)
        return "".join(texts)


class _Context(Context):
    """The variables of one run, and its budget."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget = Budget()


# Prices. Each pays for what a filter, test or method is about to do with a value, and returns the value to do it with.


def _read(budget: Budget, value: Any, *others: object, **named: object) -> Any:
    """At worst every part of the value meets every part of the arguments: characters to strip, a long separator."""
    value = list(value) if isinstance(value, Iterator) else value
    budget.pay(budget.weigh(value) * max(1, budget.weigh_all(*others, **named)))
    return value


def _read_slowly(budget: Budget, value: Any, *others: object, **named: object) -> Any:
    """Sorts, and a pattern that matches every word."""
    value = _read(budget, value, *others, **named)
    budget.pay(budget.weigh(value) * SLOW_STEPS)
    return value


def _spread(budget: Budget, value: Any, *others: object, **named: object) -> Any:
    """The items are copied, not read."""
    value = list(value) if isinstance(value, Iterator) else value
    budget.pay(1 + len(value) if isinstance(value, Sized) else 1)
    return value


def _flow(budget: Budget, value: Any, *others: object, **named: object) -> Any:
    """Lazy filters: each item is paid for as it passes. None stays itself, for it has no items."""
    return _paid_items(budget, value) if value else value


def _paid_items(budget: Budget, items: Iterable[T]) -> Iterator[T]:
    for item in items:
        budget.pay(CALL_STEPS)
        yield item


def _replace(budget: Budget, value: Any, old: Any = "", new: Any = "", *others: object, **named: object) -> Any:
    value = _read(budget, value, old, new)
    budget.pay(str(value).count(str(old)) * budget.weigh(new))
    return value


def _split(budget: Budget, value: Any, sep: Any = None, *others: object, **named: object) -> Any:
    value = _read(budget, value, sep)
    budget.pay(value.count(sep) if sep and isinstance(sep, str) else len(value))
    return value


def _indent(budget: Budget, value: Any, width: Any = 4, *others: object, **named: object) -> Any:
    value = _read(budget, value)
    chars = width if isinstance(width, int) else len(width)
    budget.pay(len(str(value).splitlines()) * (1 + max(0, chars) // CHARS_PER_STEP))
    return value


def _count(budget: Budget, value: Any, *others: object, **named: object) -> Any:
    """`odd` and its like are `%` underneath, which would format text."""
    if isinstance(value, str):
        raise SecurityError("text is neither odd nor even")
    return _read(budget, value, *others, **named)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Free: as cheap as any other node of the syntax tree.
_FREE_FILTERS = "count d default first last length"
_FREE_TESTS = (
    "boolean callable defined false float integer iterable mapping none number sameas sequence string true undefined"
)
_FILTERS = {
    _read: "abs capitalize e escape float int join lower max min safe string trim unique upper",
    _read_slowly: "dictsort sort title",
    _spread: "items list reverse",
    _flow: "map reject rejectattr select selectattr",
    _replace: "replace",
    _indent: "indent",
}
_TESTS = {
    _read: "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper",
    _count: "divisibleby even odd",
}
_METHODS = {
    str: _names(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric"
        " isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition"
        " rsplit rstrip split splitlines startswith strip swapcase title upper"
    ),
    dict: _names("get items keys values"),
    list: _names("count index"),
    tuple: _names("count index"),
    LoopContext: _names(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
    ),
}
_JINJA_ARGUMENTS = ("_loop_vars", "_block_vars")  # Jinja adds them to calls, and takes them off before the function
_METHOD_PRICES: dict[str, Function] = {"replace": _replace, "split": _split, "rsplit": _split, "splitlines": _split}
_PASSED: dict[_PassArg | None, Callable[[Context], tuple[object, ...]]] = {
    None: lambda context: (),
    _PassArg.context: lambda context: (context,),
    _PassArg.eval_context: lambda context: (context.eval_ctx,),
    _PassArg.environment: lambda context: (context.environment,),
}


def _priced(function: Function, price: Function) -> Function:
    passed = _PASSED[_PassArg.from_obj(function)]

    @pass_context
    def run(context: _Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        value = price(context.budget, value, *args, **kwargs)
        return context.budget.pay_for(function(*passed(context), value, *args, **kwargs))

    return run


def _table(functions: Mapping[str, Any], free: str, prices: Mapping[Function, str]) -> dict[str, Any]:
    priced = {name: _priced(functions[name], price) for price, names in prices.items() for name in _names(names)}
    return {name: functions[name] for name in _names(free)} | priced


@pass_context
def _tojson(
    context: _Context,
    value: object,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    *,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no HTML escapes, and keys keep their order."""
    budget = context.budget
    widest = indent if isinstance(indent, int) else len(indent or "")
    if max(widest, *map(len, separators or ("",))) > MAX_JSON_INDENT:
        raise SecurityError("it spreads JSON too far")
    budget.pay(budget.weigh(value))
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return budget.pay_for(encoder.encode(value))
    return "".join(map(budget.pay_for, encoder.iterencode(value)))


@pass_context
def _to_text(context: _Context, value: object) -> str:
    context.budget.pay(context.budget.weigh(value))
    return value if isinstance(value, str) else str(value)


@pass_context
def _pay_to_read(context: _Context, value: T) -> T:
    context.budget.pay(context.budget.weigh(value))
    return value


@pass_context
def _pay_to_make(context: _Context, value: T) -> T:
    return context.budget.pay_for(value)


@pass_context
def _pay_steps(context: _Context, steps: int) -> bool:
    context.budget.pay(max(1, steps))  # a program can use this filter too, with -1
    return True


_OWN_FILTERS: dict[str, Any] = {
    "tojson": _tojson,
    TEXT: _to_text,
    READ: _pay_to_read,
    MADE: _pay_to_make,
    STEPS: _pay_steps,
}


class _Namespace(Namespace):
    """Jinja's shows all it holds, and it can hold itself. This one shows nothing, so it weighs nothing."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _raise_exception(message: object) -> NoReturn:
    raise RefusalError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > MAX_DATE_FORMAT:
        raise SecurityError("it asks for the date at great length")
    return datetime.now().strftime(form)


class _Generation(Extension):
    """`{% generation %}` marks what a trainer learns from. Here it is its body."""

    tags = {"generation"}  # noqa: RUF012  Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with short lists of names, where everything that can grow is paid for."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    context_class = _Context

    def __init__(self) -> None:
        extensions = [_Generation, LoopControlExtension]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_to_text)
        self.globals = {"range": safe_range, "dict": dict, "namespace": _Namespace, "joiner": Joiner}
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        self.filters = _table(FILTERS, _FREE_FILTERS, _FILTERS) | _OWN_FILTERS
        self.tests = _table(TESTS, _FREE_TESTS, _TESTS)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(attr in names for kind, names in _METHODS.items() if isinstance(obj, kind))

    def wrap_str_format(self, value: Any) -> Function | None:
        """Asked for every attribute: `str.format` becomes a function that knows no widths and no attributes."""
        form = getattr(value, "__self__", None)
        return _make_format(form) if isinstance(form, str) and value.__name__ == "format" else None

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):  # its hash would walk it, and nobody has weighed it
            raise SecurityError("it looks up a tuple")
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        assert isinstance(context, _Context)
        _pay_operator(context.budget, operator, left, right)
        return context.budget.pay_for(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(context, _Context)
        named = {name: value for name, value in kwargs.items() if name not in _JINJA_ARGUMENTS}
        context.budget.pay(CALL_STEPS)
        if isinstance(getattr(obj, "__self__", None), tuple(_METHODS)):
            args = _pay_method(context.budget, obj, args, named)
        elif not isinstance(obj, Macro | LoopContext):  # these pay as they run
            context.budget.pay(context.budget.weigh_all(*args, **named))
        return context.budget.pay_for(super().call(context, obj, *args, **kwargs))


def _make_format(form: str) -> Function:
    @pass_context
    def fill(context: _Context, *args: Any, **kwargs: Any) -> str:
        fields = [field for field in Formatter().parse(form) if field[1] is not None]
        if not all(_is_plain(*field) for field in fields):
            raise SecurityError("it formats more than plain fields")
        context.budget.pay(context.budget.weigh(form) + len(fields) * context.budget.weigh_all(*args, **kwargs))
        return form.format(*args, **kwargs)

    return fill


def _is_plain(_text: str, name: str | None, spec: str | None, conversion: str | None) -> bool:
    return not spec and not conversion and (not name or name.isidentifier() or name.isdigit())


def _pay_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        raise SecurityError("'%' does not format text here")
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else max(left.bit_length(), right.bit_length())
        if bits > MAX_INT_BITS:
            raise SecurityError("it computes with too large a number")
    elif operator == "*":
        for times, value in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(value, str | list | tuple):
                budget.pay(max(0, times) * (budget.weigh(value) if isinstance(value, str) else len(value)))


def _pay_method(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    if method.__name__ == "join":
        args = tuple(_spread(budget, items) for items in args)
    looks_up = isinstance(method.__self__, dict | LoopContext)  # reads its arguments, not itself
    price: Function = _METHOD_PRICES.get(method.__name__, _read)
    price(budget, "" if looks_up else method.__self__, *args, **kwargs)
    return args


_ENVIRONMENT = _Sandbox()
