"""The request fields of Anthropic's Messages, and what becomes of them: a part of `parameters`'s table.

Such a request is translated to a chat's, so it may have chat's own fields too, save those that have another name here.
"""

from typing import Any

from handler.api.fields import Refused

# Translated. Chat's own fields come on top of these.
OBEYED: dict[str, frozenset[str]] = {
    "messages": frozenset(
        {
            *("system", "messages", "tools", "tool_choice", "stop_sequences", "thinking", "output_config"),
            *("output_format", "context_management"),
        }
    ),
}

_WHO = "who asks; nothing is kept"
HARMLESS: dict[str, dict[str, str]] = {
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

_TEXT: tuple[Any, ...] = ({"type": "text"},)
REFUSED: dict[str, dict[str, Refused]] = {
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
