"""Keys, and the commands that make and revoke them."""

import argparse
import csv
import io
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from local_gateway.accounts.keys import Key, Keyring, new_key
from local_gateway.commands import keys
from local_gateway.config.settings import GatewaySettings
from local_gateway.errors import ConfigError
from local_gateway.storage.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return GatewaySettings.model_validate(
        {
            "models": {"llama": {"targets": [{"type": "local"}]}},
            "database": {"url": f"sqlite:///{tmp_path}/gateway.db"},
        }
    )


def keys_command(settings: GatewaySettings, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    keys.add_arguments(parser)
    return keys.run(parser.parse_args(arguments), settings)


def stored_keys(settings: GatewaySettings) -> list[Key]:
    with closing(Store(settings.database.url)) as store:
        return store.all_keys()


def test_a_secret_is_random_and_kept_as_a_hash() -> None:
    """43 characters hold 32 random bytes; the key knows the first ones of them and a hash."""
    secret, key = new_key("bob", created=1.0)
    other, _ = new_key("bob", created=1.0)

    assert len(secret) == len("lg-") + 43
    assert secret.startswith("lg-")
    assert secret != other
    assert secret not in repr(key)
    assert key.hash not in repr(key)
    assert secret.startswith(key.prefix)
    assert len(key.prefix) == 8


def test_a_keyring_finds_by_secret_only() -> None:
    """Not by hash, not by what is shown of a key."""
    secret, key = new_key("bob", created=1.0)
    ring = Keyring([key, new_key("eve", created=1.0)[1]])

    assert ring.find(secret.encode()) == key
    assert [ring.find(wrong.encode()) for wrong in ("", key.hash, key.prefix, secret[:-1], secret + "\n")] == [None] * 5
    assert len(ring) == 2


def test_create(settings: GatewaySettings, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the secret goes to standard output, and it opens the stored key with all its limits."""
    arguments = (
        "--models llama,gpt-* --rpm 60 --tpm 9000 --concurrency 3 --budget 2.5 --period day --expires 2100-01-01"
    )

    assert keys_command(settings, "create", "bob", *arguments.split()) == 0

    secret = capsys.readouterr().out.removesuffix("\n")
    [key] = stored_keys(settings)
    assert Keyring([key]).find(secret.encode()) == key
    assert (key.name, key.models, key.expires) == ("bob", ("llama", "gpt-*"), 4102444800.0)
    assert (key.max_rpm, key.max_tpm, key.max_concurrency, key.budget, key.period) == (60, 9000, 3, 2.5, "day")


def test_a_name_is_one_active_keys(settings: GatewaySettings) -> None:
    """It is free again when the key is revoked, so that keys can be renewed."""
    keys_command(settings, "create", "bob")
    with pytest.raises(ConfigError, match="already"):
        keys_command(settings, "create", "bob")

    keys_command(settings, "revoke", "bob")
    keys_command(settings, "create", "bob")

    assert [key.is_disabled for key in stored_keys(settings)] == [True, False]


@pytest.mark.parametrize("part", ["name", "prefix", "id"])
def test_revoke(settings: GatewaySettings, part: str) -> None:
    """By whatever the list shows of it."""
    keys_command(settings, "create", "bob")
    keys_command(settings, "create", "eve")
    bob = next(key for key in stored_keys(settings) if key.name == "bob")

    keys_command(settings, "revoke", getattr(bob, part)[:12])

    assert {key.name: key.is_disabled for key in stored_keys(settings)} == {"bob": True, "eve": False}


@pytest.mark.parametrize("wanted", ["nobody", "", "lg-", "b"])
def test_revoke_what_is_not_there(settings: GatewaySettings, wanted: str) -> None:
    """An error says so; nothing else is revoked."""
    keys_command(settings, "create", "bob")

    with pytest.raises(ConfigError, match="no active key"):
        keys_command(settings, "revoke", wanted)

    assert not stored_keys(settings)[0].is_disabled


def test_list(settings: GatewaySettings, capsys: pytest.CaptureFixture[str]) -> None:
    """All keys with their state and what they have spent, and never a secret or a hash."""
    _, bob = new_key("bob", created=time.time(), max_rpm=60, budget=5.0)
    _, old = new_key("old", created=time.time() - 1, expires=1.0)
    gone = replace(new_key("gone", created=time.time() - 2)[1], is_disabled=True)
    with closing(Store(settings.database.url)) as store:
        for key in (bob, old, gone):
            store.add_key(key)

    keys_command(settings, "list")
    table = capsys.readouterr().out
    keys_command(settings, "list", "--csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert [(row["name"], row["state"]) for row in rows] == [("gone", "revoked"), ("old", "expired"), ("bob", "active")]
    assert (rows[2]["rpm"], rows[2]["budget"], rows[2]["spent"]) == ("60", "5/month", "0.0000")
    assert all(word in table for word in ("gone", "revoked", "bob", "active", f"{bob.prefix}..."))
    assert bob.hash not in table


@pytest.mark.parametrize(
    "arguments",
    [
        "create",
        "create bob --rpm 0",
        "create bob --tpm -1",
        "create bob --concurrency x",
        "create bob --budget nan",
        "create bob --budget -1",
        "create bob --period year",
        "create bob --expires tomorrow",
        "create bob --models ,",
        "create bob --models a*b",
        "create bob\x1b[2J",
        "",
    ],
)
def test_arguments_that_are_wrong(
    settings: GatewaySettings, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused before anything is stored."""
    with pytest.raises(SystemExit):
        keys_command(settings, *arguments.split(" "))

    assert "error:" in capsys.readouterr().err
    assert not stored_keys(settings)
