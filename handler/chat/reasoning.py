"""A model's reasoning: whether a rendered prompt has opened it, and how a request asks for it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from handler.chat.formats.format import Pair
from handler.errors import InvalidRequestError

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_THREE_LEVELS = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}  # gpt-oss knows low, medium, high


class ReasoningState(Enum):
    """Where an answer begins. By the prompt, not by the model: the same model has all three, request by request."""

    OPEN = "open"  # within reasoning
    CLOSED = "closed"  # behind it
    UNDECIDED = "undecided"  # the model may open it


def reasoning_state(prompt: str, pair: Pair) -> ReasoningState:
    """Reads the end of a prompt that ends in a generation prompt, where only the template writes."""
    end = prompt.rstrip()
    if end.endswith(pair.closes.strip()):
        return ReasoningState.CLOSED
    return ReasoningState.OPEN if end.endswith(pair.opens.strip()) else ReasoningState.UNDECIDED


def thinking_variables(effort: str | None, variables: Mapping[str, Any], *, has_three_levels: bool) -> dict[str, Any]:
    """A template's variables for a request's `reasoning_effort`; those that the request sets itself win.

    Templates call their switch `enable_thinking` or `thinking`. Raises InvalidRequestError for an effort that is none,
    and for a switch that is text: "false" is true in a template.
    """
    for name in ("enable_thinking", "thinking"):
        if isinstance(variables.get(name), str):
            param = f"chat_template_kwargs.{name}"
            raise InvalidRequestError(f"'{param}' must be true or false, not a text", param=param)
    if effort is None:
        return dict(variables)
    if effort not in EFFORTS:
        raise InvalidRequestError(f"'reasoning_effort' must be one of {', '.join(EFFORTS)}", param="reasoning_effort")
    level = _THREE_LEVELS.get(effort, effort) if has_three_levels else effort
    thinks = effort != "none"
    return {"reasoning_effort": level, "enable_thinking": thinks, "thinking": thinks, **variables}
