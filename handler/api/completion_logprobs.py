"""Logprobs as completions have them: OpenAI's of answers and echoed prompts, and vLLM's of prompts."""

import codecs
from itertools import accumulate

from handler.api.common import token_logprob, token_text
from handler.api.openai_types import CompletionLogprobs
from handler.engine.logprobs import ScoredPrompt, TokenLogprob
from handler.engine.sequence import SequenceOutput

PromptLogprobs = dict[str, dict[str, float | int | str]]  # by token id


class Logprobs(CompletionLogprobs):
    """The first token of a prompt has none; OpenAI's own type does not say so."""

    token_logprobs: list[float | None] | None = None  # type: ignore[assignment]  # widened on purpose
    top_logprobs: list[dict[str, float] | None] | None = None  # type: ignore[assignment]  # as above


def answer_logprobs(output: SequenceOutput, start: int) -> Logprobs:
    """Of an answer's tokens, the text of which begins at this character."""
    return Logprobs(
        tokens=[token_text(entry) for entry in output.logprobs],
        token_logprobs=[token_logprob(entry) for entry in output.logprobs],
        top_logprobs=[_top(entry.top) for entry in output.logprobs],
        text_offset=[start + offset for offset in output.logprob_offsets],
    )


def echoed_logprobs(prompt: ScoredPrompt, text: str, num_top: int) -> Logprobs:
    """Of a prompt's tokens. Where these say more than the text, as models do that begin it with a blank, it is the
    beginning that is not in the text."""
    pieces = [prompt.piece, *(entry.piece for entry in prompt.others)]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    ends = list(accumulate(len(decoder.decode(piece)) for piece in pieces))
    excess = ends[-1] + len(decoder.decode(b"", final=True)) - len(text)
    return Logprobs(
        tokens=[piece.decode("utf-8", "replace") for piece in pieces],
        token_logprobs=[None, *map(token_logprob, prompt.others)],
        top_logprobs=[None, *(_top(entry.top[:num_top]) for entry in prompt.others)],
        text_offset=[max(0, end - excess) for end in [0, *ends[:-1]]],
    )


def joined(parts: list[Logprobs]) -> Logprobs:
    """One after the other."""
    names = Logprobs.model_fields
    return Logprobs(**{name: [item for part in parts for item in getattr(part, name)] for name in names})


def _top(entries: tuple[TokenLogprob, ...]) -> dict[str, float]:
    """Of tokens with the same text, as parts of characters have, the likeliest."""
    likeliest: dict[str, float] = {}
    for top in entries:
        likeliest.setdefault(token_text(top), token_logprob(top))
    return likeliest


def prompt_logprobs(prompt: ScoredPrompt, num_top: int) -> list[PromptLogprobs | None]:
    """As vLLM has them: of each token but the first, the likeliest and itself."""

    def described(entry: TokenLogprob, rank: int | None) -> dict[str, float | int | str]:
        ranked = {} if rank is None else {"rank": rank}
        return {"logprob": token_logprob(entry), **ranked, "decoded_token": token_text(entry)}

    return [
        None,
        *(
            {str(entry.token_id): described(entry, entry.rank)}
            | {str(top.token_id): described(top, rank) for rank, top in enumerate(entry.top[:num_top], start=1)}
            for entry in prompt.others
        ),
    ]
