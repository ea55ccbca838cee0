"""Whether a job was run again while its output was read: RunPod gives a job whose worker died to another worker."""

from collections.abc import Iterable
from typing import Literal

from local_gateway.wire.sse import Event

Verdict = Literal["same", "other", "unsure"]


class RerunDetector:
    """Compares the ids of chunks, which are equal within one run and new in the next. Knows one job's stream.

    It is unsure about a second chunk with another id than the first: some servers give every chunk its own.
    """

    def __init__(self) -> None:
        self._id = ""
        self._is_shared = False  # two chunks had this id
        self._is_off = False

    def look(self, events: Iterable[Event]) -> Verdict:
        """Whether the next events of the job are of the same run as those before."""
        verdict: Verdict = "same"
        for run_id in [] if self._is_off else filter(None, map(_id_of, events)):
            if run_id == self._id:
                self._is_shared = True
            elif self._id and verdict == "same":
                verdict = "other" if self._is_shared else "unsure"
            self._id = run_id
        return verdict

    def ignore_ids(self) -> None:
        """This server gives every chunk an id of its own."""
        self._is_off = True


def _id_of(event: Event) -> str:
    """Empty if it has none."""
    chunk = event.chunk
    run_id = chunk.get("id") if isinstance(chunk, dict) else None
    return run_id if isinstance(run_id, str) else ""
