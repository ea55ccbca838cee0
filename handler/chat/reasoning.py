"""Whether a rendered prompt has opened the model's reasoning."""

from enum import Enum
from os.path import commonprefix

from handler.chat.formats.format import Pair


class ReasoningState(Enum):
    """Where an answer begins. By the prompt, not by the model: the same model has all three, request by request."""

    OPEN = "open"  # within reasoning
    CLOSED = "closed"  # behind it
    UNDECIDED = "undecided"  # the model may open it


def reasoning_state(prompt: str, without_generation_prompt: str, pair: Pair) -> ReasoningState:
    """Reads the generation prompt: what `add_generation_prompt` added to the conversation."""
    added = prompt[len(commonprefix((prompt, without_generation_prompt))) :]  # noqa: RUF071  these are no paths
    opened, closed = added.rfind(pair.opens.strip()), added.rfind(pair.closes.strip())
    if opened > closed:
        return ReasoningState.OPEN
    return ReasoningState.CLOSED if closed >= 0 else ReasoningState.UNDECIDED
