"""Authentication: one way from a request's headers to a principal, for all headers that clients put keys in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from local_gateway.accounts.keys import Key, Keyring
from local_gateway.errors import AuthenticationError, UnavailableError

KEY_HEADERS = (b"x-api-key", b"api-key")
REFUSAL = "Incorrect API key provided. Send a key of this gateway as 'Authorization: Bearer KEY'."
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who pays for a request, and what it may use."""

    id: str  # the key's; empty: the gateway has no keys
    name: str
    key: Key | None = None  # None: no limits

    @property
    def is_admin(self) -> bool:
        """May see all requests, and make and revoke keys. Without any key, this machine's own client may."""
        return self.key is None or self.key.is_admin

    def may_use(self, model: str) -> bool:
        """`model` as the client names it."""
        return self.key is None or self.key.may_use(model)


ANONYMOUS = Principal("", "local")


class Authenticator:
    """Turns the headers of a request into its principal, by the keys of this moment.

    Owns the keyring, which the database's reader replaces by `update`. Lives in the event loop; reads nothing itself.
    Raises AuthenticationError, and UnavailableError while the keys are not known.
    """

    def __init__(self, *, require_keys: bool, clock: Callable[[], float], own_keys: tuple[Key, ...] = ()) -> None:
        """`clock` gives seconds since 1970; `own_keys` are valid beside those of the database."""
        self.require_keys = require_keys
        self._clock = clock
        self._own_keys = own_keys
        self._keyring: Keyring | None = None
        self._has_had_keys = bool(own_keys)

    @property
    def is_ready(self) -> bool:
        """The keys are known."""
        return self._keyring is not None

    @property
    def needs_key(self) -> bool:
        """Once there was a key, an empty table is a loss and no permission."""
        return self.require_keys or self._has_had_keys

    def update(self, keyring: Keyring) -> None:
        self._keyring = Keyring([*keyring, *self._own_keys])
        self._has_had_keys = self._has_had_keys or len(keyring) > 0

    def authenticate(self, headers: Headers) -> Principal:
        """Raises AuthenticationError, the same for whatever is wrong; UnavailableError while the keys are unknown."""
        if self._keyring is None:
            raise UnavailableError("The gateway cannot read its keys yet.", code="loading", retry_after=1.0)
        if not self.needs_key:
            return ANONYMOUS
        return self._principal(self._keyring.find(_credential(headers)))

    def authenticate_session(self, key_id: str) -> Principal:
        """A principal who showed the key before. Raises AuthenticationError when it is revoked or expired meanwhile."""
        return self._principal(self._keyring.get(key_id) if self._keyring else None)

    def _principal(self, key: Key | None) -> Principal:
        if key is None or not key.is_valid(self._clock()):
            raise AuthenticationError(REFUSAL)
        return Principal(key.id, key.name, key)


def _credential(headers: Headers) -> bytes:
    """The one secret among the headers. Raises AuthenticationError if there is none, or several that differ."""
    found = {_secret(name.lower(), value) for name, value in headers if _is_credential(name.lower())}
    if len(found) != 1 or found == {b""}:
        raise AuthenticationError(REFUSAL)
    return found.pop()


def _is_credential(name: bytes) -> bool:
    return name == b"authorization" or name in KEY_HEADERS


def _secret(name: bytes, value: bytes) -> bytes:
    """Empty if the header is there without one."""
    if name in KEY_HEADERS:
        return value.strip()
    scheme, _, secret = value.strip().partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else b""
