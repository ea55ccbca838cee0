"""Wake a worker, or let another model go on answering? Ski rental by the prices of both. Pure: time comes in.

A start is paid once, and each answer of the other model costs what that takes, less what a worker that runs would have
been billed for it. Once this loss, with that of the next answer, is as much as a start, a worker is woken. So, whatever
comes, the cost is about twice that of the better choice at most (A. R. Karlin et al., Competitive snoopy caching,
Algorithmica 3, 1988). Losses are forgotten after WINDOW seconds: a worker would have stopped by then, and would have to
be started again.
"""

from collections import deque

from local_gateway.accounts.worker_runs import WorkerRuns

WINDOW = 300.0  # seconds
IDLE_TIMEOUT = 5.0  # seconds that a worker is billed after its last answer, by RunPod's default
NUM_RECENT = 20  # answers, of which the next one is expected to be one


class DivertedAnswers:
    """What another model has answered lately because no worker ran. Lives in the event loop."""

    def __init__(self) -> None:
        self._costs: deque[tuple[float, float]] = deque()  # (end, cost), in the order of the ends
        self._total = 0.0  # of these costs
        self._busy: deque[tuple[float, float]] = deque()  # when a worker would have run, without overlaps
        self._recent: deque[tuple[float, float]] = deque(maxlen=NUM_RECENT)  # (seconds, cost), however long ago

    def note(self, began: float, ended: float, cost: float) -> None:
        """An answer that ends now; times in seconds."""
        self._recent.append((ended - began, cost))
        self._costs.append((ended, cost))
        self._total += cost
        until = ended + IDLE_TIMEOUT
        while self._busy and self._busy[-1][1] >= began:
            began = min(began, self._busy[-1][0])
            until = max(until, self._busy[-1][1])
            self._busy.pop()
        self._busy.append((began, until))

    def loss(self, now: float, price: float) -> float:
        """What they cost within the window, beyond a worker at `price` per second."""
        start = now - WINDOW
        while self._costs and self._costs[0][0] < start:
            self._total -= self._costs.popleft()[1]
        while self._busy and self._busy[0][1] < start:
            self._busy.popleft()
        return self._total - price * sum(min(until, now) - max(began, start) for began, until in self._busy)

    def next_loss(self, price: float) -> float:
        """What the next answer is expected to cost beyond a worker that works for it alone."""
        if not self._recent:
            return 0.0
        losses = [cost - price * (seconds + IDLE_TIMEOUT) for seconds, cost in self._recent]
        return max(0.0, sum(losses) / len(losses))

    def clear(self) -> None:
        """A worker is woken: the loss is nothing again."""
        self._costs.clear()
        self._busy.clear()
        self._total = 0.0


def is_waking_cheaper(answers: DivertedAnswers, runs: WorkerRuns, now: float) -> bool:
    """Whether their loss, the next one's with it, is as much as a start of one of the endpoint's workers."""
    return answers.loss(now, runs.price) + answers.next_loss(runs.price) >= runs.price * runs.start_seconds
