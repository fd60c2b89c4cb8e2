"""`neverstale get`: what is stored, and whether a read would be served it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

from neverstale import Cache
from neverstale.lifetime import Lifetime
from neverstale.responses.stored import Stored, StoredSealer
from neverstale.sessions import Sessions
from neverstale.testing.servers import RedisServer
from tests.cli.conftest import Command


class TestGet:
    def test_value(self, command: Command, cache: Cache) -> None:
        """A fresh entry is told with its codec, TTL, tags and value."""
        cache.get_or_load("price:7", lambda: {"price": 1999}, ttl=300, tags=["products"], type=dict)
        ran = command("get", "price:7")
        found = ran.json
        assert ran.status == 0
        assert (found["state"], found["served"], found["codec"]) == ("fresh", True, "json")
        assert found["value"] == {"price": 1999}
        assert found["tags"] == [{"tag": "products", "state": "valid"}]
        assert 0 < found["ttl_ms"] <= 300_000
        assert found["redis_key"] == "shop:v1:price:7"

    def test_absent(self, command: Command) -> None:
        """What is not there is a negative answer."""
        ran = command("get", "nothing")
        assert ran.status == 1
        assert ran.json["state"] == "absent"

    def test_invalidated(self, command: Command, redis_server: RedisServer, cache: Cache) -> None:
        """An entry whose tag was invalidated is there and not served, and its tag is named."""
        cache.get_or_load("a", lambda: 1, tags=["one", "two"])
        # The clearing was cut short: the stamp alone decides.
        redis_server.client().set("shop:cache:tag:{two}:stamp", "0011@1", ex=60)
        ran = command("get", "a")
        assert ran.status == 1
        assert (ran.json["state"], ran.json["served"]) == ("invalid", False)
        assert [tag["state"] for tag in ran.json["tags"]] == ["valid", "invalidated"]
        redis_server.client().delete("shop:cache:tag:{two}:stamp")
        assert [tag["state"] for tag in command("get", "a").json["tags"]] == ["valid", "gone"]

    def test_softly_invalidated(self, command: Command, cache: Cache) -> None:
        """A tag that was only marked stale leaves the entry to be served once more."""
        cache.get_or_load("a", lambda: 1, tags=["one"], ttl=100, soft_ttl=50)
        cache.invalidate_tag("one", soft=True)
        ran = command("get", "a")
        assert (ran.status, ran.json["state"]) == (0, "stale")
        assert ran.json["tags"] == [{"tag": "one", "state": "stale"}]

    def test_soft_ttl(self, command: Command, cache: Cache) -> None:
        """Until when it is fresh is told beside the TTL."""
        cache.get_or_load("a", lambda: 1, ttl=100, soft_ttl=50)
        found = command("get", "a").json
        assert found["soft_at"] is not None
        assert "fresh until" in command("--no-json", "get", "a").out

    def test_by_its_whole_name(self, command: Command, cache: Cache) -> None:
        """A name as `redis-cli` shows it is understood."""
        cache.set("a", "text")
        assert command("get", "shop:v1:a").json["value"] == "text"

    def test_prefix(self, command: Command, cache: Cache) -> None:
        """--prefix stands in front of the key, wherever it stands on the line."""
        cache.with_prefix("api:").set("a", "text")
        assert command("get", "a", "--prefix", "api:").json["value"] == "text"
        assert command("get", "a", "--prefix=api:").json["value"] == "text"
        assert command("get", "a").status == 1

    @pytest.mark.parametrize("packed", ["x" * 100_000])
    def test_compressed(self, command: Command, cache: Cache, packed: str) -> None:
        """A compressed value is shown as it was."""
        cache.set("a", packed)
        found = command("get", "a").json
        assert found["value"] == packed
        assert found["compression"] != "none"

    @pytest.mark.plants_keys
    def test_something_else(self, command: Command, redis_server: RedisServer) -> None:
        """What is no entry of ours is said to be none, whatever its type."""
        redis_server.client().rpush("shop:v1:queue", "a")
        redis_server.client().set("shop:v1:plain", "text")
        for key in ("queue", "plain"):
            ran = command("get", key)
            assert (ran.status, ran.json["state"], ran.json["value"]) == (1, "foreign", None)

    def test_lease(self, command: Command, cache: Cache) -> None:
        """While somebody loads it, that is said."""
        seen = []

        def load() -> int:
            seen.append(command("get", "a").json["state"])
            return 1

        cache.get_or_load("a", load)
        assert seen == ["leased"]


class TestPrivate:
    def test_session(self, command: Command, cache: Cache) -> None:
        """The data of a session are hidden until they are asked for by name."""
        session = Sessions(cache, type=dict[str, str]).create({"cart": "umbrella"}).session
        key = f"session:{session.digest}"
        assert "umbrella" not in command("get", key).out
        assert command("get", key).json["value"]["digest"] == session.digest
        assert "umbrella" in command("get", key, "--show-data").out

    def test_session_under_another_prefix(self, command: Command, cache: Cache) -> None:
        """A session is known as one by what it is, too."""
        sessions = Sessions(cache, type=dict[str, str], prefix="visit:")
        session = sessions.create({"cart": "umbrella"}).session
        assert "umbrella" not in command("get", f"visit:{session.digest}").out

    def test_anything_under_the_prefix_of_sessions(self, command: Command, cache: Cache) -> None:
        """Whatever lies where sessions do is taken for private."""
        cache.set("session:note", "umbrella")
        assert "umbrella" not in command("get", "session:note").out
        assert "umbrella" in command("get", "session:note", "--show-data").out
        cache.set_json("session:list", ["umbrella"])
        assert "umbrella" not in command("get", "session:list").out
        assert "umbrella" in command("get", "session:list", "--show-data").out

    def test_encrypted(self, command: Command, cache: Cache) -> None:
        """What is encrypted cannot be shown."""
        pytest.importorskip("cryptography")
        sessions = Sessions(cache, type=dict[str, str], keys=[secrets.token_bytes(32)])
        session = sessions.create({"cart": "umbrella"}).session
        found = command("get", f"session:{session.digest}", "--show-data").json
        assert (found["codec"], found["value"], found["hidden"]) == ("encrypted", None, "it is encrypted")


class TestAnswer:
    def store(self, cache: Cache, **more: Any) -> None:
        sealer = StoredSealer(compress_above=4096, max_value_bytes=1_000_000)
        born = time.time_ns() // 1_000_000 - 5000
        headers = ((b"content-type", b"application/json"),)
        answer = Stored(ident="x", flags=0, headers=headers, body=b'{"price": 1999}', born_ms=born, **more)
        found = cache._find("api:GET:/a", sealer)
        cache._load("api:GET:/a", lambda: answer, Lifetime(60_000), (), sealer, found)

    def test_shown(self, command: Command, cache: Cache) -> None:
        """An answer over HTTP is shown with status, headers and body, and its age is known."""
        self.store(cache)
        found = command("get", "api:GET:/a").json
        assert (found["codec"], found["value"]["status"], found["value"]["body"]) == (
            "response",
            200,
            {"price": 1999},
        )
        assert found["value"]["headers"] == [["content-type", "application/json"]]
        assert found["age_ms"] >= 5000

    def test_of_one_user(self, command: Command, cache: Cache) -> None:
        """An answer to one user is not shown to others."""
        self.store(cache, owner=b"somebody")
        assert "1999" not in command("get", "api:GET:/a").out
        assert "1999" in command("get", "api:GET:/a", "--show-data").out


class TestShown:
    def test_control_characters(self, command: Command, cache: Cache) -> None:
        """What comes from Redis cannot drive the terminal, nor Rich."""
        cache.set("evil", "\x1b]0;title\x07 [red]not red[/red] \u202e")
        ran = command("--no-json", "get", "evil")
        assert "\x1b]0" not in ran.out
        assert "\u202e" not in ran.out
        assert "[red]not red[/red]" in ran.out

    def test_table(self, command: Command, cache: Cache) -> None:
        """People get it in words."""
        cache.get_or_load("a", lambda: [1, 2], tags=["t"], type=list)
        said = command("--no-json", "get", "a").out
        for word in ("shop:v1:a", "fresh, served", "TTL", "load took", "valid"):
            assert word in said

    def test_on_a_cluster(
        self, cluster_command: Command, redis_cluster: RedisServer, make_cache: Callable[..., Cache]
    ) -> None:
        """An entry is found with its tags wherever they are."""
        make_cache(redis_cluster.url).get_or_load("a", lambda: 1, tags=["x", "y", "z"])
        found = cluster_command("get", "a").json
        assert [tag["state"] for tag in found["tags"]] == ["valid"] * 3
