"""What two of the workloads are about, from their clients' answers. Knows nothing of servers.

`turns`: how much sooner a conversation's second turn begins than its first, whose prompt was all new.
`long`: how the running chats' gaps were when no long prompt was on its way.
"""

from benchmarks.client import Answer


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def second_turn(answers: list[Answer], num_conversations: int) -> float:
    """The median time to the first text, of second turns over first. Answers come conversation by conversation."""
    num_turns = len(answers) // num_conversations
    first, second = ([answer.first for answer in answers[turn::num_turns] if answer.arrivals] for turn in (0, 1))
    return percentile(second, 0.5) / percentile(first, 0.5)


def quiet_gaps(answers: list[Answer]) -> list[float]:
    """Seconds between texts while all of these had begun and nothing of the window fell between the two."""
    all_began = max((answer.arrivals[0] for answer in answers if answer.arrivals), default=0.0)
    return [
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.arrivals, answer.arrivals[1:], strict=False)
        if earlier >= all_began and not _overlaps(earlier, later, answer.window)
    ]


def _overlaps(earlier: float, later: float, window: tuple[float, float]) -> bool:
    begin, end = window
    return earlier < end and later > begin
