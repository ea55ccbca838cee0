"""How the tokens of a step are divided among prompts. Pure code."""

from handler.engine.prompt_scores import MAX_SCORED_TOKENS
from handler.engine.sequence import Sequence


def prefill_shares(sequences: list[Sequence], left: int) -> dict[Sequence, int]:
    """How many of these tokens each sequence that prefills gets; the oldest sequence is the first.

    Half of them go to the oldest, the rest to those with the least to compute: a short prompt does not wait for a long
    one to end, nor a long one for ever.
    """
    shares = dict.fromkeys(sequences, 0)
    num_rows_left = MAX_SCORED_TOKENS
    turns = [(sequence, (left + 1) // 2) for sequence in sequences[:1]]
    turns += [(sequence, left) for sequence in sorted(sequences, key=lambda sequence: sequence.num_pending_tokens)]
    for sequence, most in turns:
        num_tokens = min(sequence.num_due_tokens - shares[sequence], most, left)
        if sequence.prompt_scores is not None:
            start = sequence.num_computed_tokens + shares[sequence]
            num_tokens = sequence.prompt_scores.limited(start, num_tokens, num_rows_left)
            num_rows_left -= len(sequence.prompt_scores.wanted(start, num_tokens))
        shares[sequence] += num_tokens
        left -= num_tokens
    return shares
