"""The servers that tests and the demo start, and the watch over what is written to them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from neverstale.testing.servers import (
    PostgresServer,
    RedisCluster,
    RedisServer,
    Server,
    ServerError,
    binaries,
    frozen,
    wait_until,
)
from neverstale.testing.watch import TTLWatch

ANY_BINARY = next(iter(binaries().values()), Path("redis-server"))
pytestmark = pytest.mark.skipif(not binaries(), reason="no Redis server: apt-get install redis-server")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that no other test uses: this one may kill it."""
    with RedisServer.start(ANY_BINARY) as server:
        yield server


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestRedisServer:
    def test_answers_on_its_port_and_on_its_socket(self, own_server: RedisServer) -> None:
        """A started server answers at once, on both of its addresses."""
        assert own_server.client().ping()
        assert own_server.path is not None
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(own_server.path))
            plain.sendall(b"PING\r\n")
            assert plain.recv(100) == b"+PONG\r\n"
        assert own_server.url == f"redis://127.0.0.1:{own_server.port}"

    def test_keeps_nothing(self, own_server: RedisServer) -> None:
        """A restarted server is empty and has the port it had."""
        port = own_server.port
        own_server.client().set("key", "value", ex=60)
        own_server.restart()
        assert (own_server.port, own_server.keys()) == (port, [])

    def test_leaves_nothing_behind(self, own_server: RedisServer) -> None:
        """A stopped server has no process and no directory; stopping it twice is no error."""
        assert own_server.path is not None
        directory = own_server.path.parent
        pid = own_server.pid
        own_server.stop()
        own_server.stop()
        assert (directory.exists(), alive(pid)) == (False, False)

    def test_frozen_takes_connections_but_does_not_answer(self, own_server: RedisServer) -> None:
        """A frozen server looks like a hung machine, and goes on when it is thawed."""
        with socket.create_connection(("127.0.0.1", own_server.port), timeout=0.1) as plain:
            with frozen(own_server):
                plain.sendall(b"PING\r\n")
                with pytest.raises(TimeoutError):
                    plain.recv(100)
            plain.settimeout(10)
            assert plain.recv(100) == b"+PONG\r\n"

    def test_killed_is_gone_until_it_is_revived(self, own_server: RedisServer) -> None:
        """A killed server refuses connections; revive() brings it back."""
        own_server.kill()
        with pytest.raises((RedisConnectionError, RedisTimeoutError)):
            own_server.client().ping()
        own_server.revive()
        assert own_server.client().ping()

    def test_asks_for_its_password(self) -> None:
        """A server with a password is started and used like any other."""
        with RedisServer.start(ANY_BINARY, password="secret") as server:
            assert server.client().ping()
            assert server.url == f"redis://:secret@127.0.0.1:{server.port}"

    def test_port_that_is_taken(self) -> None:
        """A port that must be this one, and is taken, is named in the error."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ServerError, match=str(port)):
                RedisServer.start(ANY_BINARY, port=port)

    def test_lost_race_for_a_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A free port that somebody takes first costs another try."""
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
            ports = [taken.getsockname()[1], other.getsockname()[1]]
            other.close()
            monkeypatch.setattr("neverstale.testing.node.free_port", iter(ports).__next__)
            with RedisServer.start(ANY_BINARY) as server:
                assert server.port == ports[1]

    def test_wrong_option(self) -> None:
        """What a server says about an option that it does not know is in the error."""
        with pytest.raises(ServerError, match="no-such-option"):
            RedisServer.start(ANY_BINARY, "--no-such-option", "1")

    def test_missing_binary(self) -> None:
        """A server that is not installed gets the line that installs it."""
        with pytest.raises(ServerError, match="apt-get install redis-server"):
            RedisServer.start("/no/such/redis-server")

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
    def test_dies_with_its_parent(self) -> None:
        """A server does not outlive a parent that was killed without a chance to clean up."""
        script = """
            import signal
            from neverstale.testing.servers import RedisServer, binaries
            server = RedisServer.start(next(iter(binaries().values())))
            print(server.pid, flush=True)
            signal.pause()
        """
        parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
        with parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert alive(pid)
            parent.kill()
        wait_until(lambda: not alive(pid), "the end of an orphan", 10)

    def test_does_not_hear_a_ctrl_c(self, own_server: RedisServer) -> None:
        """A server has a session of its own: the terminal's signals are for the program alone."""
        assert os.getsid(own_server.pid) != os.getsid(0)

    def test_survives_the_end_of_a_fork(self) -> None:
        """A forked child that leaves in the regular way does not take the server with it."""
        script = """
            import os, sys
            from neverstale.testing.servers import RedisServer, binaries
            server = RedisServer.start(next(iter(binaries().values())))
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
            assert server.client().ping()
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


class TestRedisCluster:
    def test_has_three_primaries_and_their_replicas(self, redis_cluster: RedisCluster) -> None:
        """Six nodes agree on three primaries, and every key has its place."""
        assert len(redis_cluster.nodes) == 6
        assert len(redis_cluster.primaries()) == 3
        for number in range(100):
            redis_cluster.client().set(f"key:{number}", "value", ex=60)
        assert len(redis_cluster.keys()) == 100
        spread = [len(node.keys()) for node in redis_cluster.primaries()]
        assert (min(spread) > 0, sum(spread)) == (True, 100)
        assert b"key:7" in redis_cluster.primary_of("key:7").keys()  # noqa: SIM118

    def test_recovers_from_the_death_of_a_primary(self, valkey_cluster: RedisCluster) -> None:
        """After a primary was killed, revive() returns when the cluster serves every slot again."""
        valkey_cluster.primary_of("key").kill()
        valkey_cluster.revive()
        assert len(valkey_cluster.primaries()) == 3
        valkey_cluster.client().set("key", "value", ex=60)
        assert valkey_cluster.keys() == [b"key"]

    def test_recovers_from_the_death_of_a_replica(self, valkey_cluster: RedisCluster) -> None:
        """After a replica was taken for dead, revive() returns when every node names it again."""

        def named() -> set[int]:
            views: list[Any] = [
                node.client().execute_command("CLUSTER", "SLOTS")
                for node in valkey_cluster.nodes
                if node.running
            ]
            return {sum(len(share) - 2 for share in shares) for shares in views}

        victim = next(node for node in valkey_cluster.nodes if node.client().role()[0] == b"slave")
        victim.kill()
        wait_until(lambda: named() == {5}, "a replica that is missed")
        valkey_cluster.revive()
        assert named() == {6}

    def test_a_node_is_as_patient_as_before_its_death(self, valkey_cluster: RedisCluster) -> None:
        """A node that was revived takes the others for dead no sooner than they do each other."""
        valkey_cluster.primaries()[0].kill()
        valkey_cluster.revive()
        name = "cluster-node-timeout"
        assert {str(node.client().config_get(name)[name]) for node in valkey_cluster.nodes} == {"2000"}

    def test_url_names_every_node(self, redis_cluster: RedisCluster) -> None:
        """The URL has all nodes, so that a client may start with whichever is alive."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in redis_cluster.nodes)
        assert redis_cluster.url == f"redis://{hosts}?cluster=true"


class TestServer:
    def test_is_empty_when_a_test_begins(self, server: Server) -> None:
        """What an earlier test left is gone."""
        assert server.keys() == []
        server.client().set("left", "behind", ex=60)

    def test_is_empty_when_another_test_begins(self, server: Server) -> None:
        """The same again: one of the two comes second, in whatever order."""
        self.test_is_empty_when_a_test_begins(server)

    def test_keys_are_those_of_all_primaries(self, server: Server) -> None:
        """keys() and flush() reach every primary."""
        for number in range(20):
            server.client().set(f"key:{number}", "value", ex=60)
        assert server.keys() == sorted(b"key:%d" % number for number in range(20))
        server.flush()
        assert server.keys() == []

    def test_freeze_and_thaw(self, server: Server) -> None:
        """A server, or a whole cluster, can be frozen and goes on as it was."""
        server.client().set("key", "value", ex=60)
        with frozen(server):
            assert all(node.running for node in server.nodes)
        assert server.client().get("key") == b"value"


class TestTTLWatch:
    @pytest.mark.plants_keys
    @pytest.mark.parametrize(
        ("commands", "finding"),
        [
            (["SET k 1"], "k: made without a TTL"),
            (["SADD k 1"], "k: made without a TTL"),
            (["SET k 1", "DEL k"], "k: made without a TTL, then deleted"),
            (["SET k 1", "UNLINK k"], "k: made without a TTL, then deleted"),
            (["SET k 1 EX 60", "PERSIST k"], "k: lost its TTL by PERSIST"),
            (["SET k 1 EX 60", "SET k 2"], "k: has no TTL"),
            (["SET k 1 EX 60", "PERSIST k", "EXPIRE k 60"], "k: lost its TTL by PERSIST"),
        ],
        ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
    )
    def test_finds(self, server: Server, commands: list[str], finding: str) -> None:
        """A key that was without a TTL is found, also if it is no longer there."""
        with TTLWatch(server) as watch:
            for command in commands:
                server.client().execute_command(*command.split())
            assert watch.findings() == [finding]
            assert watch.findings(spare=["k*"]) == []

    @pytest.mark.parametrize(
        "commands",
        [
            ["SET k 1 EX 60"],
            ["SET k 1 PX 60000", "SET k 2 KEEPTTL"],
            ["SET k 1 EX 60", "DEL k", "SET k 1 EX 60"],
            ["SETEX k 60 1", "INCR k", "APPEND k 1"],
            ["EVAL redis.call('SADD',KEYS[1],1)redis.call('PEXPIRE',KEYS[1],60000) 1 k"],
        ],
        ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
    )
    def test_is_content(self, server: Server, commands: list[str]) -> None:
        """A key that has a TTL all its life is not found."""
        with TTLWatch(server) as watch:
            for command in commands:
                server.client().execute_command(*command.split())
            assert watch.findings() == []

    def test_fails_the_test_that_wrote_the_key(self, tmp_path: Path) -> None:
        """The suite's own check names the key, and a marker spares it."""
        for name in ("conftest.py", "test_planted.py"):
            source = (ROOT / "tests" / "conftest.py").read_text() if name == "conftest.py" else PLANTED
            (tmp_path / name).write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
        command += ["--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert "3 passed, 1 error" in run.stdout, run.stdout
        assert "planted: made without a TTL" in run.stdout


PLANTED = """
import pytest

def test_plants(valkey_server):
    valkey_server.client().set("planted", "1")

@pytest.mark.plants_keys
def test_may_plant(valkey_server):
    valkey_server.client().set("planted", "1")

@pytest.mark.plants_keys("plan*")
def test_may_plant_this(valkey_server):
    valkey_server.client().set("planted", "1")
"""


class TestPostgresServer:
    async def test_serves_an_empty_database(self, postgres: PostgresServer) -> None:
        """A started server has a database for whoever asks for one."""
        import asyncpg

        url = postgres.create_database(f"made_by_{os.getpid()}")
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            assert (
                await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
            )
        finally:
            await connection.close()

    def test_leaves_nothing_behind(self) -> None:
        """A stopped server takes no more connections."""
        if PostgresServer.programs() is None:
            pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
        with PostgresServer.start() as server:
            port = server.port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
