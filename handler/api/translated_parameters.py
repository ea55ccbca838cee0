"""The request fields of OpenAI's Responses and Anthropic's Messages, and what becomes of them: a part of `parameters`'s
table.

Such a request is translated to a chat's, so it may have chat's own fields too, save those that have another name here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from handler.api.fields import Refused
from handler.errors import InvalidRequestError

# Translated. Chat's own fields come on top of these.
OBEYED: dict[str, frozenset[str]] = {
    "responses": frozenset(
        {
            *("instructions", "input", "tools", "tool_choice", "text", "reasoning", "max_output_tokens"),
            *("top_logprobs", "include"),
        }
    ),
    "messages": frozenset(
        {
            *("system", "messages", "tools", "tool_choice", "stop_sequences", "thinking", "output_config"),
            *("output_format", "context_management"),
        }
    ),
}

_WHO = "who asks; nothing is kept"
HARMLESS: dict[str, dict[str, str]] = {
    "responses": {
        "store": "nothing is stored here, and the answer says so",
        "truncation": "a prompt that is too long is refused",
        "max_tool_calls": "of tools that OpenAI's servers run; there are none",
        "image": "how images are counted",
        "access_programs": "of OpenAI's models",
        "background_options": "of answers in the background, which are refused",
        "personality": "a wish that this model was not trained for",
        "client_metadata": _WHO,
        "stream_options": "usage is always told",
    },
    "messages": {
        "metadata": _WHO,
        "user_profile_id": _WHO,
        "cache_control": "prefixes are reused by themselves",
        "inference_geo": "the worker is where it is",
        "betas": "names of features; each is judged by its own field",
        "speed": "there is one",
        "workspace_id": "there is one",
        "billing_policy": "nothing is billed here",
        "fallback_credit_token": "nothing is billed here",
        "fallbacks": "for requests that a policy declines; there is none",
        "diagnostics": "more in the answer, not another answer",
        "stream_options": "usage is always told",
    },
}

# What a chat calls a field that has another name here, for errors. The longest that fits counts.
RENAMED: dict[str, dict[str, str]] = {
    "responses": {
        "messages": "input",
        "max_completion_tokens": "max_output_tokens",
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "response_format.json_schema": "text.format",
    },
    "messages": {
        "stop": "stop_sequences",
        "reasoning_effort": "output_config.effort",
        "response_format": "output_config.format",
        "response_format.json_schema": "output_config.format",
        "reasoning_budget_tokens": "thinking.budget_tokens",
        "thinking_budget_tokens": "thinking.budget_tokens",
        "max_reasoning_tokens": "thinking.budget_tokens",
    },
}

_TEXT: tuple[Any, ...] = ({"type": "text"},)
_NOT_KEPT = "nothing is stored here: send all of the conversation with each request."
REFUSED: dict[str, dict[str, Refused]] = {
    "responses": {
        "previous_response_id": Refused(_NOT_KEPT),
        "conversation": Refused(_NOT_KEPT),
        "prompt": Refused("nothing is stored here: send what it says."),
        "background": Refused("nothing is stored here: wait for the answer, or stream it.", (False,)),
        "context_management": Refused("this worker summarizes no conversations.", ([],)),
        # Chat's own, which have another name here or no place in a response.
        "messages": Refused("use 'input'."),
        "n": Refused("a response is one answer.", (1,)),
        "max_tokens": Refused("use 'max_output_tokens'."),
        "max_completion_tokens": Refused("use 'max_output_tokens'."),
        "response_format": Refused("use 'text.format'.", _TEXT),
        "functions": Refused("use 'tools'.", ([],)),
        "function_call": Refused("use 'tool_choice'."),
        "reasoning_effort": Refused("use 'reasoning.effort'."),
        "logprobs": Refused("use 'top_logprobs'.", (False,)),
    },
    "messages": {
        "mcp_servers": Refused("this worker calls no servers; give their tools as tools.", ([],)),
        "thread": Refused("nothing is kept: send all messages with each request."),
        "compaction": Refused("this worker summarizes no conversations."),
        "container": Refused("this worker runs no code."),
        # Chat's own, which have another name here or no place in a message.
        "n": Refused("a message has one answer.", (1,)),
        "stop": Refused("use 'stop_sequences'.", ([],)),
        "response_format": Refused("use 'output_config.format'.", _TEXT),
        "functions": Refused("use 'tools'.", ([],)),
        "function_call": Refused("use 'tool_choice'."),
        "parallel_tool_calls": Refused("use 'tool_choice.disable_parallel_tool_use'.", (True,)),
        "reasoning_effort": Refused("use 'output_config.effort'."),
        "logprobs": Refused("a message has no place for them.", (False,)),
        "top_logprobs": Refused("a message has no place for them.", (0,)),
    },
}


@contextmanager
def renaming_errors(route: str) -> Iterator[None]:
    """Errors about a chat's field name the field that the client sent.

    Of a list the place is left out: the chat's list has other items than the client's.
    """
    try:
        yield
    except InvalidRequestError as error:
        param = _renamed(error.param or "", RENAMED[route])
        if param == (error.param or ""):
            raise
        message = str(error).replace(f"'{error.param}'", f"'{param}'")
        raise type(error)(message, param=param, code=error.code) from None


def _renamed(param: str, names: dict[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        rest = param.removeprefix(name)
        if param.startswith(name) and rest[:1] in ("", ".", "["):
            return names[name] if rest.startswith("[") else names[name] + rest
    return param
