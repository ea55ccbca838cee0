"""Who is signed in. A session is a random id in a cookie; here only its hash is known, with the id of a key.

Belongs to the event loop, lives in memory: a restart ends all of them. Whether the key is still valid is asked of
the authenticator at each request, so a revoked key ends its sessions.
"""

import hashlib
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from local_gateway.errors import RateLimitError

IDLE_SECONDS = 12 * 3600.0  # without a request
MAX_SECONDS = 7 * 86400.0  # of all of it
MAX_SESSIONS = 1000  # the oldest ends for one more
MAX_FAILURES = 10  # sign-ins that fail, in FAILURE_SECONDS, of all clients together
FAILURE_SECONDS = 60.0


@dataclass(slots=True)
class _Session:
    key_id: str
    began: float
    seen: float


class Sessions:
    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds, never set back."""
        self._clock = clock
        self._sessions: dict[str, _Session] = {}  # by hash, in the order of their beginnings
        self._failures: deque[float] = deque()

    def open(self, key_id: str) -> str:
        """The id of a new session; it is told this once, to its cookie."""
        now = self._clock()
        if len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session_id = secrets.token_urlsafe(32)
        self._sessions[_hash_of(session_id)] = _Session(key_id, now, now)
        return session_id

    def key_id(self, session_id: str) -> str | None:
        """Of a session that is open; that it was used is remembered."""
        session = self._sessions.get(digest := _hash_of(session_id))
        if session is None:
            return None
        now = self._clock()
        if now - session.seen > IDLE_SECONDS or now - session.began > MAX_SECONDS:
            del self._sessions[digest]
            return None
        session.seen = now
        return session.key_id

    def close(self, session_id: str) -> None:
        self._sessions.pop(_hash_of(session_id), None)

    # Guessing

    def check_rate(self) -> None:
        """Before a sign-in. Raises RateLimitError while too many have failed."""
        now = self._clock()
        while self._failures and now - self._failures[0] > FAILURE_SECONDS:
            self._failures.popleft()
        if len(self._failures) >= MAX_FAILURES:
            wait = FAILURE_SECONDS - (now - self._failures[0])
            raise RateLimitError("Too many sign-ins have failed. Try again in a minute.", retry_after=wait)

    def failed(self) -> None:
        """A sign-in with what is no key."""
        self._failures.append(self._clock())


def _hash_of(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
