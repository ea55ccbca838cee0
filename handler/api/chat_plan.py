"""From a chat's request to a prompt, the engine's parameters, and the form of the answer."""

import json
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

from handler.api.media_parts import MediaText, TakenMedia
from handler.api.messages import modernise
from handler.api.protocol import ChatCompletionRequest
from handler.api.sampling import sampling_params
from handler.api.tool_request import ToolRequest
from handler.api.turn import AnswerForm, ReasoningStyle
from handler.chat.call_grammar import GrammarTool, call_grammar, preface
from handler.chat.formats.format import TOKENS, Format
from handler.chat.reasoning import ReasoningState, thinking_variables
from handler.chat.template import ChatTemplate
from handler.chat.tools import Tools
from handler.engine.answer_parts import PartMarkers
from handler.engine.constraint import Constraint
from handler.engine.prompt import MixedText
from handler.engine.sampling_params import SamplingParams
from handler.engine.structured.json_schema import prepare
from handler.engine.vocabulary import Vocabulary
from handler.errors import InvalidRequestError, SchemaError


class ChatPlan(NamedTuple):
    """All that a chat's answer depends on."""

    prompt: MixedText | MediaText
    params: SamplingParams
    form: AnswerForm


def plan_chat(
    request: ChatCompletionRequest, template: ChatTemplate, vocabulary: Vocabulary, style: ReasoningStyle
) -> ChatPlan:
    """Render the conversation, and decide what constrains the answer. Takes milliseconds, with many tools tens of them.

    Raises InvalidRequestError, of which are TemplateError and SchemaError.
    """
    tools = request.tool_request
    template = template.for_tools(bool(tools.tools))
    format = template.format
    add_generation_prompt = request.add_generation_prompt
    taken = TakenMedia(request.messages)
    prompt = template.prompt(
        modernise(taken.messages),
        tools=list(tools.tools) or None,
        continue_final_message=request.continues_final_message,
        add_generation_prompt=True if add_generation_prompt is None else add_generation_prompt,
        **thinking_variables(
            request.reasoning_effort, request.chat_template_kwargs, has_three_levels=format.name == "harmony"
        ),
    )
    tokens = {text: token_id for text in format.possible_tokens if (token_id := vocabulary.special_token(text))}
    params = replace(
        sampling_params(request),
        constraint=_constraint(request, format, _grammar_state(prompt.starts_in, format, tokens), tokens),
        shown_tokens=tuple(tokens),
        parts=_parts(request, format, prompt.starts_in),
    )
    if tools.is_required:
        params = replace(params, stop=())  # there is no content that they could stand in
    if tools.tools and tools.choice == "none":
        banned = tuple((tokens[marker], -inf) for marker in format.starts if marker in tokens)
        params = replace(params, logit_bias=params.logit_bias + banned)
    form = AnswerForm(
        format,
        prompt.starts_in,
        Tools(tools.tools),
        frozenset(tokens),
        has_calls=tools.choice != "none",
        reasoning=_style(request, style),
        is_free=request.wanted is None,
    )
    return ChatPlan(taken.find(MixedText(prompt.text, prompt.literals)), params, form)


def _style(request: ChatCompletionRequest, style: ReasoningStyle) -> ReasoningStyle:
    if not request.include_reasoning:
        return "hide"
    match request.reasoning_format:
        case "auto":
            return style
        case "none":
            return "keep"
        case _:
            return "split"


def _parts(request: ChatCompletionRequest, format: Format, starts_in: ReasoningState) -> PartMarkers:
    budget = request.max_reasoning_tokens
    may_reason = starts_in is not ReasoningState.CLOSED
    return PartMarkers(
        reasoning_opens=format.reasoning.opens if may_reason else "",
        reasoning_closes=format.reasoning.closes,
        starts_in_reasoning=starts_in is ReasoningState.OPEN,
        calls=tuple(format.starts) if request.tool_request.choice != "none" else (),
        call_ends_reasoning=format.call_ends_reasoning,
        max_reasoning_tokens=None if budget == -1 else budget,
        reasoning_end=request.reasoning_budget_message + format.reasoning.closes,
    )


def _grammar_state(starts_in: ReasoningState, format: Format, tokens: dict[str, int]) -> ReasoningState:
    """Where a constrained answer begins. A model without a token for it does not open reasoning by itself."""
    can_open = any(token in tokens for token in TOKENS.findall(format.reasoning.opens))
    return ReasoningState.CLOSED if starts_in is ReasoningState.UNDECIDED and not can_open else starts_in


def _constraint(
    request: ChatCompletionRequest, format: Format, state: ReasoningState, tokens: dict[str, int]
) -> Constraint | None:
    """What the answer must consist of: its calls, an answer in a certain form, or either."""
    wanted, tools = request.wanted, request.tool_request
    if wanted is not None and tools.choice == "auto" and wanted.constraint.kind != "schema":
        message = f"'{wanted.param}' would forbid the calls of 'tools': send \"tool_choice\": \"none\" with it"
        raise InvalidRequestError(message, param=wanted.param)
    if tools.is_required:
        return _calls(tools, None, format, state, tokens)
    if wanted is not None and tools.choice == "auto":
        return _calls(tools, replace(wanted.constraint, param=wanted.param), format, state, tokens)
    if wanted is not None:
        before = preface(format, starts_in=state)
        return replace(wanted.constraint, preface=before.define(tokens.get) if before else "")
    return _calls(tools, None, format, state, tokens) if tools.needs_grammar else None


def _calls(
    tools: ToolRequest, response: Constraint | None, format: Format, state: ReasoningState, tokens: dict[str, int]
) -> Constraint:
    """A grammar of calls. `response` is the schema of an answer that may come instead."""
    kind = "functions" if tools.is_old else "tools"
    places = {tool["function"]["name"]: f"{kind}[{i}]" for i, tool in enumerate(tools.tools)}
    infix = "" if tools.is_old else ".function"
    parts = [
        _schema(tool.parameters, strict=tool.is_strict, param=f"{places[tool.name]}{infix}.parameters")
        for tool in tools.grammar_tools()
    ]
    grammar = call_grammar(
        format,
        [
            GrammarTool(tool.name, json.loads(part.text), tool.is_strict)
            for tool, part in zip(tools.grammar_tools(), parts, strict=True)
        ],
        starts_in=state,
        is_required=tools.is_required or response is not None,
        is_parallel=tools.is_parallel,
        response_schema=json.loads(_prepared(response)) if response else None,
        response_is_strict=response is not None and response.strict,
    )
    return Constraint("lark", grammar.define(tokens.get), parts=(*parts, *([response] if response else [])))


def _schema(schema: Any, *, strict: bool, param: str) -> Constraint:
    part = Constraint("schema", json.dumps({"type": "object", **schema}, ensure_ascii=False), strict, param=param)
    return replace(part, text=_prepared(part))


def _prepared(part: Constraint) -> str:
    try:
        return prepare(part.text, strict=part.strict)
    except SchemaError as error:
        raise error.at(part.param) from None
