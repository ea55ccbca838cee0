"""A model that a thread downloads, while another begins to load it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from handler.models.arrival import Arrival, NotArrivingError
from handler.models.gguf import data_start

FIRST_LOOK = 1 << 16  # bytes; then twice as many, and so on: a vocabulary takes megabytes


class ArrivingModel:
    """Owns the thread and the `Arrival`, which is of the only file that the model has."""

    def __init__(self, fetch: Callable[[Arrival], Path]) -> None:
        """`fetch` downloads and checks the model, in a daemon thread, and returns its path or raises WorkerError."""
        self.arrival = Arrival()
        self._path: Future[Path] = Future()
        threading.Thread(target=self._run, args=(fetch,), name="download", daemon=True).start()

    def path(self) -> Path:
        """Where the model is. Waits until it is downloaded and checked; raises what `fetch` did."""
        return self._path.result()

    def head(self) -> bytes | None:
        """The file up to its tensors, when that has arrived. None where it does not arrive byte by byte, or is not what
        a GGUF file begins with: `path` says why."""
        try:
            num_looked_at = FIRST_LOOK
            while True:
                data = self.arrival.read(num_looked_at)
                if (start := data_start(data)) and start <= len(data):
                    return data[:start]
                if start is None or len(data) < num_looked_at:
                    return None
                num_looked_at = max(2 * num_looked_at, start)
        except NotArrivingError:
            return None

    def _run(self, fetch: Callable[[Arrival], Path]) -> None:
        try:
            self._path.set_result(fetch(self.arrival))
        except BaseException as error:
            self._path.set_exception(error)
        finally:
            self.arrival.finish()
