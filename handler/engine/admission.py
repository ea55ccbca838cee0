"""How many sequences may be in the engine at once."""

import threading

from handler.errors import InvalidRequestError, QueueFullError


class Admission:
    """Counts the sequences that are admitted and not finished. Any thread.

    A full queue must be refused before anything is done for a request, so sequences are counted before they exist.
    """

    def __init__(self, max_sequences: int) -> None:
        self.num_sequences = 0
        self._max_sequences = max_sequences
        self._lock = threading.Lock()

    def admit(self, num_sequences: int) -> None:
        """Reserve places for all of a request's sequences. Raises InvalidRequestError if there will never be so many,
        QueueFullError if there are not now."""
        most = self._max_sequences
        if num_sequences > most:
            raise InvalidRequestError(f"The request asks for {num_sequences} answers; this worker takes {most}.")
        with self._lock:
            if self.num_sequences + num_sequences > most:
                raise QueueFullError(
                    f"The worker is busy: {self.num_sequences} sequences are running or waiting, and at most {most} "
                    "may. Try again later."
                )
            self.num_sequences += num_sequences

    def release(self, num_sequences: int) -> None:
        """Give places back."""
        with self._lock:
            self.num_sequences -= num_sequences
