"""Chat templates in the styles that models ship, and what a conversation becomes in them."""

import copy
import json
from typing import Any

import pytest

from handler.chat.messages import normalise
from handler.chat.template import ChatTemplate, model_template
from handler.errors import InvalidRequestError, ModelError, TemplateError, to_response

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {% generation %}{{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<call>' ~ call.function.name ~ ' ' ~ (call.function.arguments | tojson) ~ '</call>' }}
        {%- endfor %}{% endgeneration %}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA3 = """\
{% set loop_messages = messages %}
{% for message in loop_messages %}
    {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim %}
    {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
    {{- content + '<|eot_id|>' }}
{%- endfor %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt }}"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

MISTRAL = """\
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in turns if message.role in ('user', 'assistant') %}
    {%- if (message.role == 'user') != (ns.index % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate') }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (system + '\\n\\n' if system is defined and loop.last else '') + message.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}"""

DEEPSEEK = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' and message['content'] is none %}
    {%- for tool in message['tool_calls'] %}
        {{- '<call>' + tool['function']['name'] + '\\n' + tool['function']['arguments'] + '</call>' }}
    {%- endfor %}
{%- else %}
    {{- '<' + message['role'] + '>' + message['content'] }}
{%- endif %}
{%- endfor %}"""

USER = {"role": "user", "content": " Hi "}
ANSWER = {"role": "assistant", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich <3"}'}}
    ],
}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("source", "messages", "prompt"),
    [
        pytest.param(
            CHATML,
            [SYSTEM, USER],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n",
            id="ChatML",
        ),
        pytest.param(
            LLAMA3,
            [SYSTEM, USER],
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            id="Llama 3",
        ),
        pytest.param(
            GEMMA,
            [USER, ANSWER, USER],
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
            "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
            id="Gemma",
        ),
        pytest.param(
            MISTRAL,
            [SYSTEM, USER, ANSWER, USER],
            "<s>[INST]  Hi [/INST] Hello!</s>[INST] Be brief.\n\n Hi [/INST]",
            id="Mistral",
        ),
    ],
)
def test_the_common_styles(source: str, messages: list[dict[str, Any]], prompt: str) -> None:
    """The prompt is what apply_chat_template of transformers makes of it, to the last newline."""
    assert template(source).render(messages) == prompt


@pytest.mark.parametrize(
    ("source", "messages", "words"),
    [
        (GEMMA, [USER, USER], "must alternate"),
        (GEMMA, [ANSWER, USER], "must alternate"),
        (MISTRAL, [SYSTEM, USER, ANSWER, ANSWER], "roles must alternate"),
    ],
)
def test_a_template_may_refuse(source: str, messages: list[dict[str, Any]], words: str) -> None:
    """Its own words reach the client, as a mistake in the request."""
    with pytest.raises(TemplateError, match=words) as raised:
        template(source).render(messages)

    response = to_response(raised.value)
    assert (response.status, response.body["error"]["code"]) == (400, "chat_template_error")


def test_a_conversation_with_tools() -> None:
    """Tools and arguments are JSON without HTML escapes; a call without content has none in the prompt."""
    tool = {"type": "function", "function": {"name": "weather", "description": "It's > 0"}}
    result = {"role": "tool", "tool_call_id": "1", "content": "sunny"}

    assert template(CHATML).render([USER, CALL, result], tools=[tool]) == (
        '<|im_start|>system\n{"type": "function", "function": {"name": "weather", "description": "It\'s > 0"}}'
        "<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n"
        '<|im_start|>assistant\n<call>weather {"city": "Zürich <3"}</call><|im_end|>\n'
        "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_gets_tool_calls_in_the_style_it_needs() -> None:
    """DeepSeek's templates want no content, and arguments as the text they came as."""
    assert template(DEEPSEEK).render([USER, CALL]) == '<user> Hi <call>weather\n{"city": "Zürich <3"}</call>'


@pytest.mark.parametrize("arguments", ["", "[1]", "{broken", '{"a": ' * 5000, {"a": 1}, None])
def test_arguments_that_hold_no_object_stay_as_they_are(arguments: object) -> None:
    """A model may have written them, so nothing is certain about them."""
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    source = "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ call|tojson }}\n{% endfor %}{% endfor %}"

    prompt = template(source).render([{"role": "assistant", "tool_calls": [call, "strange", {}]}, ANSWER])

    assert prompt == "".join(json.dumps(part) + "\n" for part in (call, "strange", {}))


def test_no_generation_prompt_on_request() -> None:
    """Variables of the template can be set by the caller."""
    assert template(CHATML).render([USER], add_generation_prompt=False) == "<|im_start|>user\n Hi <|im_end|>\n"
    assert template("{{ enable_thinking }}{{ messages|length }}").render([USER], enable_thinking=False) == "False1"


def test_what_is_absent_is_none() -> None:
    """As in transformers: templates ask `if tools` and `documents is none`."""
    source = "{{ tools is none }}{{ documents is none }}{{ 'tool_calls' in messages[0] }}{{ nothing }}"

    assert template(source).render([{**USER, "tool_calls": []}], tools=[]) == "TrueTrueFalse"


def test_a_caller_cannot_replace_the_conversation() -> None:
    """Variables that come from a request lose against the conversation and the model's tokens."""
    fields: dict[str, Any] = {"messages": "mine", "bos_token": "mine", "self": "mine"}

    assert template("{{ bos_token }}{{ messages|length }}").render([USER], **fields) == "<s>1"


def test_messages_are_normalised() -> None:
    """Text parts become one text, null content an empty one, and null keys go."""
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "name": None, "tool_calls": None, "reasoning_content": "hm"},
    ]
    before = copy.deepcopy(messages)

    assert normalise(messages) == [
        {"role": "developer", "content": "a\nb"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]
    assert messages == before


PARTS = """\
{% for message in messages %}{{ message.role | capitalize }}:
{%- for part in message.content %}{% if part.type == 'text' %} {{ part.text }}{% elif part.type == 'image' %}<image>
{%- endif %}{% endfor %}<end>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


def test_a_template_that_wants_parts_gets_them() -> None:
    """As those of many models that see: they walk over the letters of a text, and show none of them."""
    conversation = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Yes"}, USER]
    shown = f"System: Be brief.<end>\nUser: {USER['content']}<end>\nAssistant: Yes<end>\nUser: {USER['content']}<end>\n"

    assert template(PARTS).render(conversation) == shown + "Assistant:"
    begun = template(PARTS).render(conversation[:3], continue_final_message=True)
    assert begun == "".join(shown.splitlines(keepends=True)[:2]) + "Assistant: Yes"


def test_a_template_that_knows_developers_sees_them() -> None:
    """gpt-oss tells system and developer apart."""
    developer = {"role": "developer", "content": ""}

    assert template("{{ messages[0].role }}").render([developer]) == "system"
    assert template("{% if messages[0].role == 'developer' %}yes{% endif %}").render([developer]) == "yes"


@pytest.mark.parametrize("content", [[{"type": "image_url"}], ["text"], [{"type": "text"}], 5, {"type": "text"}])
def test_content_that_is_no_text_is_refused(content: object) -> None:
    """The error names the message."""
    with pytest.raises(InvalidRequestError) as raised:
        template(CHATML).render([USER, {"role": "user", "content": content}])

    assert raised.value.param == "messages[1].content"


def test_the_date_is_known() -> None:
    """Llama 3.1 and gpt-oss tell the model what day it is."""
    assert template("{{ strftime_now('%Y')|length }}").render([USER]) == "4"


def test_a_broken_template_stops_who_asked_for_it() -> None:
    """The setting's template is wrong before the first request."""
    with pytest.raises(ModelError, match="does not compile"):
        template("{% if %}")


@pytest.mark.parametrize(
    ("source", "words"), [(None, "no chat template"), ("", "no chat template"), ("{{", "cannot be")]
)
def test_a_model_without_a_usable_template_still_loads(source: str | None, words: str) -> None:
    """Completions need none; a chat is told why not."""
    find = model_template(source, bos_token="", eos_token="")

    with pytest.raises(TemplateError, match=words):
        find()


def test_a_models_template() -> None:
    """A usable one is compiled once."""
    find = model_template(CHATML, bos_token="", eos_token="")

    assert find() is find()
    assert "Hi" in find().render([USER])


def test_a_model_may_have_a_template_for_tools() -> None:
    """It renders and finds the format where there are tools; plain chats keep the other, whatever becomes of it."""
    plain, with_tools = "{{ messages[0].content }}", "{# <tool_call> #}{{ tools | length }} tools"
    template = model_template(plain, tool_use=with_tools, bos_token="", eos_token="")()
    broken = model_template(plain, tool_use="{% if %}", bos_token="", eos_token="")()

    messages = [{"role": "user", "content": "Hi"}]
    assert template.for_tools(False).render(messages) == broken.for_tools(False).render(messages) == "Hi"
    assert (
        template.for_tools(True).render(messages, tools=[{"type": "function", "function": {"name": "f"}}]) == "1 tools"
    )
    assert (template.format.name, template.for_tools(True).format.name) == ("generic", "hermes")
    with pytest.raises(TemplateError, match="own template for tools cannot be used"):
        broken.for_tools(True)
