"""Whether a job's output has begun anew: RunPod gives a job whose worker died to another one."""

from typing import Literal

import orjson

from local_gateway.wire import sse

NUM_EVENTS = 2  # looked at in each output: it comes from one run as a whole


Verdict = Literal["same", "other", "unsure"]


class RerunDetector:
    """Watches the ids of the chunks, which are equal within one run and new in the next. Knows one job's stream.

    It is unsure about a second chunk with another id than the first: some servers give every chunk its own.
    """

    def __init__(self) -> None:
        self._id = ""
        self._is_shared = False  # two chunks had this id
        self._is_off = False

    def look(self, output: object) -> Verdict:
        """Whether an output, the next of the job, is of the same run as those before."""
        verdict: Verdict = "same"
        for run_id in [] if self._is_off else _ids_in(output):
            if run_id == self._id:
                self._is_shared = True
            elif self._id and verdict == "same":
                verdict = "other" if self._is_shared else "unsure"
            self._id = run_id
        return verdict

    def ignore_ids(self) -> None:
        """They mean nothing on this server."""
        self._is_off = True


def _ids_in(output: object) -> list[str]:
    if not isinstance(output, str) or not output.startswith("data:"):
        return []  # a part of a large event, for example
    beginnings = output.split("\n\n", NUM_EVENTS)[:NUM_EVENTS]
    return [run_id for beginning in beginnings if (run_id := _id_of(beginning.encode()))]


def _id_of(event: bytes) -> str:
    """Empty if it has none."""
    try:
        chunk = orjson.loads(sse.data_of(event) or b"")
    except orjson.JSONDecodeError:
        return ""
    run_id = chunk.get("id") if isinstance(chunk, dict) else None
    return run_id if isinstance(run_id, str) else ""
