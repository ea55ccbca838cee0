"""Chats with tools through the API, whole and streamed, on a fake model that writes calls as Hermes does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from handler.errors import RequestError
from tests.fake_worker import FakeWorker, Json, chat_chunks, events, fake_worker, read

TEMPLATE = (
    "{# <tool_call> #}{% if tools %}[{{ tools[0].function.description }}]{% endif %}"
    "{% for m in messages %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}({{ call.function.name }} {{ call.function.arguments | tojson }}){% endfor %}"
    "{% endfor %}>{% if thinks %}<think>\n{% endif %}"
)
SPECIALS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "d", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
ARGUMENTS = '{"city": "Paris"}'


@contextmanager
def worker_saying(answer: str, prompt: str = "[d]Hi>", **options: Any) -> Iterator[FakeWorker]:
    with fake_worker({prompt: answer}, template=TEMPLATE, specials=SPECIALS, **options) as worker:
        yield worker


async def both(worker: FakeWorker, **fields: Any) -> tuple[Json, Json]:
    """A choice as it is answered whole, and what its stream adds up to; without the ids of calls."""
    whole = (await worker.chat("Hi", **fields))["choices"][0]
    streamed = assembled(events("".join(await read(await worker.stream_chat("Hi", **fields)))))
    for call in (*whole["message"].get("tool_calls", ()), *streamed["message"].get("tool_calls", ())):
        assert call.pop("id").startswith("call_")
    whole["message"].pop("refusal")
    return whole, streamed


def assembled(chunks: list[Json]) -> Json:
    """What a client makes of a stream."""
    message: Json = {"role": "", "content": ""}
    calls: dict[int, Json] = {}
    finish, logprobs = None, []
    for choice in [choice for chunk in chunks for choice in chunk["choices"]]:
        finish = choice["finish_reason"] or finish
        logprobs += (choice.get("logprobs") or {}).get("content", [])
        for key, value in choice["delta"].items():
            if key == "tool_calls":
                for delta in value:
                    function = delta["function"]
                    if delta["index"] not in calls:
                        assert {"id", "type"} < delta.keys()
                        calls[delta["index"]] = {**delta, "function": {**function}}
                    else:
                        assert delta.keys() == {"index", "function"}
                        calls[delta["index"]]["function"]["arguments"] += function["arguments"]
            elif key == "function_call":
                call = message.setdefault("function_call", {"arguments": ""})
                call |= {"name": value["name"]} if "name" in value else {}
                call["arguments"] += value["arguments"]
            else:
                message[key] = message.get(key, "") + value
    if calls:
        message["tool_calls"] = [
            {key: item for key, item in calls[index].items() if key != "index"} for index in sorted(calls)
        ]
    if (calls or "function_call" in message) and not message["content"]:
        message["content"] = None
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**choice, "logprobs": {"content": logprobs, "refusal": None} if logprobs else None}


async def test_a_call() -> None:
    """Whole: no content, the call under an id of its own, and a finish that says so."""
    with worker_saying(CALL) as worker:
        answer = await worker.chat("Hi", tools=TOOLS)

    choice = ChatCompletion.model_validate(answer).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert (call.function.name, call.function.arguments) == ("weather", ARGUMENTS)


async def test_a_streamed_call() -> None:
    """The first delta has index, id, type, name and no arguments yet; the later ones arguments alone."""
    with worker_saying(CALL) as worker:
        role, first, *later, finish = events("".join(await read(await worker.stream_chat("Hi", tools=TOOLS))))

    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    [begun] = first["choices"][0]["delta"]["tool_calls"]
    assert begun.pop("id").startswith("call_")
    assert begun == {"index": 0, "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in later]
    assert all(piece.keys() == {"index", "function"} and piece["index"] == 0 for piece in pieces)
    assert "".join(piece["function"]["arguments"] for piece in pieces) == ARGUMENTS
    assert finish["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}


ANSWERS = {
    "one call": CALL,
    "text and two calls": f"I look.\n\n{CALL}\n{OTHER}",
    "reasoning and a call": f"<think>\nHm, Paris.\n</think>\n\n{CALL}",
    "reasoning and text": "<think>\nHm.\n</think>\n\nHello!",
    "text": "Hello, <tool> world",
    "a call without arguments": '<tool_call>\n{"name": "weather"}\n</tool_call>',
    "a name that is unknown": '<tool_call>{"name": "f", "arguments": {}}</tool_call>',
    "a cut call": '<tool_call>{"name": "weather", "arguments": {"city": "Pa',
    "a marker without a call": "See <tool_call> there",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("fields", [{}, {"logprobs": True}], ids=["plain", "logprobs"])
async def test_stream_equals_whole(answer: str, fields: Json) -> None:
    """Both are folds of the same events."""
    with worker_saying(answer) as worker:
        whole, streamed = await both(worker, tools=TOOLS, **fields)

    assert whole == streamed
    ChatCompletionMessage.model_validate(whole["message"] | {"tool_calls": None})


async def test_two_calls_beside_text() -> None:
    """Each has its index; the text stays."""
    with worker_saying(f"I look.\n\n{CALL}\n{OTHER}") as worker:
        whole, _ = await both(worker, tools=TOOLS)

    assert whole["message"]["content"] == "I look."
    assert [json.loads(call["function"]["arguments"])["city"] for call in whole["message"]["tool_calls"]] == [
        "Paris",
        "Zürich",
    ]


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [({"tools": TOOLS, "tool_choice": "none"}, "[d]Hi>"), ({}, "Hi>")],
    ids=["none", "no tools"],
)
async def test_without_a_choice_nothing_is_called(fields: Json, prompt: str) -> None:
    """With none the prompt has the tools all the same, and what looks like a call is text."""
    with worker_saying("Look: " + CALL, prompt) as worker:
        whole, streamed = await both(worker, **fields)

    assert whole == streamed
    assert whole["message"] == {"role": "assistant", "content": "Look: " + CALL}
    assert whole["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "weather"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": TOOLS}},
    ],
    ids=["required", "named", "allowed"],
)
async def test_calls_that_must_come_are_held_to_a_grammar(choice: object) -> None:
    """The answer ends with the call where one is asked for: no token is drawn behind it."""
    with worker_saying(CALL + "and so on") as worker:
        whole, streamed = await both(worker, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)

    assert whole == streamed
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] is None


async def test_a_model_that_does_not_follow_the_grammar() -> None:
    """Masks would not let it; a fake has none, so the matcher finds it out."""
    with worker_saying("Hello") as worker, pytest.raises(RequestError, match="cannot be held"):
        await worker.chat("Hi", tools=TOOLS, tool_choice="required")


async def test_a_strict_tool_that_may_be_called() -> None:
    """Text is free, and a call in it follows the schema."""
    strict = [{"type": "function", "function": {**WEATHER, "strict": True}}]
    with worker_saying(f"Hm.\n{CALL}") as worker:
        whole, streamed = await both(worker, tools=strict)
    wrong = '<tool_call>\n{"name": "weather", "arguments": {"town": 1}}\n</tool_call>'
    with worker_saying(f"Hm.\n{wrong}") as worker, pytest.raises(RequestError, match="cannot be held"):
        await worker.chat("Hi", tools=strict)

    assert whole == streamed
    assert whole["message"]["tool_calls"]


async def test_a_strict_schema_that_cannot_be_followed() -> None:
    """Is a 400 that names it; without strict the keyword is let go."""
    hard = {"type": "object", "properties": {"n": {"not": {"type": "string"}}}}
    with worker_saying(CALL.replace('"city": "Paris"', '"n": 1')) as worker:
        for strict in (True, False):
            tools = [{"type": "function", "function": {**WEATHER, "parameters": hard, "strict": strict}}]
            if strict:
                with pytest.raises(RequestError) as caught:
                    await worker.chat("Hi", tools=tools, tool_choice="required")
                assert caught.value.param == "tools[0].function.parameters"
                assert caught.value.status == 400
            else:
                answer = await worker.chat("Hi", tools=tools, tool_choice="required")
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_answer_in_a_form_or_a_call() -> None:
    """With a schema for the answer, and tools that may be called, one or the other comes."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS, "strict": True}}
    for answer, reason in ((CALL, "tool_calls"), ('{"city": "Rome"}', "stop")):
        with worker_saying(answer) as worker:
            whole, streamed = await both(worker, tools=TOOLS, response_format=form)
        assert whole == streamed
        assert whole["finish_reason"] == reason


async def test_a_grammar_that_would_forbid_calls() -> None:
    """Is refused beside tools that may be called."""
    with worker_saying("x") as worker, pytest.raises(RequestError) as caught:
        await worker.chat("Hi", tools=TOOLS, guided_regex="x+")
    assert caught.value.param == "guided_regex"


async def test_old_functions() -> None:
    """Ask in the older form, and are answered in it."""
    with worker_saying(CALL) as worker:
        whole, streamed = await both(worker, functions=[WEATHER])

    assert whole == streamed
    assert whole["finish_reason"] == "function_call"
    assert whole["message"] == {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "weather", "arguments": ARGUMENTS},
    }


@pytest.mark.parametrize("is_old", [False, True], ids=["tools", "functions"])
async def test_results_go_into_the_prompt(is_old: bool) -> None:
    """A call and its result, in the newer form and in the older one, are the same conversation."""
    function = {"name": "weather", "arguments": ARGUMENTS}
    call: Json = {"role": "assistant", "content": None, "function_call": function}
    result: Json = {"role": "function", "name": "weather", "content": "Sun"}
    if not is_old:
        call = {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        result = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Sun"}]}
    tools: Json = {"functions": [WEATHER]} if is_old else {"tools": TOOLS}
    messages = [{"role": "user", "content": "Hi"}, call, result]
    with worker_saying("It is sunny.", '[d]Hi(weather {"city": "Paris"})Sun>') as worker:
        answer = await worker.chat(messages=messages, **tools)

    assert answer["choices"][0]["message"]["content"] == "It is sunny."


REASONED = "<think>\nHm, so.\n</think>\n\nHello!"
STYLES: dict[str, tuple[Json, Json, Json]] = {
    "split": ({}, {}, {"content": "Hello!", "reasoning_content": "Hm, so."}),
    "twice": (
        {"doubles_reasoning": True},
        {},
        {"content": "Hello!", "reasoning_content": "Hm, so.", "reasoning": "Hm, so."},
    ),
    "keep": ({"reasoning": "keep"}, {}, {"content": REASONED}),
    "hide": ({"reasoning": "hide"}, {}, {"content": "Hello!"}),
    "none asked for": ({}, {"reasoning_format": "none"}, {"content": REASONED}),
    "not included": ({"reasoning": "keep"}, {"include_reasoning": False}, {"content": "Hello!"}),
    "split asked for": (
        {"reasoning": "hide"},
        {"reasoning_format": "deepseek"},
        {"content": "Hello!", "reasoning_content": "Hm, so."},
    ),
}


@pytest.mark.parametrize(("options", "fields", "message"), STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("is_open", [False, True], ids=["by the model", "by the prompt"])
async def test_reasoning(options: Json, fields: Json, message: Json, is_open: bool) -> None:
    """In a field of its own, in the content, or nowhere; whether the model has opened it or the template."""
    prompt, answer = ("Hi><think>\n", REASONED.removeprefix("<think>\n")) if is_open else ("Hi>", REASONED)
    variables = {"chat_template_kwargs": {"thinks": is_open}}
    with worker_saying(answer, prompt, **options) as worker:
        whole, streamed = await both(worker, **fields, **variables)
        usage = (await worker.chat("Hi", **fields, **variables))["usage"]

    assert whole == streamed
    assert whole["message"] == {"role": "assistant", **message}
    reasoned = len("\nHm, so.\n") + 2 if not is_open else len("Hm, so.\n") + 1
    assert usage["completion_tokens_details"] == {"reasoning_tokens": reasoned}


async def test_a_budget_for_reasoning() -> None:
    """The end is written for the model, behind the message."""
    with worker_saying("Hm, so it may go on", "Hi><think>\n") as worker:
        answer = await worker.chat(
            "Hi",
            chat_template_kwargs={"thinks": True},
            thinking_token_budget=3,
            reasoning_budget_message=" Enough.",
            max_tokens=20,
        )

    message = answer["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm, Enough."
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("answer", "fields", "content"),
    [
        ("<think>\na, b\n</think>\n\nc, d", {}, "c"),
        (f"Hm, {CALL}", {}, "Hm"),
        (CALL, {"tool_choice": "required"}, None),
        (CALL, {}, None),
    ],
    ids=["reasoning", "content", "required", "call"],
)
async def test_stop_strings_are_of_content(answer: str, fields: Json, content: str | None) -> None:
    """In reasoning and calls they are text like any other."""
    with worker_saying(answer) as worker:
        whole, streamed = await both(worker, tools=TOOLS, stop=[",", '": '], **fields)

    assert whole == streamed
    assert whole["message"]["content"] == content


async def test_logprobs_are_of_the_content() -> None:
    """Neither reasoning nor calls have any, and their markers have none."""
    with worker_saying(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}") as worker:
        whole, streamed = await both(worker, tools=TOOLS, logprobs=True)

    assert whole == streamed
    assert "".join(entry["token"] for entry in whole["logprobs"]["content"]) == "I look."


async def test_a_form_behind_reasoning() -> None:
    """What constrains an answer begins where the model has thought."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS, "strict": True}}
    with worker_saying('Hm.\n</think>\n\n{"city": "Rome"}', "Hi><think>\n") as worker:
        whole, streamed = await both(worker, response_format=form, chat_template_kwargs={"thinks": True})

    assert whole == streamed
    assert whole["message"] == {"role": "assistant", "content": '{"city": "Rome"}', "reasoning_content": "Hm."}


async def test_several_choices() -> None:
    """Each has calls of its own."""
    with worker_saying(CALL) as worker:
        answer = await worker.chat("Hi", tools=TOOLS, n=2)
        chunks = chat_chunks(await read(await worker.stream_chat("Hi", tools=TOOLS, n=2)))

    ids = [choice["message"]["tool_calls"][0]["id"] for choice in answer["choices"]]
    assert len(set(ids)) == 2
    begun = {choice.index for chunk in chunks for choice in chunk.choices if choice.delta.tool_calls}
    assert begun == {0, 1}


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        (f"Hm.\n{CALL}\n{OTHER}", {"parallel_tool_calls": False}),
        (
            f"Hm.\n{CALL}",
            {
                "tools": [*TOOLS, {"type": "function", "function": {"name": "other"}}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "other"}}],
                },
            },
        ),
    ],
    ids=["a second call", "a tool that is not allowed"],
)
async def test_calls_that_may_come_and_are_not_allowed(answer: str, fields: Json) -> None:
    """Are held off by a grammar: a fake without masks runs into it."""
    with worker_saying(answer) as worker, pytest.raises(RequestError, match="cannot be held"):
        await worker.chat("Hi", **{"tools": TOOLS, **fields})


async def test_a_second_template_for_tools() -> None:
    """Chats with tools are rendered by it, and their calls read by its format; other chats are as before."""
    scripts = {"[d]Hi>": CALL, "Hi>": "Hello!"}
    with fake_worker(scripts, tool_use=TEMPLATE, specials=SPECIALS) as worker:
        called = await worker.chat("Hi", tools=TOOLS)
        plain = await worker.chat("Hi")

    [call] = called["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": ARGUMENTS}
    assert plain["choices"][0]["message"]["content"] == "Hello!"


async def test_an_answer_in_an_object() -> None:
    """From a model whose template knows no tools it is the text in it, unless the client asked for an object."""
    template = TEMPLATE.replace("<tool_call>", "")
    said = '{"response": "It rains."}'
    with fake_worker({"[d]Hi>": said, "Hi>": said}, template=template) as worker:
        whole, streamed = await both(worker, tools=TOOLS)
        plain, _ = await both(worker)
        asked, _ = await both(worker, tools=TOOLS, tool_choice="none", response_format={"type": "json_object"})

    assert whole == streamed
    assert whole["message"]["content"] == "It rains."
    assert plain["message"]["content"] == said
    assert asked["message"]["content"] == said
