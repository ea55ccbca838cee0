"""llama.cpp's 70 templates: ours renders what transformers renders, and equally."""

import copy
import json
from os.path import commonprefix
from typing import Any, NoReturn

import pytest
from jinja2 import Environment, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from handler.chat.formats import find
from handler.chat.formats.format import Format
from handler.chat.output import OutputParser
from handler.chat.sandbox import Program
from handler.chat.template import ChatTemplate
from handler.chat.tools import Tools
from tests.chat.llama_templates import llama_templates
from tests.chat.transcripts import fold

pytestmark = pytest.mark.model

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, if it's > 0 & known",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich <3"}}}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": " What is the weather?\n"}
ANSWER = {"role": "assistant", "content": "Sunny, <b>I</b> guess."}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"sun": "always"}'}
THINKING = {**ANSWER, "reasoning_content": "Hm.", "thinking": "Hm."}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "a question": {"messages": [USER]},
    "with a system message": {"messages": [SYSTEM, USER]},
    "two turns": {"messages": [SYSTEM, USER, ANSWER, USER]},
    "an answer to learn from": {"messages": [USER, ANSWER], "add_generation_prompt": False},
    "reasoning": {"messages": [USER, THINKING, USER]},
    "without thinking": {"messages": [USER], "enable_thinking": False, "thinking": False},
    "tools": {"messages": [SYSTEM, USER], "tools": [TOOL]},
    "a call": {"messages": [USER, CALLING, RESULT], "tools": [TOOL]},
    "an old call": {"messages": [USER, CALLING, RESULT, ANSWER, USER], "tools": [TOOL]},
    "a system message in between": {"messages": [USER, ANSWER, SYSTEM, USER]},
}


class Generation(Extension):
    """The tag that transformers adds."""

    tags = {"generation"}  # noqa: RUF012  Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)


def reference(source: str) -> Any:
    """What `apply_chat_template` compiles, but without a sandbox: it lets Kimi K2's template append to its lists."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, LoopControlExtension])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=lambda form: "today")
    return environment.from_string(source)


@pytest.fixture
def same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox's date is the reference's."""
    monkeypatch.setitem(Program("")._template.environment.globals, "strftime_now", lambda form: "today")


@pytest.mark.usefixtures("same_day")
def test_what_transformers_renders_ours_renders_equally() -> None:
    """Every template and conversation, to the last blank. Ours alone renders JSON of lazy values."""
    rendered, only_ours = 0, set()
    for name, source in llama_templates().items():
        expected, program = reference(source), Program(source)
        for conversation in CONVERSATIONS.values():
            variables = {
                "tools": None,
                "documents": None,
                "add_generation_prompt": True,
                "bos_token": "<s>",
                "eos_token": "</s>",
                **conversation,
            }
            try:
                text = expected.render(copy.deepcopy(variables))
            except Exception:
                only_ours |= {name} if renders(program, variables) else set()
                continue
            assert program.run(variables) == text, (name, conversation)
            rendered += 1

    assert rendered > len(llama_templates()) * (len(CONVERSATIONS) - 2)
    assert only_ours == {"llama-cpp-deepseek-r1"}


def renders(program: Program, variables: dict[str, Any]) -> bool:
    try:
        program.run(variables)
    except Exception:
        return False
    return True


FAMILIES = """
apertus Apertus-8B-Instruct
apriel Apriel-1.6-15b-Thinker-fixed unsloth-Apriel-1.5
atem muse-glimmer
command_r_plus CohereForAI-c4ai-command-r-plus-tool_use
cohere Cohere2MoE CohereForAI-c4ai-command-r7b-12-2024-tool_use
deepseek_r1 deepseek-ai-DeepSeek-R1-Distill-Llama-8B deepseek-ai-DeepSeek-R1-Distill-Qwen-32B llama-cpp-deepseek-r1
deepseek_v31 deepseek-ai-DeepSeek-V3.1
dsml deepseek-ai-DeepSeek-V3.2 deepseek-ai-DeepSeek-V4 deepseek-ai-DeepSeek-V4-Flash-0731
firefunction fireworks-ai-llama-3-firefunction-v2
functionary_3.1 meetkai-functionary-medium-v3.1
functionary_3.2 meetkai-functionary-medium-v3.2
gemma4 google-gemma-4-31B-it google-gemma-4-31B-it-interleaved
generic HuggingFaceTB-SmolLM3-3B google-gemma-2-2b-it llama-cpp-rwkv-world
generic microsoft-Phi-3.5-mini-instruct
gigachat3 GigaChat3-10B-A1.8B
gigachat3.1 GigaChat3.1-10B-A1.8B
glm GLM-4.6 GLM-4.7-Flash Spark2.5 inclusionai-ling-3.0-flash
glm poolside-Laguna-S-2.1 poolside-Laguna-XS-2.1 poolside-Laguna-XS.2
granite3 ibm-granite-granite-3.3-2B-Instruct
harmony openai-gpt-oss-120b
hermes Bielik-11B-v3.0-Instruct MiMo-VL NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use Reka-Edge
hermes NousResearch-Hermes-3-Llama-3.1-8B-tool_use Qwen-QwQ-32B Qwen-Qwen2.5-7B-Instruct Qwen-Qwen3-0.6B
hermes ibm-granite-granite-4.0 ibm-granite-granite-4.1
hy tencent-Hy3
kimi_k2 Kimi-K2-Instruct Kimi-K2-Thinking moonshotai-Kimi-K2
kimi_k3 Kimi-K3
lfm2 LFM2-8B-A1B LFM2.5-8B-A1B LFM2.5-Instruct
llama3 meta-llama-Llama-3.1-8B-Instruct meta-llama-Llama-3.2-3B-Instruct meta-llama-Llama-3.3-70B-Instruct
minicpm5 openbmb-MiniCPM5-1B
minimax_m1 MiniMax-M1
minimax_m2 MiniMax-M2
minimax_m3 MiniMax-M3
mistral_args Mistral-Small-3.2-24B-Instruct-2506 mistralai-Ministral-3-14B-Reasoning-2512
mistral_args unsloth-mistral-Devstral-Small-2507
mistral_json mistralai-Mistral-Nemo-Instruct-2407
nemotron_v2 NVIDIA-Nemotron-Nano-v2
qwen3_coder NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 Qwen3-Coder Qwen3.5-4B StepFun3.5-Flash
seed ByteDance-Seed-OSS
solar upstage-Solar-Open-100B
"""


def chat_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


def test_the_family_of_each_template() -> None:
    """Found by the words in its source."""
    found = {name: find(source).name for name, source in llama_templates().items()}

    assert found == {name: family for family, *names in map(str.split, FAMILIES.split("\n")[1:-1]) for name in names}


def call(number: int, city: str) -> dict[str, Any]:
    arguments = json.dumps({"city": city, "days": 3})
    return {"id": f"call_{number}", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def result(number: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text}


SHOWN = ("BE-BRIEF", "QUESTION", "LET-ME-SEE", "ZURICH", "BERN", "SUNNY", "RAINY", "IN-FRENCH", "THE-TOOL")
TALK: list[dict[str, Any]] = [
    {"role": "developer", "content": "BE-BRIEF"},
    {"role": "user", "content": [{"type": "text", "text": "QUESTION"}]},
    {
        "role": "assistant",
        "content": "LET-ME-SEE",
        "reasoning": "HM",
        "tool_calls": [call(1, "ZURICH"), call(2, "BERN")],
    },
    result(2, "RAINY"),
    result(1, "SUNNY"),
    {"role": "system", "content": "IN-FRENCH"},
]


def test_all_of_a_conversation_with_tools_is_shown() -> None:
    """By every one of the templates, those too whose authors thought of no tools: none refuses, none drops a word.

    Two calls beside a text, their results in another order, and a system message at the end.
    """
    described = {**TOOL, "function": {**TOOL["function"], "description": "THE-TOOL"}}
    for name, source in llama_templates().items():
        prompt = chat_template(source).render(TALK, tools=[described])
        missing = [word for word in SHOWN if word not in prompt]
        # Mistral's older templates show a system message before the user's last message, if no other comes behind it.
        assert missing == (["BE-BRIEF"] if name == "mistralai-Mistral-Nemo-Instruct-2407" else []), name


def test_one_call_and_its_result_are_shown() -> None:
    """The plain case, with the next question."""
    for name, source in llama_templates().items():
        messages = [*TALK[1:2], {**CALLING, "tool_calls": [call(1, "ZURICH")]}, result(1, "SUNNY"), ANSWER, USER]
        prompt = chat_template(source).render(messages, tools=[TOOL])
        assert "ZURICH" in prompt, name
        assert "SUNNY" in prompt, name


@pytest.mark.usefixtures("same_day")
def test_a_conversation_without_tools_is_rendered_as_it_was() -> None:
    """Where there is nothing to repair, ours is what transformers renders."""
    messages = [USER, ANSWER, USER]
    for name, source in llama_templates().items():
        variables: dict[str, Any] = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        try:
            expected = reference(source).render(**variables, bos_token="<s>", eos_token="</s>")
        except Exception:
            continue
        assert chat_template(source).render(messages) == expected, name


def test_tokens_that_are_spelled_change_no_prompt() -> None:
    """Their places are known, and every prompt is what it was."""
    tokens = ["<|im_end|>", "<|eot_id|>", "</s>", "[INST]", "<|end|>"]
    messages = [{"role": "user", "content": " a</s> b<|im_end|>"}, ANSWER, {"role": "user", "content": "[INST]<|end|>"}]
    for name, source in llama_templates().items():
        prompt = ChatTemplate(source, bos_token="", eos_token="", control_tokens=tokens).prompt(messages, tools=[TOOL])
        plain = ChatTemplate(source, bos_token="", eos_token="").render(messages, tools=[TOOL])
        assert prompt.text == plain, name
        spelled = [prompt.text[start:end] for start, end in prompt.literals]
        assert spelled == ["</s>", "<|im_end|>", "[INST]", "<|end|>"], name


def test_what_a_template_shows_of_a_call_is_parsed_as_that_call() -> None:
    """A model writes what its template shows it: each family's markers are those of its templates."""
    arguments = {"city": 'Z "ü" \\ <b>{\nx', "days": 3}
    written = {**call(1, ""), "function": {"name": "get_weather", "arguments": json.dumps(arguments)}}
    for name, source in llama_templates().items():
        template = chat_template(source)
        messages: list[dict[str, Any]] = [USER, {"role": "assistant", "content": "", "tool_calls": [written]}]
        shown = template.render([*messages, result(1, "SUNNY")], tools=[TOOL])
        before = template.render([USER], tools=[TOOL], add_generation_prompt=False)
        answer = shown[len(commonprefix((shown, before))) :]  # noqa: RUF071  these are no paths
        parser = OutputParser(template.format, tools=Tools([TOOL]))
        calls = fold([*parser.feed(last_call(answer, template.format)), *parser.finish()]).parsed_calls
        assert calls[:1] == [("get_weather", arguments)], (name, answer)


def last_call(text: str, format: Format) -> str:
    """The text from what announces its call; from the first bracket where nothing does."""
    announcing = (" to=", "<|channel|>") if format.channels else tuple(format.starts)
    found = [text.index(start) for start in announcing if start in text]
    return text[min(found) if found else text.index("{") :]
