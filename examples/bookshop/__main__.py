"""Measure every step of the bookshop, and print the table of docs/tutorial.md: `python -m examples.bookshop`.

Starts a Redis, and each step as a process of its own on a copy of the same database. Visitors ask them in turn, round
after round, so that whatever else the machine does meets all alike. The visitors share the machine with the shops, so
the ratios are rather too low than too high.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from neverstale.testing.processes import free_port, last_words, spawn, wait_until
from neverstale.testing.servers import RedisServer, binaries

from .visitors import Asked, Visitors

ROOT = Path(__file__).resolve().parents[2]
STEPS = (
    "as it was",
    "connection and health",
    "one cached query",
    "tags, invalidated after each commit",
    "HTTP responses by rules",
    "a computed value with a soft TTL",
    "sessions",
    "invalidation by SQLAlchemy",
    "metrics",
)
HEAD = (
    "step",
    "",
    "requests/s",
    "p50, ms",
    "p99, ms",
    "processor, ms a request",
    "statements per 1,000 requests",
    "stale prices",
)
CORES = {1: "one core", 2: "two cores", 4: "four cores", 8: "eight cores"}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m examples.bookshop", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each step has its turn (%(default)s)"
    )
    parser.add_argument("--connections", type=int, default=8, help="of visitors (%(default)s)")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.seconds, options.rounds, options.connections))
    print(
        f"{machine()}; {options.connections} visitors, {options.rounds} x {options.seconds:g} s for each step\n"
    )
    for cells in (HEAD, tuple("---" for _ in HEAD), *rows):
        print(f"| {' | '.join(cells)} |")


def machine() -> str:
    """Say where this was measured, as far as it matters."""
    count = os.cpu_count() or 1
    return f"{CORES.get(count, f'{count} cores')}, Python {platform.python_version()}, SQLite"


async def measure(seconds: float, rounds: int, connections: int) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    with _shops() as shops:
        asked = [Asked() for _ in STEPS]
        for shop in shops:  # unmeasured: imports, connections, and what is asked for most
            await shop.ask(seconds / 2, connections)
        for _ in range(rounds):
            for number, shop in enumerate(shops):
                asked[number].add(await shop.ask(seconds, connections))
        return [_row(number, each) for number, each in enumerate(asked)]


def _row(number: int, asked: Asked) -> tuple[str, ...]:
    count = len(asked.seconds)
    cuts = statistics.quantiles(asked.seconds, n=100)
    return (
        str(number),
        STEPS[number],
        f"{count / asked.span:,.0f}",
        f"{cuts[49] * 1000:.1f}",
        f"{cuts[98] * 1000:.1f}",
        f"{1000 * asked.processor / count:.2f}",
        f"{1000 * asked.statements / count:,.0f}",
        f"{asked.stale:,}",
    )


@contextlib.contextmanager
def _shops() -> Iterator[list[Visitors]]:
    """Start every step, each with a copy of the database and a database of Redis of its own."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bookshop-")))
        found = binaries()
        server = stack.enter_context(RedisServer.start(found.get("redis") or found["valkey"]))
        template = place / "bookshop.db"
        environ = dict(os.environ, DATABASE_URL=f"sqlite+aiosqlite:///{template}")
        filling = "import asyncio; from examples.bookshop.database import fill; asyncio.run(fill())"
        subprocess.run([sys.executable, "-c", filling], cwd=ROOT, env=environ, check=True)
        shops = []
        for number in range(len(STEPS)):
            path = place / f"step{number}.db"
            shutil.copyfile(template, path)
            environ["DATABASE_URL"] = f"sqlite+aiosqlite:///{path}"
            environ["REDIS_URL"] = f"{server.url}/{number}"
            port = stack.enter_context(_served(number, environ, place / f"step{number}.log"))
            shops.append(Visitors(port, seed=1))
        yield shops


@contextlib.contextmanager
def _served(number: int, environ: dict[str, str], log: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "examples.bookshop.serve", str(number), str(port)]
    process = spawn(command, log, env=dict(environ, PYTHONPATH=str(ROOT)))
    try:
        wait_until(lambda: _answers(port), f"step {number} of the bookshop serves")
        yield port
    except BaseException:
        print(last_words(log), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


if __name__ == "__main__":
    main()
