"""Who sends a request."""

from dataclasses import replace

import pytest

from local_gateway.accounts.auth import ANONYMOUS, Authenticator
from local_gateway.accounts.keys import Keyring, environment_key, new_key
from local_gateway.errors import AuthenticationError, UnavailableError, to_response

NOW = 1_000_000.0
SECRET, KEY = new_key("bob", created=0.0, models=("llama", "gpt-*"))
TOKEN = SECRET.encode()
Headers = list[tuple[bytes, bytes]]


def authenticator(*, require_keys: bool = False, keyring: Keyring | None = None) -> Authenticator:
    auth = Authenticator(require_keys=require_keys, clock=lambda: NOW)
    auth.update(Keyring([KEY]) if keyring is None else keyring)
    return auth


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + TOKEN)],
        [(b"Authorization", b"bearer   " + TOKEN + b" ")],
        [(b"x-api-key", TOKEN)],
        [(b"api-key", TOKEN)],
        [(b"authorization", b"Bearer " + TOKEN), (b"x-api-key", TOKEN), (b"host", b"x")],
    ],
)
def test_a_key_in_any_of_its_headers(headers: Headers) -> None:
    """All headers that clients use lead to the same principal."""
    principal = authenticator().authenticate(headers)

    assert (principal.id, principal.name, principal.key) == (KEY.id, "bob", KEY)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", TOKEN)],
        [(b"authorization", b"Basic " + TOKEN)],
        [(b"authorization", b"Bearer " + TOKEN[:-1])],
        [(b"authorization", b"Bearer " + TOKEN + b"x")],
        [(b"authorization", b"Bearer " + KEY.hash.encode())],
        [(b"authorization", b"Bearer \xff\x00\xfe")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"Bearer " + TOKEN)],
        [(b"cookie", TOKEN), (b"proxy-authorization", b"Bearer " + TOKEN)],
        [(b"authorization", b"Bearer " + TOKEN), (b"x-api-key", b"lg-another")],
        [(b"authorization", b"Bearer lg-another"), (b"api-key", TOKEN)],
        [(b"authorization", b"Bearer " + TOKEN), (b"authorization", b"Bearer lg-another")],
        [(b"authorization", b"Basic eDp5"), (b"x-api-key", TOKEN)],
        [(b"authorization", b"Bearer " + TOKEN), (b"x-api-key", b"")],
    ],
)
def test_whatever_is_wrong_the_answer_is_the_same(headers: Headers) -> None:
    """None, unknown, or contradictory: the answer does not tell how near it was."""
    with pytest.raises(AuthenticationError) as caught:
        authenticator().authenticate(headers)

    response = to_response(caught.value)
    assert (response.status, response.body["error"]["code"]) == (401, "invalid_api_key")
    assert str(caught.value).startswith("Incorrect API key provided.")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("expires", "is_disabled", "is_accepted"),
    [(None, False, True), (NOW + 1, False, True), (NOW, False, False), (NOW - 1, False, False), (None, True, False)],
)
def test_expired_and_revoked_keys(*, expires: float | None, is_disabled: bool, is_accepted: bool) -> None:
    """They stop working at their moment, without anything being read."""
    secret, key = new_key("bob", created=0.0, expires=expires)
    key = replace(key, is_disabled=is_disabled)
    auth = authenticator(keyring=Keyring([key]))
    headers = [(b"x-api-key", secret.encode())]

    if is_accepted:
        assert auth.authenticate(headers).key == key
    else:
        with pytest.raises(AuthenticationError):
            auth.authenticate(headers)


def test_without_keys_everybody_is_welcome() -> None:
    """A gateway for one person needs none; what its client sends as a key does not matter."""
    auth = authenticator(keyring=Keyring())

    assert auth.authenticate([(b"authorization", b"Bearer sk-anything")]) is ANONYMOUS
    assert ANONYMOUS.may_use("anything")
    assert not auth.needs_key


def test_keys_may_be_required_before_there_are_any() -> None:
    """Then no key gets in."""
    with pytest.raises(AuthenticationError):
        authenticator(require_keys=True, keyring=Keyring()).authenticate([])


def test_keys_that_vanish_open_no_door() -> None:
    """Once there was a key, an empty table is a loss and no permission."""
    auth = authenticator()

    auth.update(Keyring())

    with pytest.raises(AuthenticationError):
        auth.authenticate([])


def test_while_the_keys_are_unknown_no_client_is_served() -> None:
    """The database may hold keys: who cannot read it cannot know that there are none."""
    auth = Authenticator(require_keys=False, clock=lambda: NOW)

    with pytest.raises(UnavailableError) as caught:
        auth.authenticate([(b"x-api-key", TOKEN)])

    assert not auth.is_ready
    assert to_response(caught.value).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("model", "may_use"),
    [
        ("llama", True),
        ("gpt-4o", True),
        ("gpt-", True),
        ("gpt", False),
        ("llama2", False),
        ("LLAMA", False),
        ("", False),
    ],
)
def test_models_of_a_key(*, model: str, may_use: bool) -> None:
    """Whole names, or beginnings that end in a star."""
    assert authenticator().authenticate([(b"x-api-key", TOKEN)]).may_use(model) is may_use


def test_key_of_the_environment_is_an_administrators() -> None:
    """It needs no database, and with it a key is asked for although there is no other."""
    auth = Authenticator(
        require_keys=False, clock=lambda: NOW, own_keys=(environment_key("lg-chosen-by-the-operator"),)
    )
    auth.update(Keyring())

    assert auth.authenticate([(b"x-api-key", b"lg-chosen-by-the-operator")]).is_admin
    with pytest.raises(AuthenticationError):
        auth.authenticate([])


def test_session_ends_with_its_key() -> None:
    """Revoked or expired: what was shown before is worth nothing any more."""
    auth = authenticator()

    assert auth.authenticate_session(KEY.id).key == KEY
    assert not auth.authenticate_session(KEY.id).is_admin
    auth.update(Keyring([replace(KEY, is_disabled=True)]))
    with pytest.raises(AuthenticationError):
        auth.authenticate_session(KEY.id)
