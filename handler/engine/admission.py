"""How many sequences may be in the engine at once."""

import threading

from handler.errors import InvalidRequestError, QueueFullError

RESERVED_SHARE = 4  # one part in so many of the places is never one request's, so that others get in beside it


class Admission:
    """Counts the sequences that are admitted and not finished. Any thread.

    A full queue must be refused before anything is done for a request, so sequences are counted before they exist.
    """

    def __init__(self, max_sequences: int) -> None:
        self.num_sequences = 0
        self._max_sequences = max_sequences
        self._max_per_request = max(1, max_sequences - max_sequences // RESERVED_SHARE)
        self._lock = threading.Lock()

    def check(self, num_sequences: int) -> None:
        """Raises what `admit` would raise now, and reserves nothing."""
        with self._lock:
            self._check(num_sequences)

    def admit(self, num_sequences: int) -> None:
        """Reserve places for all of a request's sequences. Raises InvalidRequestError if there will never be so many
        for one request, QueueFullError if there are not now."""
        with self._lock:
            self._check(num_sequences)
            self.num_sequences += num_sequences

    def _check(self, num_sequences: int) -> None:
        most = self._max_sequences
        if num_sequences > self._max_per_request:
            raise InvalidRequestError(
                f"The request asks for {num_sequences} answers; this worker takes {self._max_per_request}."
            )
        if self.num_sequences + num_sequences > most:
            raise QueueFullError(
                f"The worker is busy: {self.num_sequences} sequences are running or waiting, and at most {most} "
                "may. Try again later."
            )

    def release(self, num_sequences: int) -> None:
        """Give places back."""
        with self._lock:
            self.num_sequences -= num_sequences
