"""OpenAI's response types, without the rest of its package.

`import openai` runs a client and types of thirty endpoints that a worker has not: 0.3 s of each cold start on a fast
machine, 1.1 s on a slow one. So the packages around the types are stood in for while these are imported. A later
`import openai` gets it whole, with these same types.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


@contextmanager
def _without_init(*names: str) -> Iterator[None]:
    """Import from packages without running their __init__.py. The first is not within another."""
    if names[0] in sys.modules:  # it has run
        yield
        return
    spec = find_spec(names[0])
    [folder] = spec.submodule_search_locations or [] if spec else []
    for name in names:
        package = ModuleType(name)
        package.__path__ = [str(Path(folder, *name.split(".")[1:]))]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


with _without_init("openai", "openai.types", "openai.types.chat"):
    from openai.types.chat.chat_completion import ChatCompletion
    from openai.types.chat.chat_completion import Choice as ChatChoice
    from openai.types.chat.chat_completion import ChoiceLogprobs as ChatLogprobs
    from openai.types.chat.chat_completion_chunk import (
        ChatCompletionChunk,
        ChoiceDelta,
        ChoiceDeltaFunctionCall,
        ChoiceDeltaToolCall,
        ChoiceDeltaToolCallFunction,
    )
    from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
    from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
    from openai.types.chat.chat_completion_message import ChatCompletionMessage
    from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
    from openai.types.completion import Completion
    from openai.types.completion_choice import CompletionChoice
    from openai.types.completion_choice import Logprobs as CompletionLogprobs
    from openai.types.completion_usage import CompletionTokensDetails, CompletionUsage, PromptTokensDetails
    from openai.types.model import Model

__all__ = [
    "ChatChoice",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionTokenLogprob",
    "ChatLogprobs",
    "ChoiceDelta",
    "ChoiceDeltaFunctionCall",
    "ChoiceDeltaToolCall",
    "ChoiceDeltaToolCallFunction",
    "ChunkChoice",
    "ChunkLogprobs",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "CompletionTokensDetails",
    "CompletionUsage",
    "Model",
    "PromptTokensDetails",
    "TopLogprob",
]
