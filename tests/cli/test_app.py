"""The command line as such: where Redis is, how it writes, what its exit statuses mean, and `ping`, `stats`, `top`."""

from __future__ import annotations

import fcntl
import io
import os
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import pytest
from rich.console import Console

from neverstale import Cache, CounterSnapshot
from neverstale.cli import pressed
from neverstale.cli.view import Frame, Reading, prefix_table, rendered
from neverstale.metrics.nodes import NodeStats
from neverstale.testing.servers import RedisCluster, RedisServer, binaries, wait_until
from tests.cli.conftest import Command, visible

#: What docs/production.md recommends for an application.
RIGHTS = (
    "~shop:* &shop:cache:invalidate +ping +select +info +time +scan +eval +evalsha +publish +subscribe "
    "+get +mget +set +getrange +setrange +unlink +type +pttl +pexpire +expire +sadd +smembers +spop "
    "+hget +hset +hgetall +hincrby +hdel +zadd +zcount +zincrby +zrem +zrangebyscore +zremrangebyrank +zrevrange"
)
#: Of the columns of `stats` and `top`.
OF_PREFIXES = {"PREFIX", "READS/s", "HITS", "STALE", "LOADS/s", "FAIL", "LOAD", "REDIS", "INV", "ERR"}
OF_NODES = {"NODE", "MEMORY", "OF", "OPS/s", "CLIENTS", "KEYS", "EVICTED"}
COMMANDS = ("ping", "stats", "top", "get", "keys", "invalidate", "clear", "doctor", "warm")


class TestUsage:
    def test_is_installed(self) -> None:
        """`neverstale` is a command."""
        (found,) = metadata.entry_points(group="console_scripts", name="neverstale")
        assert found.value == "neverstale.cli:main"

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help(self, command: Command, name: str) -> None:
        """Every command has a help text that says its exit statuses."""
        ran = command(name, "--help")
        assert ran.status == 0
        assert "Exit status" in ran.out or name == "invalidate"

    def test_help_lists_all(self, command: Command) -> None:
        """The help lists all commands, none of them cut off."""
        said = command("--help").out
        assert set(COMMANDS) <= set(re.findall(r"^  (\w+)", said, re.MULTILINE))
        assert "..." not in said.partition("Commands:")[2]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["fly"],
            ["get"],
            ["get", "a", "--url"],
            ["get", "a", "--version-number", "none"],
            ["get", "a", "--version-number", "0"],
            ["get", "a", "--url", "http://example.com"],
            ["get", "a", "--namespace", "no spaces"],
            ["get", ""],
            ["keys", "--limit", "-1"],
            ["doctor", "--mend", "burn"],
            ["doctor", "--mend", "expire", "--no-scan"],
            ["warm", "nothing"],
            ["warm", "no.such:module"],
            ["warm", "json:nothing"],
            ["warm", "json:__name__"],
        ],
    )
    def test_wrong(self, command: Command, arguments: list[str]) -> None:
        """Wrong usage is one line on standard error, and status 2."""
        ran = command(*arguments)
        assert (ran.status, ran.out) == (2, "")
        assert len(ran.err.splitlines()) == 1
        assert ran.err.startswith("neverstale: ")

    @pytest.mark.parametrize(
        ("arguments", "named", "meant"),
        [
            (["get"], "key", "neverstale get"),
            (["get", "a", "--lim"], "--lim", "neverstale get"),
            (["keys", "a", "b"], "b", "neverstale keys"),
            (["invalidate", "tag"], "TAG", "neverstale invalidate tag"),
            (["invalidate", "fly"], "fly", "neverstale invalidate"),
            (["fly"], "fly", "neverstale"),
            (["get", "a", "--url"], "--url", "neverstale"),
        ],
    )
    def test_where_help_is(self, command: Command, arguments: list[str], named: str, meant: str) -> None:
        """An error of usage names the help of the command that was meant, as a sentence of its own."""
        said = command(*arguments).err
        assert named.lower() in said.lower()
        assert re.search(rf"[^.?!][.?!] Try '{meant} --help'\.\n$", said)

    def test_release(self, command: Command) -> None:
        """--version prints the release."""
        ran = command("--version")
        assert (ran.status, ran.out, ran.err) == (0, f"neverstale {metadata.version('neverstale')}\n", "")

    @pytest.mark.parametrize(
        "arguments",
        [["clear", "--version", "2"], ["--version", "2", "clear"], ["--version=2", "get", "a"]],
    )
    def test_release_is_not_the_version_of_what_is_cached(
        self, command: Command, cache: Cache, arguments: list[str]
    ) -> None:
        """With anything else --version is refused, for --version-number is meant; nothing is done."""
        cache.set("a", "x")
        ran = command(*arguments)
        assert (ran.status, ran.out) == (2, "")
        assert "--version-number" in ran.err
        assert cache.get("a") == "x"

    def test_nothing(self, command: Command) -> None:
        """Without a command there is help, and status 2."""
        ran = command()
        assert ran.status == 2
        assert "Usage" in ran.out + ran.err

    def test_wrong_environment(self, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong variable is named."""
        monkeypatch.setenv("NEVERSTALE_VERSION", "three")
        ran = command("ping")
        assert ran.status == 2
        assert "NEVERSTALE_VERSION" in ran.err

    def test_option_over_environment(self, command: Command, cache: Cache) -> None:
        """An option is stronger than the environment."""
        cache.set("a", "x")
        assert command("get", "a", "--namespace", "other").status == 1
        assert command("get", "a", "--url", "redis://127.0.0.1:1").status == 3

    def test_without_the_extra(self) -> None:
        """Without typer and rich one line says what to install."""
        code = "import sys; sys.modules['typer'] = None; from neverstale.cli import main; main(['ping'])"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert "pip install 'neverstale[cli]'" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


class TestAway:
    @pytest.mark.parametrize(
        "arguments",
        [["get", "a"], ["keys"], ["stats"], ["top", "--once"], ["doctor"], ["clear", "--yes"], ["ping"]],
    )
    @pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis://127.0.0.1:1?cluster=true"])
    def test_is_status_3(self, command: Command, arguments: list[str], url: str) -> None:
        """Redis away is a status of its own, and one line at most."""
        ran = command(*arguments, "--url", url)
        assert ran.status == 3
        assert len(ran.err.splitlines()) <= 1

    def test_wrong_password(self, command: Command) -> None:
        """A password that is refused is Redis away; it is not shown."""
        with RedisServer.start(binaries()["redis"], password="right") as server:
            ran = command("get", "a", "--url", f"redis://:wrong-secret@127.0.0.1:{server.port}")
            assert ran.status == 3
            assert "wrong-secret" not in ran.out + ran.err
            assert command("get", "a", "--url", server.url).status == 1

    @pytest.mark.parametrize(
        "url", ["redis://user:top-secret@127.0.0.1:1/x/y", "top-secret", "redis://:top-secret@"]
    )
    def test_password_of_a_wrong_url(self, command: Command, url: str) -> None:
        """A URL that cannot be read is not quoted."""
        assert "top-secret" not in command("ping", "--url", url).err


class TestFewRights:
    def test_all_commands(self, command: Command, redis_server: RedisServer, cache: Cache) -> None:
        """With the rights of an application every command does what it can, and never more than it was told."""
        cache.set_many({f"p:{number}": "x" for number in range(5)}, tags=["t"])
        user = ["ACL", "SETUSER", "app", "reset", "on", ">secret", *RIGHTS.split()]
        redis_server.client().execute_command(*user)
        url = ("--url", f"redis://app:secret@127.0.0.1:{redis_server.port}")
        try:
            assert command("ping", *url).status == 0
            assert command("get", "p:1", *url).status == 0
            assert len(command("keys", *url).lines) == 5
            assert command("stats", *url).status == 1
            assert command("top", "--once", *url).status == 0
            assert command("doctor", *url).status == 0
            # How many there are it may not ask: so it does not guess that they are few.
            assert command("invalidate", "tag", "t", *url).status == 2
            assert command("invalidate", "key", "p:1", *url).json["removed"] == 1
            assert command("invalidate", "tag", "t", "--yes", *url).json["removed"] == 4
            assert command("clear", *url).status == 1
        finally:
            redis_server.client().execute_command("ACL", "DELUSER", "app")


class TestPing:
    def test_single(self, command: Command) -> None:
        """The one node answers."""
        ran = command("ping")
        assert ran.status == 0
        (node,) = ran.json["nodes"]
        assert (node["ok"], node["role"]) == (True, "primary")
        assert node["server"].startswith("redis ")

    def test_cluster(self, cluster_command: Command, redis_cluster: RedisCluster) -> None:
        """Of a cluster all six nodes are asked."""
        ran = cluster_command("ping")
        assert ran.status == 0
        assert [node["role"] for node in ran.json["nodes"]] == ["primary"] * 3 + ["replica"] * 3

    def test_dead_primary(self, cluster_command: Command, steady_cluster: RedisCluster) -> None:
        """A primary that does not answer is status 3, and named."""
        victim = steady_cluster.primaries()[0]
        cluster_command.environ["NEVERSTALE_PATIENT_TIMEOUT"] = "1"
        victim.freeze()
        others = [f"127.0.0.1:{node.port}" for node in steady_cluster.nodes if node is not victim]
        process = cluster_command.process("ping", "--url", f"redis://{','.join(others)}?cluster=true")
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 3
        assert str(victim.port) in said


class TestFigures:
    def test_nobody_reports(self, command: Command) -> None:
        """Without reports there are no figures, which is a negative answer."""
        ran = command("stats")
        assert ran.status == 1
        assert ran.json["prefixes"] == {}

    def test_stats(self, command: Command, cache: Cache) -> None:
        """The figures of all processes are told by prefix."""
        with cache.reporting():
            view = cache.with_prefix("p:")
            view.get_or_load("a", lambda: 1)
            assert view.get_json("a", int) == 1
        ran = command("stats")
        assert ran.status == 0
        figures = ran.json["prefixes"]["p:"]
        assert (figures["hits"], figures["misses"], figures["loads"]) == (1, 1, 1)
        assert figures["hit_rate"] == 0.5
        assert "50.0%" in command("stats", "--no-json").out
        assert command("stats", "--last", "60").json["prefixes"]["p:"]["hits"] == 1

    def test_top_once(self, command: Command, cache: Cache) -> None:
        """One look has rates, what is hot, and the nodes."""
        with cache.reporting():
            view = cache.with_prefix("p:")
            for _ in range(600):
                view.get_or_load("a", lambda: 1, tags=["t"])
        ran = command("top", "--once")
        assert ran.status == 0
        assert [(key["prefix"], key["key"]) for key in ran.json["hot_keys"]] == [("p:", "a")]
        assert [tag["tag"] for tag in ran.json["hot_tags"]] == ["t"]
        assert ran.json["nodes"][0]["memory"] > 0
        assert "p:a" in command("top", "--once", "--no-json").out

    @pytest.mark.parametrize("key", ["q", "\x03"])
    def test_top_live(self, command: Command, cache: Cache, key: str) -> None:
        """In a terminal it goes on until q or Ctrl-C, and leaves the terminal as it was."""
        with cache.reporting():
            cache.with_prefix("p:").get_or_load("a", lambda: 1)
        ran = command.terminal("top", "--every", "0.5", say=[("q ends it", key)])
        assert ran.status == 0
        assert "reads/s" in visible(ran.out)
        assert ran.out.rstrip().endswith("\x1b[?1049l")  # the screen as it was before
        assert "Traceback" not in ran.out

    @pytest.mark.parametrize("keys", ["xq", "q\x1b[A", "\x1b[Aq", "\x1b", "x" * 3000 + "q", "\x1bq"])
    def test_top_ends(self, command: Command, cache: Cache, keys: str) -> None:
        """A q ends it at once whatever comes along with it, and so does an Escape alone."""
        ran = command.terminal("top", "--every", "0.5", say=[("q ends it", keys)])
        assert ran.status == 0
        assert ran.out.rstrip().endswith("\x1b[?1049l")

    def test_top_goes_on(self, command: Command, cache: Cache) -> None:
        """Arrow keys, the wheel of a mouse and keys with Alt are sequences that begin with Escape, and end nothing."""
        keys = ["\x1b[A", "\x1bOA\x1bOA", "\x1b[<64;10;5M", "\x1b[M`qq", "\x1bx", "\x1b[", "x"]
        say = [("q ends it", key) for key in keys]
        ran = command.terminal("top", "--every", "0.5", say=[*say, ("q ends it", "q")])
        assert ran.status == 0
        assert visible(ran.out).count("q ends it") > len(keys)

    @pytest.mark.parametrize(
        ("read", "ends"),
        [
            (b"q", True),
            (b"xyzQ", True),
            (b"\x1b", True),
            (b"\x1b\x1b", True),
            (b"\x1bq", True),
            (b"\x1b[Aq", True),
            (b"\x04", True),
            (b"x", False),
            (b"\x1b[A\x1b[B", False),
            (b"\x1b\x1b[A", False),
            (b"\x1b[1;5A", False),
            (b"\x1bOB", False),
            (b"\x1b[M`qq", False),
            (b"\x1b[M`q", False),
            (b"\x1b[", False),
            (b"\x1b[<65;1;1", False),
            ("ä\x1bä".encode(), False),
        ],
    )
    def test_what_ends(self, read: bytes, ends: bool) -> None:
        """What was read at once is looked through for a key that ends it."""
        assert pressed.means_end(read) is ends

    @pytest.mark.parametrize("parts", [(b"\x1b", b"[A"), (b"x\x1b[", b"<64;1", b";1M"), (b"\x1b[M", b"`qq")])
    def test_torn_sequence(self, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, ...]) -> None:
        """The rest of a sequence is waited for: neither its beginning nor its end is taken for a key of its own."""
        monkeypatch.setattr(pressed, "_REST", 60.0)
        there, here = os.pipe()

        def is_read() -> bool:
            return not int.from_bytes(fcntl.ioctl(there, termios.FIONREAD, bytes(4)), sys.byteorder)

        os.write(here, parts[0])
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(pressed._read, there)
            for part in parts[1:]:
                wait_until(is_read, "a read")
                os.write(here, part)
            assert reading.result(60) == b"".join(parts)
        assert not pressed.means_end(b"".join(parts))
        os.close(here)
        assert pressed.means_end(pressed._read(there))  # the end of the terminal
        os.close(there)

    def test_narrow(self, command: Command, cache: Cache) -> None:
        """In 80 columns no line is longer, and no prefix is cut up."""
        with cache.reporting():
            cache.with_prefix("computed:").get_or_load("a", lambda: 1)
        ran = command.terminal("top", "--once", "--no-json")
        lines = visible(ran.out).splitlines()
        assert max(map(len, lines)) <= 80
        assert any(line.startswith("computed:") for line in lines)

    def test_narrower(self, command: Command, cache: Cache) -> None:
        """In 40 columns names and the figures that matter most are whole; the others are left away."""
        with cache.reporting():
            cache.with_prefix("computed:").get_or_load("a", lambda: 1)
        port = cache.settings.url.rpartition(":")[2]
        for arguments, names in (
            (["stats"], [("PREFIX", "computed:", "HITS")]),
            (
                ["top", "--once"],
                [("PREFIX", "computed:", "HITS"), ("NODE", f"127.0.0.1:{port}", "MEMORY")],
            ),
        ):
            lines = visible(command.terminal(*arguments, columns=40).out).splitlines()
            assert max(map(len, lines)) <= 40
            for title, name, figure in names:
                (head,) = [line for line in lines if line.startswith(title)]
                assert figure in head.split()
                assert set(head.split()) <= OF_PREFIXES | OF_NODES | {"READS", "LOADS"}
                assert any(line.split()[:1] == [name] for line in lines)

    @pytest.mark.parametrize("width", [40, 80])
    def test_node_that_is_away(self, cache: Cache, width: int) -> None:
        """What is wrong with a node stands on a line of its own, and leaves the others' figures their room."""
        away = NodeStats(
            "127.0.0.1:6380", error="Redis does not answer: Connection refused, and more to be said"
        )
        frame = Frame(Reading(0.0, 60.0, 1), (), (), [NodeStats("127.0.0.1:6379", memory=2**20), away])
        console = Console(width=width, file=io.StringIO(), highlight=False)
        console.print(rendered(frame, cache, width))
        file = console.file
        assert isinstance(file, io.StringIO)
        said = file.getvalue()
        assert re.search(r"^127.0.0.1:6379 +1.0 MiB", said, re.MULTILINE)
        assert "127.0.0.1:6380 Redis does not answer: Connection refused, and more to be said" in " ".join(
            said.split()
        )

    def test_wide_has_all(self, command: Command, cache: Cache) -> None:
        """In 80 columns nothing is left away."""
        with cache.reporting():
            cache.with_prefix("computed:").get_or_load("a", lambda: 1)
        assert set(visible(command.terminal("top", "--once").out).split()) >= OF_PREFIXES | OF_NODES

    def test_large_figures(self) -> None:
        """Figures of a busy shop leave room for its prefixes in 80 columns."""
        busy = CounterSnapshot(
            hits=90_000_000,
            stale_hits=99_000,
            misses=400_000,
            loads=399_000,
            load_errors=4_000,
            load_seconds=200_000.0,
        )
        reading = Reading(0.0, 0.0, 12, {"computed:": busy, "product:": busy})
        console = Console(width=80, file=io.StringIO(), highlight=False)
        console.print(prefix_table(reading, 0.0, 80))
        file = console.file
        assert isinstance(file, io.StringIO)
        assert any(line.startswith("computed:  ") for line in file.getvalue().splitlines())


class TestOutput:
    def test_colours(self, command: Command, cache: Cache) -> None:
        """Colours where there is a terminal; with --json none there either."""
        cache.set("a", "x")
        assert "\x1b[" in command.terminal("get", "a").out
        assert "\x1b[" not in command.terminal("get", "a", "--json").out

    def test_json_into_a_pipe(self, command: Command, cache: Cache) -> None:
        """JSON where there is no terminal."""
        assert command("ping").out.startswith("{")
        assert not command("ping", "--no-json").out.startswith("{")

    def test_cluster_frames(
        self, cluster_command: Command, redis_cluster: RedisCluster, make_cache: Callable[..., Cache]
    ) -> None:
        """On a cluster `top` tells of every primary."""
        cache = make_cache(redis_cluster.url)
        with cache.reporting():
            cache.get_or_load("a", lambda: 1)
        assert len(cluster_command("top", "--once").json["nodes"]) == 3
