"""Takes secrets out of all that leaves the gateway: log lines, errors, headers and bodies.

Secrets are found by their values, and in the gateway's own texts also by their looks.
"""

import json
import re
from collections.abc import Iterable

import orjson

MIN_SECRET = 8  # characters; shorter ones, like "none" for a server that asks for a key, are found in every text
HIDDEN = "[redacted]"
# Of what looks like a key only the beginning stays. There is no quote in these sets, so a line of JSON stays one.
LOOKS = r"(?i:\b(bearer\s+))[\w.~+/=-]+|\b(sk-|lg-|rpa_)[\w-]{8,}"
MARKS = ("bearer", "sk-", "lg-", "rpa_")  # without one of them nothing looks like that; much faster than the pattern


class Redactor:
    """Takes secrets out of texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Further ones, as after a reload. Those of before stay secret."""
        self._secrets.update(secret for secret in secrets if len(secret) >= MIN_SECRET)
        forms = {form for secret in self._secrets for form in (secret, *_escaped(secret))}
        self._forms = tuple(forms)
        by_length = sorted(forms, key=len, reverse=True)  # or of two that begin alike the longer's end would stay
        self._pattern = re.compile("|".join([*map(re.escape, by_length), LOOKS]))
        self._byte_forms = tuple(form.encode("utf-8", "surrogatepass") for form in by_length)

    def __call__(self, text: str) -> str:
        return self._pattern.sub(_hide, text) if self._may_hold_secret(text) else text

    def _may_hold_secret(self, text: str) -> bool:
        lower = text.lower()
        return any(mark in lower for mark in MARKS) or any(form in text for form in self._forms)

    def hide_in(self, data: bytes) -> bytes:
        """The same for what a target sent, by the values alone: a text may look like a key and be none."""
        for form in self._byte_forms:
            if form in data:
                data = data.replace(form, HIDDEN.encode())
        return data

    def num_held(self, data: bytes) -> int:
        """How many bytes at the end of a piece may be the beginning of a secret, whose rest comes with the next one."""
        longest = max(map(len, self._byte_forms), default=0)
        for start in range(max(0, len(data) - longest + 1), len(data)):
            if any(form.startswith(data[start:]) for form in self._byte_forms):
                return len(data) - start
        return 0


def _escaped(secret: str) -> tuple[str, str]:
    """As it stands in JSON, of each of our two writers."""
    return orjson.dumps(secret).decode()[1:-1], json.dumps(secret)[1:-1]


def _hide(match: re.Match[str]) -> str:
    return (match[1] or match[2] or "") + HIDDEN
