"""How long a sequence's next draft should be, by what became of its last ones. Pure code.

Drafted tokens cost time whether they are accepted or not. So the length doubles when all of a draft was accepted, else
it becomes what was accepted and one more. When nothing was accepted it halves, and from 1 the sequence pauses: for a
few steps first, then for longer, until a draft is accepted again.
"""

START = 2  # tokens
MIN_PAUSE, MAX_PAUSE = 2, 32  # steps


class DraftLength:
    """One sequence's draft length; `next` is called once a step."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = min(START, max_tokens)
        self._pause = MIN_PAUSE
        self._num_paused = 0  # steps still to come without a draft

    def next(self) -> int:
        """Tokens that the draft of this step may have at most."""
        if self._num_paused:
            self._num_paused -= 1
            return 0
        return self._num_tokens

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Note how much of a draft of at least one token was accepted."""
        if num_accepted:
            self._pause = MIN_PAUSE
            wanted = 2 * num_drafted if num_accepted == num_drafted else num_accepted + 1
            self._num_tokens = min(self._max_tokens, wanted)
        elif self._num_tokens > 1:
            self._num_tokens //= 2
        else:
            self._num_paused, self._pause = self._pause, min(MAX_PAUSE, 2 * self._pause)
