"""API keys: what one is, how a new one is made, and the ring in memory that requests are checked against."""

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Period = Literal["day", "month"]

ENVIRONMENT_KEY = "environment"  # the id of the one that GATEWAY_ADMIN_KEY holds
SECRET_PREFIX = "lg-"  # noqa: S105 - by this a person and a scanner know what it is
NUM_SHOWN = 8  # characters of a secret that are kept, to tell keys apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a key may do. It does not hold the secret, only its hash. None: no such limit."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    name: str
    prefix: str  # the secret's first characters
    hash: str = field(repr=False)  # SHA-256 of the secret, in hex
    models: tuple[str, ...] = ()  # names, or beginnings that end in "*"; empty: all
    max_rpm: int | None = None  # requests per minute
    max_tpm: int | None = None  # tokens per minute, of prompts and completions
    max_concurrency: int | None = None  # requests at once
    budget: float | None = None  # in the currency of the prices, per period
    period: Period = "month"  # in UTC
    created: float  # seconds since 1970
    expires: float | None = None  # seconds since 1970
    is_admin: bool = False  # may see all requests, and make and revoke keys
    is_disabled: bool = False

    def is_valid(self, now: float) -> bool:
        return not self.is_disabled and (self.expires is None or now < self.expires)

    def may_use(self, model: str) -> bool:
        return not self.models or any(_matches(pattern, model) for pattern in self.models)


class Keyring:
    """All keys, those that are not valid included. Immutable; nothing is read here."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = {key.hash: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def get(self, key_id: str) -> Key | None:
        """The key with this id, valid or not."""
        return next((key for key in self if key.id == key_id), None)

    def find(self, secret: bytes) -> Key | None:
        """The key with this secret, valid or not."""
        digest = hash_of(secret)
        key = self._keys.get(digest)  # by a hash whose bits cannot be chosen: its timing tells nothing
        return key if key and hmac.compare_digest(key.hash, digest) else None


def new_key(
    name: str,
    *,
    created: float,
    models: tuple[str, ...] = (),
    max_rpm: int | None = None,
    max_tpm: int | None = None,
    max_concurrency: int | None = None,
    budget: float | None = None,
    period: Period = "month",
    expires: float | None = None,
    is_admin: bool = False,
) -> tuple[str, Key]:
    """The secret, which is shown once and kept nowhere, and its key."""
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    key = Key(
        name=name,
        prefix=secret[:NUM_SHOWN],
        hash=hash_of(secret.encode()),
        models=models,
        max_rpm=max_rpm,
        max_tpm=max_tpm,
        max_concurrency=max_concurrency,
        budget=budget,
        period=period,
        created=created,
        expires=expires,
        is_admin=is_admin,
    )
    return secret, key


def environment_key(secret: str) -> Key:
    """An administrator's key whose secret the operator chose: it is in no database, and nothing of it is shown."""
    digest = hash_of(secret.encode())
    return Key(id=ENVIRONMENT_KEY, name="admin", prefix="", hash=digest, created=0.0, is_admin=True)


def hash_of(secret: bytes) -> str:
    """A secret has 256 random bits, so nothing slower than SHA-256 is needed."""
    return hashlib.sha256(secret).hexdigest()


def _matches(pattern: str, model: str) -> bool:
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern
