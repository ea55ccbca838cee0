"""A last message from the assistant is continued, however a client says so."""

from typing import Any

import pytest

from handler.api.chat_plan import plan_chat
from handler.api.protocol import ChatCompletionRequest, parse
from handler.chat.template import ChatTemplate
from handler.engine.prompt import MixedText
from handler.errors import InvalidRequestError, TemplateError
from tests.engine.fakes import ByteVocabulary
from tests.fake_worker import fake_worker

QUESTION = {"role": "user", "content": "Name it."}
BEGUN = {"role": "assistant", "content": "The city of "}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = "<|im_start|>user\nName it.<|im_end|>\n"
NEW_TURN = f"{USER}<|im_start|>assistant\nThe city of<|im_end|>\n<|im_start|>assistant\n"


def prompt_of(*messages: dict[str, Any], template: str = CHATML, **fields: Any) -> str:
    """What the worker renders for a chat."""
    request = parse(ChatCompletionRequest, {"messages": list(messages), **fields})
    chat_template = ChatTemplate(template, bos_token="", eos_token="")
    prompt = plan_chat(request, chat_template, ByteVocabulary(), "split").prompt
    assert isinstance(prompt, MixedText)
    return prompt.text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"continue_final_message": True, "add_generation_prompt": False}},
        {"chat_template_kwargs": {"add_generation_prompt": False}},
        {"continue_final_message": None},
    ],
)
def test_forms(fields: dict[str, Any]) -> None:
    """The prompt ends with the text as it was sent, blanks at its end too, and no turn is closed or opened."""
    assert prompt_of(QUESTION, BEGUN, **fields) == f"{USER}<|im_start|>assistant\nThe city of "


def test_prefix_on_the_message() -> None:
    """DeepSeek's and Mistral's form; templates do not see it."""
    template = CHATML + "{{ messages[-1].keys() | list | join(',') }}"
    prompt = prompt_of(QUESTION, BEGUN | {"prefix": True}, template=template)
    assert prompt.endswith("The city of ")


@pytest.mark.parametrize("fields", [{"add_generation_prompt": True}, {"continue_final_message": False}])
def test_a_new_turn_instead(fields: dict[str, Any]) -> None:
    """Where it is asked for."""
    assert prompt_of(QUESTION, BEGUN, **fields) == NEW_TURN


def test_an_empty_beginning() -> None:
    """Is a turn that is just opened."""
    assert prompt_of(QUESTION, BEGUN | {"content": ""}) == f"{USER}<|im_start|>assistant\n"
    assert prompt_of(QUESTION, BEGUN | {"content": None}) == f"{USER}<|im_start|>assistant\n"


def test_parts_and_the_same_text_before() -> None:
    """The last place counts, and content in parts is text too."""
    earlier = [QUESTION, BEGUN, QUESTION]
    prompt = prompt_of(*earlier, {"role": "assistant", "content": [{"type": "text", "text": "The city of "}]})
    assert prompt.endswith(f"{USER}<|im_start|>assistant\nThe city of ")
    assert prompt.count("The city of") == 2


def test_calls_are_not_continued() -> None:
    """A message with tool calls is whole."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert prompt_of(QUESTION, BEGUN | {"tool_calls": [call]}).endswith("<|im_start|>assistant\n")


def test_no_generation_prompt() -> None:
    """Obeyed where the last message is not the assistant's."""
    assert prompt_of(QUESTION, add_generation_prompt=False) == USER


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        ([QUESTION, BEGUN], {"continue_final_message": True, "add_generation_prompt": True}),
        ([QUESTION], {"continue_final_message": True}),
        ([QUESTION, BEGUN | {"tool_calls": [{}]}], {"continue_final_message": True}),
    ],
    ids=["both", "of a user", "with calls"],
)
def test_contradictions(messages: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    """Are a 400 that names the field."""
    with pytest.raises(InvalidRequestError) as caught:
        prompt_of(*messages, **fields)
    assert caught.value.param == "continue_final_message"


def test_a_template_that_does_not_show_it() -> None:
    """Nothing else could be continued in its place."""
    with pytest.raises(TemplateError, match="does not show the last message"):
        prompt_of(QUESTION, BEGUN, template="{{ messages[0].content }}")


async def test_an_answer() -> None:
    """It has what follows, not what was sent."""
    with fake_worker({"Hi>The": " city."}, template="{{ messages[0].content }}>{{ messages[1].content }}") as worker:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The"}]
        answer = await worker.chat(messages=messages)
    assert answer["choices"][0]["message"]["content"] == " city."
