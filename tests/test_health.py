"""What the health page says, what errors say, and what nothing says: the password."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from neverstale.config import Settings
from neverstale.drive.clients import REDIS_ERRORS, Connections, shared, shared_async, unavailable
from neverstale.errors import RedisUnavailable
from neverstale.health import Health, health, health_async
from neverstale.testing.servers import RedisServer, Server, binaries

SECRET = "s3cr3t-Pa55"


@pytest.fixture
def connections(server: Server) -> Iterator[Connections]:
    opened = shared(Settings.from_url(server.url))
    yield opened
    opened.close()


def test_health_says_what_answers(connections: Connections, server: Server) -> None:
    """A healthy Redis is "ok", with its version and how long it took."""
    found = health(connections)
    assert (found.redis, found.nodes) == ("ok", 3 if server.is_cluster else 1)
    assert found.mode == ("cluster" if server.is_cluster else "single")
    assert found.version is not None
    assert found.version.split()[0] in ("redis", "valkey")
    assert found.latency_ms is not None
    assert found.as_dict() == {
        "redis": "ok",
        "latency_ms": found.latency_ms,
        "mode": found.mode,
        "nodes": found.nodes,
        "version": found.version,
    }


async def test_health_says_the_same_async(connections: Connections, server: Server) -> None:
    """Both faces find the same."""
    on_loop = shared_async(Settings.from_url(server.url))
    there, here = health(connections), await health_async(on_loop)
    assert (there.redis, there.mode, there.nodes, there.version) == (
        here.redis,
        here.mode,
        here.nodes,
        here.version,
    )
    await on_loop.close()


def test_health_of_closed_connections_says_so() -> None:
    """A health page is never an exception."""
    connections = shared(Settings())
    connections.close()
    expected = "ConnectionError: these connections have been closed"
    assert health(connections) == Health(expected, None, "single", 0, None)


def test_health_without_the_right_to_ask_is_still_ok(redis_server: RedisServer) -> None:
    """A user who may not call INFO can use the cache; only the version is not known."""
    admin = redis_server.client()
    admin.execute_command("ACL", "SETUSER", "app", "on", f">{SECRET}", "~*", "+get", "+ping", "+hello")
    connections = shared(Settings.from_url(f"redis://app:{SECRET}@127.0.0.1:{redis_server.port}"))
    assert (health(connections).redis, health(connections).version) == ("ok", None)
    connections.close()
    admin.execute_command("ACL", "DELUSER", "app")


def test_unavailable_is_one_line_with_the_address() -> None:
    """What the caller is told names the kind of trouble and fits a log line."""
    problem = unavailable(redis.ConnectionError("first\n second"))
    assert isinstance(problem, RedisUnavailable)
    assert str(problem) == "ConnectionError: first second"
    assert str(unavailable(TimeoutError())) == "TimeoutError: no further word"


async def test_the_password_is_in_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """Neither events nor logs, errors, tracebacks, health or representations show it, right or wrong."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []

    async def talk(url: str, expected: bool) -> None:
        settings = Settings.from_url(url)
        connections, on_loop = shared(settings), shared_async(settings)
        for each in (connections, on_loop):
            each.events.subscribe(lambda event: texts.append(repr(event)))
            texts.extend([repr(each), str(each), repr(each.settings), repr(settings)])
        assert connections.ping() is expected
        assert await on_loop.ping() is expected
        texts.extend([repr(health(connections)), repr(await health_async(on_loop))])
        if expected:
            texts.extend([repr(connections.fast), repr(on_loop.fast)])
        for words in (("GET", "k"), ("NONSENSE",)):
            try:
                client: Any = connections.fast
                client.execute_command(*words)
            except REDIS_ERRORS as problem:
                texts.extend(traceback.format_exception(problem))
                texts.extend(traceback.format_exception(unavailable(problem)))
        connections.close()
        await on_loop.close()

    with RedisServer.start(binaries()["redis"], password=SECRET) as server:
        await talk(server.url, expected=True)
        await talk(f"redis://:wrong-{SECRET}@127.0.0.1:{server.port}", expected=False)
        await talk(f"redis://:wrong-{SECRET}@127.0.0.1:{server.port}?cluster=true", expected=False)
    assert len(texts) > 30
    assert [text for text in [*texts, caplog.text] if SECRET in text] == []
