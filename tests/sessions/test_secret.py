"""Sessions encrypted at rest: nothing to be read in Redis, nothing to be moved, and keys that can be rotated."""

from __future__ import annotations

import secrets
import sys

import pytest

from neverstale.errors import MissingDependency, UsageError
from neverstale.testing.servers import Server
from tests.sessions.conftest import Make

pytestmark = pytest.mark.parametrize("server", ["redis"], indirect=True)

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)


async def test_nothing_can_be_read(make: Make, server: Server) -> None:
    """What is in Redis has neither data nor user in clear."""
    sessions = make(keys=[OLD])
    issued = await sessions.begin({"word": "chrysanthemum" * 20}, user="name@example.com")
    assert await sessions.get(issued.id) == {"word": "chrysanthemum" * 20}
    redis = server.client()
    raw = redis.get(f"v1:session:{issued.session.digest}")
    assert raw is not None
    assert b"chrysanthemum" not in raw
    assert b"example" not in raw


async def test_each_write_is_another_ciphertext(make: Make, server: Server) -> None:
    """The nonce is new each time."""
    sessions, redis = make(keys=[OLD]), server.client()
    issued = await sessions.begin({"a": 1})
    name = f"v1:session:{issued.session.digest}"
    first = redis.get(name)
    await sessions.set(issued.id, {"a": 2})
    await sessions.set(issued.id, {"a": 1})
    await sessions.get(issued.id)
    assert redis.get(name)[-40:] != first[-40:]


@pytest.mark.plants_keys
async def test_a_ciphertext_opens_under_its_own_name_only(make: Make, server: Server) -> None:
    """Somebody who can write to Redis cannot give one session the contents of another."""
    sessions, redis = make(keys=[OLD]), server.client()
    mine, theirs = await sessions.begin({"who": "me"}), await sessions.begin({"who": "admin"})
    for each in (mine, theirs):
        await sessions.get(each.id)
    stolen = redis.get(f"v1:session:{theirs.session.digest}")
    redis.set(f"v1:session:{mine.session.digest}", stolen)
    assert await sessions.get(mine.id) == (None if sessions.store is None else {"who": "me"})
    assert sessions.stats().decode_errors == 1


@pytest.mark.plants_keys
async def test_what_was_altered_is_a_miss(make: Make, server: Server) -> None:
    """One bit is enough."""
    sessions, redis = make(keys=[OLD]), server.client()
    issued = await sessions.begin({"a": 1})
    await sessions.get(issued.id)
    name = f"v1:session:{issued.session.digest}"
    raw = bytearray(redis.get(name))
    raw[-1] ^= 1
    redis.set(name, bytes(raw))
    assert await sessions.get(issued.id) == (None if sessions.store is None else {"a": 1})
    assert sessions.stats().decode_errors == 1


async def test_keys_are_rotated(make: Make) -> None:
    """The first one encrypts, all decrypt, and what no key opens is a miss."""
    before, during, after = make(keys=[OLD]), make(keys=[NEW, OLD]), make(keys=[NEW])
    first = await before.begin({"n": 1})
    assert await during.get(first.id) == {"n": 1}
    assert during.stats().decode_errors == 0
    second = await during.begin({"n": 2})
    assert await after.get(second.id) == {"n": 2}
    assert after.stats().decode_errors == 0
    await before.get(first.id)
    assert await after.get(first.id) == (None if after.store is None else {"n": 1})
    assert after.stats().decode_errors == 1


async def test_what_is_not_encrypted_is_not_taken(make: Make) -> None:
    """Nor is what is encrypted taken for text by who has no key."""
    plain, secret = make(), make(keys=[OLD])
    for ours, theirs in ((plain, secret), (secret, plain)):
        issued = await ours.begin({"n": 1})
        assert await theirs.get(issued.id) == (None if theirs.store is None else {"n": 1})
        assert theirs.stats().decode_errors == 1


@pytest.mark.parametrize("keys", [[b"short"], ["a" * 32], [b"x" * 31], [b"x" * 33], b"x" * 32])
async def test_keys_of_a_wrong_kind(make: Make, keys: list[bytes]) -> None:
    """They are refused when they are given."""
    with pytest.raises(UsageError, match="32 bytes"):
        make(keys=keys)


async def test_without_the_package(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install; without keys nothing is needed."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingDependency, match=r"pip install 'neverstale\[crypto\]'"):
        make(keys=[OLD])
    assert await make().begin({}) is not None
