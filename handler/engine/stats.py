"""What the engine has done and holds."""

from typing import NamedTuple

from handler.engine.sequence import SequenceUsage


class Stats(NamedTuple):
    """A snapshot between two steps; counters count from the start. Immutable, so any thread may read it."""

    num_running: int = 0
    num_waiting: int = 0
    num_cached_slots: int = 0
    num_used_cells: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    num_finished: int = 0  # finished, failed or aborted
    num_aborted: int = 0  # of these
    num_preemptions: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0  # of these

    def with_finished(self, usage: SequenceUsage) -> "Stats":
        return self._replace(
            num_finished=self.num_finished + 1,
            num_prompt_tokens=self.num_prompt_tokens + usage.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens + usage.num_cached_tokens,
            num_completion_tokens=self.num_completion_tokens + usage.num_completion_tokens,
        )
