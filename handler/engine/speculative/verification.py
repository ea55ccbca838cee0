"""How much of each draft is accepted: tokens are drawn one after the other as long as they are those of the draft.

Each token is drawn by the sequence's own sampler from the logits at its true prefix, so the text is the one that would
come without drafts. (Leviathan et al., https://arxiv.org/abs/2211.17192, accept a draft's token with a probability, by
the draft model's distribution; that is the same distribution of texts, and more tokens where the temperature is high,
but other texts with equal seeds.) Pure code.
"""

from collections.abc import Callable
from itertools import accumulate

from handler.engine.sequence import SampledToken

Draw = Callable[[list[int], list[int]], list[SampledToken]]


def verify(drafts: list[list[int]], draw: Draw) -> list[list[SampledToken]]:
    """For each draft its accepted tokens, and the one that was drawn after them: 1 to length + 1 tokens.

    There is a row of logits for the token before each draft and for each of its tokens, in this order. `draw` gets the
    indices of some drafts, ascending, and the number of a row for each, and returns a token for each.
    """
    if not any(drafts):
        every = list(range(len(drafts)))
        return [[token] for token in draw(every, every)] if drafts else []
    starts = list(accumulate((len(draft) + 1 for draft in drafts), initial=0))
    drawn: list[list[SampledToken]] = [[] for _ in drafts]
    agreeing = list(range(len(drafts)))
    place = 0
    while agreeing:
        tokens = draw(agreeing, [starts[index] + place for index in agreeing])
        for index, token in zip(agreeing, tokens, strict=True):
            drawn[index].append(token)
        agreeing = [index for index in agreeing if drafts[index] and _agrees(drafts[index], drawn[index])]
        place += 1
    return drawn


def _agrees(draft: list[int], drawn: list[SampledToken]) -> bool:
    """Whether the latest token is the draft's, so that the next row is at a true prefix."""
    place = len(drawn) - 1
    return place < len(draft) and drawn[place].token_id == draft[place]
