"""`make demo`: the whole shop with its cache, by one command, and ended by one Ctrl-C.

    python -m shop.demo [--port 8000] [--workers 2] [--small] [--state .demo]

It starts a Redis server (or uses the one in `REDIS_URL`), fills the database (SQLite in `.demo`, or the one in
`DATABASE_URL`), warms the cache and serves. What goes wrong on the way, and can go wrong for anybody, gets one
clear line and exit status 1.

Every child is in a session of its own: a Ctrl-C in the terminal reaches this process alone, which ends the children
one after the other and says so. Should this process be killed, the kernel ends them (see
`neverstale.testing.processes`).
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Importing takes a moment, and a Ctrl-C in that moment is no error either.
    signal.signal(signal.SIGINT, lambda _number, _frame: sys.exit(0))

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import secrets
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from neverstale.testing.servers import RedisServer

# How long the shop may take to leave by itself: uvicorn lets requests finish.
GRACE = 10.0
START_LIMIT = 60.0
WATCH_EVERY = 1.0
# Enough for every product page of the demo; above it the least recently used entries go.
REDIS_OPTIONS = ("--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru")
ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ADMIN = "admin@example.com"


class Trouble(Exception):
    """Something that the user can act on; its text is all that is shown."""


class Stop(BaseException):
    """A signal asked us to end. Not an `Exception`: nothing on the way may take it for a failure."""


def explain(error: OSError) -> str:
    """Say in one line what the operating system refused."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}: make room, or put the demo elsewhere with --state"
    return f"{error.strerror or error}{where}"


class Demo:
    """One run of the demo; `run` returns when the shop ends, and raises `Stop` when it is asked to."""

    def __init__(
        self, *, port: int, workers: int, small: bool, state: Path, environ: Mapping[str, str]
    ) -> None:
        self._port = port
        self._workers = workers
        self._small = small
        self._state = state.absolute()
        self._environ = dict(environ)
        self._server: RedisServer | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *exc: object) -> None:
        ignore_signals()
        self._exit.close()

    def run(self) -> NoReturn:
        """Start everything, serve, and wait.

        Raises:
            Trouble: something did not start, or the shop ended by itself.
        """
        self._claim_port()
        self._state.mkdir(parents=True, exist_ok=True)
        password = self._secret("SHOP_ADMIN_PASSWORD", "admin-password")
        self._environ["SHOP_ADMIN_PASSWORD"] = password
        self._environ["SHOP_CACHE_TOKEN"] = self._secret("SHOP_CACHE_TOKEN", "cache-token")
        self._environ.setdefault("DATABASE_URL", f"sqlite:///{self._state}/shop.db")
        self._environ["REDIS_URL"] = self._redis()
        self._do("seed", *(["--small"] if self._small else []))
        self._do("warm", "--products", "50" if self._small else "500")
        shop = self._start("serve", "--port", str(self._port), "--workers", str(self._workers))
        self._exit.callback(end, shop)
        self._wait_for(shop)
        say(f"\n  The shop:       http://localhost:{self._port}")
        say(f"  Administrator:  {ADMIN}, password {password}")
        say(
            f"  The cache:      http://localhost:{self._port}/cache/, token {self._environ['SHOP_CACHE_TOKEN']}"
        )
        say(f"  In a terminal:  {self._variables()} {Path(sys.executable).parent / 'neverstale'} top")
        say("  To end it:      Ctrl-C\n")
        raise Trouble(f"the shop ended by itself, with status {self._watch(shop)}")

    def _watch(self, shop: subprocess.Popen[bytes]) -> int:
        """Wait for the end of the shop, and say so should its Redis end before: the shop goes on without."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return shop.wait(WATCH_EVERY)
            if self._server is not None and not self._server.running:
                self._server = None
                say(
                    "demo: its Redis has ended; the shop serves on without a cache. Another start gives it a new one."
                )

    def _variables(self) -> str:
        """Return what tells the command `neverstale` which cache it is: `NAME=value NAME=value`."""
        from .caching import namespace_of
        from .db import Database
        from .settings import Settings

        async def namespace() -> str:
            settings = Settings.from_env(self._environ)
            db = Database(settings.database_url)
            try:
                return await namespace_of(db, settings)
            finally:
                await db.close()

        # A URL that the user has set may have a password, and they know it.
        given = [f"REDIS_URL={self._server.url}"] if self._server is not None else []
        return shlex.join([*given, f"NEVERSTALE_NAMESPACE={asyncio.run(namespace())}"])

    def _claim_port(self) -> None:
        """Find out now, and not after a minute of filling the database, that the port is taken; 0 is any free one."""
        with socket.socket() as probe:
            # As the server itself will do: a port that is merely cooling down is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self._port))
                self._port = probe.getsockname()[1]
            except PermissionError as error:
                raise Trouble(f"port {self._port} is not for ordinary users: {another(8000)}") from error
            except OSError as error:
                raise Trouble(f"port {self._port} is taken: {another(self._port + 1)}") from error

    def _secret(self, variable: str, name: str) -> str:
        """Return what the user has set, or what the last run made, or make it."""
        given = self._environ.get(variable)
        if given:
            return given
        place = self._state / name
        kept = place.read_text().strip() if place.is_file() else ""
        if kept:
            return kept
        made = secrets.token_urlsafe(12)
        with open(place, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(made + "\n")
        return made

    def _redis(self) -> str:
        """Return the URL of a Redis that answers."""
        from neverstale.testing.servers import RedisServer, ServerError, binaries

        url = self._environ.get("REDIS_URL")
        if url:
            ask_redis(url)
            return url
        found = binaries()
        binary = found.get("valkey") or found.get("redis")
        if binary is None:
            raise Trouble("there is no Redis server: apt-get install redis-server, or set REDIS_URL")
        try:
            server = self._server = RedisServer.start(binary, *REDIS_OPTIONS, unixsocket=False)
        except ServerError as error:
            raise Trouble(str(error)) from error
        self._exit.callback(server.stop)
        say(f"{binary.name} is running on port {server.port}")
        return server.url

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        from neverstale.testing.processes import spawn

        return spawn([sys.executable, "-m", "shop", *command], env=self._environ, death=signal.SIGTERM)

    def _do(self, *command: str) -> None:
        """Run a command of the shop to its end. It says itself what went wrong."""
        child = self._start(*command)
        with contextlib.ExitStack() as stack:
            stack.callback(end, child)
            if child.wait() != 0:
                raise SystemExit(1)

    def _wait_for(self, shop: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until:
            if shop.poll() is not None:
                raise SystemExit(1)  # it has said why
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5):
                    return
            except urllib.error.HTTPError as error:
                raise Trouble(f"the shop is not well: /health says {error.code}") from error
            except OSError:
                time.sleep(0.05)
        raise Trouble(f"the shop did not answer within {START_LIMIT:g} seconds")


def ask_redis(url: str) -> None:
    """Make sure that a Redis answers.

    Raises:
        Trouble: it does not, or the URL is not one.
    """
    from neverstale import Cache
    from neverstale.errors import NeverstaleError

    logging.getLogger("neverstale").addHandler(logging.NullHandler())  # our own line says it all
    try:
        with Cache.from_url(url) as cache:
            if cache.ping():
                return
            problem = cache.health().redis
    except NeverstaleError as error:
        problem = str(error)
    raise Trouble(f"the Redis of REDIS_URL cannot be used: {problem}")


def another(port: int) -> str:
    """Say how to choose another port."""
    return f"choose another, for example `make demo PORT={port}`"


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started: with a word first, by force if that is not heard."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
    # The child leads a group of its own: what is left of it goes too.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def say(text: str) -> None:
    print(text, flush=True)


def stop_on_signals() -> None:
    """Turn the first SIGINT, SIGTERM or SIGHUP into `Stop`; those that follow are ignored."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        ignore_signals()
        raise Stop

    for each in ASKED_TO_END:
        signal.signal(each, stop)


def ignore_signals() -> None:
    """Let nothing interrupt the ending of what was started; it takes seconds at most."""
    for each in ASKED_TO_END:
        signal.signal(each, signal.SIG_IGN)


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m shop.demo", description="run the shop with its cache")
    options.add_argument("--port", type=port_number, default=os.environ.get("PORT") or "8000")
    options.add_argument("--workers", type=int, default=2, help="processes that serve (default: 2)")
    options.add_argument("--small", action="store_true", help="a small database, for a quick look")
    options.add_argument("--state", type=Path, default=Path(".demo"), help="where the demo keeps its files")
    return options.parse_args()


def port_number(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 1 to 65535, or 0 for any free one")
    return int(text)


def main() -> int:
    chosen = arguments()
    demo = Demo(
        port=chosen.port,
        workers=chosen.workers,
        small=chosen.small,
        state=chosen.state,
        environ=os.environ,
    )
    stop_on_signals()
    try:
        with demo:
            demo.run()
    except Stop:
        # A progress bar that was interrupted has left the terminal without a cursor.
        say("\x1b[?25h\nEnded." if sys.stdout.isatty() else "Ended.")
        return 0
    except Trouble as trouble:
        problem = str(trouble)
    except OSError as error:
        problem = explain(error)
    print(f"demo: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
