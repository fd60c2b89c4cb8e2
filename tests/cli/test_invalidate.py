"""`neverstale keys`, `invalidate` and `clear`."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from neverstale import Cache, InvalidationEvent
from neverstale.testing.servers import RedisCluster, RedisServer, wait_until
from tests.cli.conftest import Command, visible


def fill(cache: Cache, count: int, prefix: str = "p:") -> None:
    cache.with_prefix(prefix).set_many({str(number): "x" for number in range(count)}, tags=["all"])


class TestKeys:
    def test_lists(self, command: Command, cache: Cache) -> None:
        """A JSON object a line, with TTL and size."""
        fill(cache, 12)
        cache.set("other", "x")
        ran = command("keys", "p:1*")
        assert ran.status == 0
        assert {line["key"] for line in ran.lines} == {"p:1", "p:10", "p:11"}
        assert all(line["ttl_ms"] > 0 and line["bytes"] > 64 for line in ran.lines)

    def test_limit(self, command: Command, cache: Cache) -> None:
        """It stops at the limit, and says so."""
        fill(cache, 12)
        ran = command("keys", "--limit", "5")
        assert len(ran.lines) == 5
        assert "stopped after 5" in ran.err
        assert len(command("keys", "--limit", "0").lines) == 12

    def test_none(self, command: Command, cache: Cache) -> None:
        """No match is a negative answer, which says where it was looked."""
        cache.set("a", "x")
        ran = command("keys", "nothing*")
        assert (ran.status, ran.err) == (
            1,
            "no key of the namespace 'shop', version 1, matches 'nothing*'\n",
        )
        elsewhere = command("keys", "--namespace", "other", "--prefix", "p:", "--all-versions").err
        assert elsewhere == "no key of the namespace 'other' matches 'p:*'\n"
        assert command("keys", "x", "--namespace", "").err.startswith("no key without a namespace, version 1")

    def test_other_versions(self, command: Command, cache: Cache, make_cache: Callable[..., Cache]) -> None:
        """What another version has stored is listed where it is asked for."""
        cache.set("a", "x")
        make_cache(cache.settings.url, version=2).set("b", "x")
        assert [line["key"] for line in command("keys").lines] == ["a"]
        assert {line["key"] for line in command("keys", "--all-versions").lines} == {"a", "b"}
        assert [line["key"] for line in command("keys", "--version-number", "2").lines] == ["b"]

    def test_of_no_other_prefix(
        self, command: Command, cache: Cache, make_cache: Callable[..., Cache]
    ) -> None:
        """A pattern begins where the key does, in whatever version."""
        cache.set("b:a", "x")
        make_cache(cache.settings.url, version=12).set("b:a", "x")
        assert command("keys", "a*", "--all-versions").status == 1
        assert len(command("keys", "b*", "--all-versions").lines) == 2
        assert command("invalidate", "pattern", "a*", "--dry-run").json["entries"] == 0

    def test_braces(self, command: Command, cache: Cache) -> None:
        """A key is named as the application does, also where Redis has it otherwise."""
        cache.set("{a}\x01", "x")
        assert [line["key"] for line in command("keys").lines] == ["{a}\x01"]

    def test_all_nodes(
        self, cluster_command: Command, redis_cluster: RedisCluster, make_cache: Callable[..., Cache]
    ) -> None:
        """On a cluster every primary is asked."""
        fill(make_cache(redis_cluster.url), 100)
        assert len(cluster_command("keys").lines) == 100

    def test_pipe_that_closes(self, command: Command, cache: Cache) -> None:
        """`| head` is no error."""
        fill(cache, 2000)
        process = command.process("keys", "--limit", "0")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        process.stderr.close()
        assert process.wait(60) == 0


class TestInvalidate:
    def test_key(self, command: Command, cache: Cache) -> None:
        """Entries are gone, and the receipt says how many."""
        fill(cache, 3)
        ran = command("invalidate", "key", "p:0", "p:1", "p:none")
        assert (ran.status, ran.json["removed"], ran.json["status"]) == (0, 2, "applied")
        assert [line["key"] for line in command("keys").lines] == ["p:2"]

    def test_pattern(self, command: Command, cache: Cache) -> None:
        """A pattern reaches what it matches, under the prefix that is given."""
        fill(cache, 3)
        fill(cache, 3, "q:")
        assert command("invalidate", "pattern", "*", "--prefix", "p:").json["removed"] == 3
        assert command("invalidate", "pattern", "*", "--prefix", "p:").status == 1
        assert len(command("keys").lines) == 3

    def test_tag(self, command: Command, cache: Cache) -> None:
        """A tag takes its entries."""
        fill(cache, 3)
        assert command("invalidate", "tag", "all").json["removed"] == 3

    def test_soft(self, command: Command, cache: Cache) -> None:
        """--soft only marks them stale."""
        fill(cache, 1)
        assert command("invalidate", "tag", "all", "--soft").json["soft"] is True
        assert command("get", "p:0").json["state"] == "stale"

    @pytest.mark.parametrize("soft", [(), ("--soft",)])
    def test_tag_of_nothing(self, command: Command, cache: Cache, soft: tuple[str, ...]) -> None:
        """A tag that nothing carries is invalidated, and in a terminal it is said that there was nothing."""
        fill(cache, 3)
        said = "nothing of the namespace 'shop' was stored under 'nosuch'\n"
        ran = command("--no-json", "invalidate", "tag", "nosuch", *soft)
        assert (ran.status, ran.err) == (0, said)
        assert ran.out.startswith("applied: tag 'nosuch' ")
        ran = command("invalidate", "tag", "nosuch", *soft)
        assert (ran.status, ran.err, ran.json["status"]) == (0, "", "applied")
        # Of several those are named that were empty.
        assert command("--no-json", "invalidate", "tag", "nosuch", "all", *soft).err == said
        assert said[:-1] in visible(command.terminal("invalidate", "tag", "nosuch", *soft).out)

    def test_tag_of_something(self, command: Command, cache: Cache) -> None:
        """Where something was stored there is no such remark."""
        fill(cache, 3)
        assert command("--no-json", "invalidate", "tag", "all", "--soft").err == ""
        assert command("--no-json", "invalidate", "tag", "all").err == ""

    def test_key_of_nothing(self, command: Command, cache: Cache) -> None:
        """The same of keys, where none of them was there."""
        fill(cache, 1)
        arguments = ("--no-json", "--prefix", "p:", "invalidate", "key", "7", "8")
        ran = command(*arguments)
        assert (ran.status, ran.err) == (
            0,
            "nothing of the namespace 'shop' was stored under 'p:7', 'p:8'\n",
        )
        assert command(*arguments, "0").err == ""

    def test_reason(self, command: Command, cache: Cache) -> None:
        """Whoever listens hears that it was done by hand, or why."""
        heard: queue.Queue[InvalidationEvent] = queue.Queue()
        cache.events.subscribe(heard.put, InvalidationEvent)
        with cache.listen():
            command("invalidate", "tag", "all")
            assert heard.get(timeout=30).reason == "by hand"
            command("invalidate", "key", "a", "--reason", "price list was wrong")
            assert heard.get(timeout=30).reason == "price list was wrong"

    def test_dry_run(self, command: Command, cache: Cache) -> None:
        """--dry-run counts and does nothing."""
        fill(cache, 3)
        for arguments in (("pattern", "*"), ("tag", "all"), ("key", "p:0", "p:1", "p:2")):
            assert command("invalidate", *arguments, "--dry-run").json == {"dry_run": True, "entries": 3}
        assert len(command("keys").lines) == 3

    def test_clear(self, command: Command, cache: Cache, make_cache: Callable[..., Cache]) -> None:
        """`clear` takes every prefix and version of the namespace, and nothing else."""
        fill(cache, 3)
        make_cache(cache.settings.url, version=7).set("old", "x")
        other = make_cache(cache.settings.url, namespace="other")
        other.set("a", "x")
        assert command("clear").status == 0
        assert command("keys", "--all-versions").status == 1
        assert other.get("a") == "x"


class TestMany:
    def test_is_refused(self, command: Command, cache: Cache) -> None:
        """More than 1,000 entries without anybody to ask: nothing is done."""
        fill(cache, 1001)
        for arguments in (("invalidate", "pattern", "*"), ("invalidate", "tag", "all"), ("clear",)):
            ran = command(*arguments)
            assert ran.status == 2
            assert "1,001 entries" in ran.err
            assert "--yes" in ran.err
        many = [f"k{number}" for number in range(1001)]
        assert command("invalidate", "key", *many).status == 2
        assert len(command("keys", "--limit", "0").lines) == 1001

    def test_a_thousand_are_not_asked_about(self, command: Command, cache: Cache) -> None:
        """1,000 are not more than 1,000."""
        fill(cache, 1000)
        assert command("invalidate", "pattern", "*").json["removed"] == 1000

    def test_yes(self, command: Command, cache: Cache) -> None:
        """--yes does it."""
        fill(cache, 1001)
        assert command("invalidate", "pattern", "*", "--yes").json["removed"] == 1001
        fill(cache, 1001)
        assert command("invalidate", "tag", "all", "-y").json["removed"] == 1001

    def test_asks(self, command: Command, cache: Cache) -> None:
        """In a terminal it asks; no is no, and yes is yes."""
        fill(cache, 1001)
        ran = command.terminal("clear", say=[("[y/N]", "n\n")])
        assert "1,001 entries are in the namespace" in ran.out
        assert ran.status == 1
        assert len(command("keys", "--limit", "0").lines) == 1001
        ran = command.terminal("clear", say=[("[y/N]", "y\n")])
        assert ran.status == 0
        assert "1,001 entries cleared" in visible(ran.out)
        assert command("keys").status == 1

    def test_ctrl_c_at_the_question(self, command: Command, cache: Cache) -> None:
        """Ctrl-C is no, without a traceback."""
        fill(cache, 1001)
        ran = command.terminal("clear", say=[("[y/N]", "\x03")])
        assert ran.status == 130
        assert "Traceback" not in ran.out
        assert len(command("keys", "--limit", "0").lines) == 1001


def test_frozen_redis_is_one_line(command: Command, redis_server: RedisServer) -> None:
    """An invalidation that did not arrive says so, with a status of its own."""
    command.environ["NEVERSTALE_PATIENT_TIMEOUT"] = "0.3"
    wait_until(redis_server.client().ping, "a server")
    redis_server.freeze()
    process = command.process("invalidate", "key", "a")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "not invalidated" in said
    assert len(said.splitlines()) == 1
