"""`neverstale doctor`: what it writes, what it asks, and its exit statuses."""

from __future__ import annotations

import re
import signal

import pytest

from neverstale import Cache
from neverstale.testing.servers import RedisCluster, RedisServer, binaries
from tests.cli.conftest import Command, visible


class TestStatus:
    def test_clean(self, command: Command) -> None:
        """Where nothing is wrong the status is 0, with --strict, too."""
        with RedisServer.start(
            binaries()["redis"], "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"
        ) as server:
            ran = command("doctor", "--strict", "--url", server.url)
            assert (ran.status, ran.json["exit_status"]) == (0, 0)

    def test_warnings(self, command: Command) -> None:
        """A warning is 0, and 1 with --strict, unless it is accepted."""
        accepted = ("--ignore", "maxmemory-unset", "--ignore", "noeviction")
        assert command("doctor").status == 0
        ran = command("doctor", "--strict")
        assert ran.status == 1
        known = [each["code"] for each in ran.json["findings"] if each["severity"] == "warning"]
        more = [word for code in known for word in ("--ignore", code)]
        assert command("doctor", "--strict", *accepted, *more).status == 0

    def test_wrong_namespace(self, command: Command, cache: Cache) -> None:
        """A namespace with nothing in it, beside one that has, is no clean bill."""
        cache.set("a", "x")
        assert "nothing-found" not in [each["code"] for each in command("doctor").json["findings"]]
        ran = command("--namespace", "other", "doctor", "--strict")
        assert ran.status == 1
        (found,) = [each for each in ran.json["findings"] if each["code"] == "nothing-found"]
        assert (found["severity"], found["what"]) == (
            "warning",
            "none of 1 key is of the namespace 'other'; seen: 'shop'",
        )

    def test_unknown_code(self, command: Command) -> None:
        """A code to be ignored that no finding has is wrong usage, not a job that goes on failing."""
        ran = command("doctor", "--ignore", "maxmemory-unsett")
        assert (ran.status, ran.out) == (2, "")
        assert "did you mean 'maxmemory-unset'" in ran.err

    @pytest.mark.plants_keys
    def test_errors(self, command: Command, redis_server: RedisServer) -> None:
        """A key without a TTL is 1."""
        redis_server.client().set("shop:v1:a", "x")
        ran = command("doctor")
        assert ran.status == 1
        assert ran.json["findings"][0]["code"] == "no-ttl"
        assert command("doctor", "--no-scan").status == 0
        assert command("doctor", "--ignore", "no-ttl").status == 0


class TestMend:
    @pytest.mark.plants_keys
    def test_asks(self, command: Command, redis_server: RedisServer) -> None:
        """Without anybody to ask and without --yes nothing is mended."""
        redis_server.client().set("shop:v1:a", "x")
        ran = command("doctor", "--mend", "delete")
        assert ran.status == 2
        assert "--yes" in ran.err
        assert redis_server.client().ttl("shop:v1:a") == -1

    @pytest.mark.plants_keys
    @pytest.mark.parametrize(("how", "there"), [("expire", True), ("delete", False)])
    def test_yes(self, command: Command, redis_server: RedisServer, how: str, there: bool) -> None:
        """Mended, the status is 0."""
        redis_server.client().set("shop:v1:a", "x")
        ran = command("doctor", "--mend", how, "--yes")
        assert ran.status == 0
        assert ran.json["mended"]["expired" if there else "deleted"] == 1
        assert bool(redis_server.client().exists("shop:v1:a")) is there

    @pytest.mark.plants_keys
    def test_in_a_terminal(self, command: Command, redis_server: RedisServer) -> None:
        """In a terminal it shows what is wrong, asks, and does what is answered."""
        redis_server.client().set("shop:v1:a", "x")
        ran = command.terminal("doctor", "--mend", "expire", say=[("[y/N]", "n\n")])
        assert ran.status == 1
        assert redis_server.client().ttl("shop:v1:a") == -1
        ran = command.terminal("doctor", "--mend", "expire", say=[("[y/N]", "y\n")])
        assert ran.status == 0
        assert "1 given a TTL" in visible(ran.out)
        assert redis_server.client().ttl("shop:v1:a") > 0

    @pytest.mark.plants_keys
    def test_refused(self, command: Command, redis_server: RedisServer) -> None:
        """What could not be mended stays an error."""
        client = redis_server.client()
        client.set("shop:v1:a", "x")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-pexpire")
        try:
            url = f"redis://reader:secret@127.0.0.1:{redis_server.port}"
            ran = command("doctor", "--mend", "expire", "--yes", "--url", url)
        finally:
            client.execute_command("ACL", "DELUSER", "reader")
        assert ran.status == 1
        assert ran.json["mended"]["refused"] == 1
        assert "secret" not in ran.out


class TestShown:
    @pytest.mark.plants_keys
    @pytest.mark.parametrize("columns", [80, 120])
    def test_terminal(self, command: Command, cache: Cache, redis_server: RedisServer, columns: int) -> None:
        """People get findings with what they mean and what to do, within their terminal's width."""
        cache.with_prefix("api:").set_many({str(number): "x" * 100 for number in range(50)}, tags=["all"])
        redis_server.client().set("shop:v1:\x1b[31mred", "x")
        ran = command.terminal("doctor", columns=columns)
        said = visible(ran.out)
        assert "ERROR  1 key without a TTL" in said
        assert "-> neverstale doctor --mend" in said
        assert "[no-ttl]" in said
        assert "\x1b[31mred" not in ran.out
        shown = said[said.index("NODE") :]
        assert max(len(line) for line in shown.splitlines()) <= columns

    @pytest.mark.plants_keys
    def test_long_keys(self, command: Command, redis_server: RedisServer) -> None:
        """A key that is longer than a line is written in one piece, so that it can be copied."""
        key = "shop:v1:api:" + "GET:/products/" * 12 + "end"
        redis_server.client().set(key, "x")
        said = visible(command.terminal("doctor", columns=80).out)
        assert re.search(rf"^ +\d+ B  {re.escape(key)}$", said, re.MULTILINE)
        assert re.search(rf"without a TTL:\s{re.escape(key)}$", said, re.MULTILINE)

    def test_progress(self, command: Command, cache: Cache) -> None:
        """A bar says how far the scan is."""
        cache.set_many({str(number): "x" for number in range(3000)})
        ran = command.terminal("doctor", "--rate", "4000")
        assert re.search(r"scanning .*\d+%", visible(ran.out))

    def test_ctrl_c(self, command: Command, cache: Cache) -> None:
        """Ctrl-C ends a scan cleanly."""
        cache.set_many({str(number): "x" for number in range(3000)})
        ran = command.terminal("doctor", "--rate", "200", say=[("scanning", "\x03")])
        assert ran.status == 130
        assert "Traceback" not in ran.out

    def test_interrupted_script(self, command: Command, cache: Cache, redis_server: RedisServer) -> None:
        """The same by a signal, without a terminal."""
        cache.set_many({str(number): "x" for number in range(3000)})
        process = command.process("doctor", "--rate", "200")
        redis_server.client().config_resetstat()
        from neverstale.testing.servers import wait_until

        wait_until(lambda: "cmdstat_scan" in redis_server.client().info("commandstats"), "a scan")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err.strip()) == (130, "", "")

    def test_cluster(self, cluster_command: Command, redis_cluster: RedisCluster) -> None:
        """A cluster is shown node by node, each finding once."""
        ran = cluster_command("doctor", "--rate", "0")
        assert len(ran.json["nodes"]) == 6
        assert len({each["what"] for each in ran.json["findings"]}) == len(ran.json["findings"])
        assert "replica" in cluster_command("doctor", "--no-scan", "--no-json").out
