"""How much faster is the shop with its cache? `python -m shop load`, or `python -m shop.load`.

Starts the same shop twice on the same database, once without and once with the cache, and asks them in turn, round
after round, each round in another order, so that whatever else the machine does meets both alike. Both get the same
requests in the same order: products and lists by Zipf's law, as people ask; some are logged in, the figures are asked
for by an administrator.

Before that it is looked whether both say the same, byte for byte, and whether who is logged in is known as the one
that they are; during it every status is checked. A difference or a failure is exit status 1.

The client shares the machine with the servers, so the ratio is rather too low than too high.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from signal import SIGTERM
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import func, select

from neverstale.testing.processes import ServerError, free_port, spawn
from neverstale.testing.servers import PostgresServer, RedisServer, binaries

from .client import HOST, Figures, ask, fetch, is_up
from .db import Database
from .differences import Differences, compare, recognise
from .load_table import show
from .members import logged_in
from .models import Category, Order, Product
from .seed import FULL, SMALL, Size, seed, seeded_as
from .settings import Settings
from .traffic import KINDS, Member, Request, Visitors

__all__ = ["LoadError", "command", "main", "measure", "running_redis", "running_shop", "seeded_database"]

# Drawn once for each kind and asked again and again: about what a shop is asked within the five minutes that entries
# live, so that most of it is in the cache, as it is after a while in production.
_DRAWN = 1_000
# Of these so many are compared; without the cache a report takes its time.
_COMPARED = 50
_START_LIMIT = 30.0
_WARM_LIMIT = 120.0


class LoadError(Exception):
    """The measurement cannot be made; the message says why, in one line."""


# -- the run ----------------------------------------------------------------------------------------------------------


async def measure(
    environ: dict[str, str],
    *,
    kinds: Sequence[str] = KINDS,
    seconds: float = 1.0,
    rounds: int = 4,
    connections: int = 16,
    workers: int = 1,
    postgres: bool = False,
    size: Size = FULL,
    say: Console,
) -> dict[str, Any]:
    """Start both shops, ask them in turn, and return the figures of each kind, off and on, with their ratio."""
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(seeded_database(environ, postgres, size, say))
        admin, members = await stack.enter_async_context(logged_in(db))
        async with db.read() as session:
            ids = list(await session.scalars(select(Product.id).order_by(Product.id)))
            slugs = list(await session.scalars(select(Category.slug).order_by(Category.id)))
            newest = await session.scalar(select(func.max(Order.created_at)))
        if not ids or not slugs or newest is None:
            raise LoadError("there are no products or no orders in this database")
        environ["REDIS_URL"] = environ.get("REDIS_URL") or stack.enter_context(running_redis())
        ports = {
            mode: await stack.enter_async_context(running_shop(environ, flag, workers))
            for mode, flag in (("off", "0"), ("on", "1"))
        }
        stack.push_async_callback(_log_out, ports["on"], [admin, *members])
        differences = Differences()
        await recognise(ports, [admin, *members], differences)
        visitors = Visitors(ids, slugs, admin, members, newest.date())
        results = {}
        for kind in kinds:
            drawn = visitors.requests(kind, _DRAWN)
            say.print(f"{kind}: comparing", highlight=False)
            await compare(ports, drawn[:_COMPARED], differences)
            requests = [each.encode() for each in drawn]
            results[kind] = await _contest(kind, ports, requests, seconds, rounds, connections, say)
        return {
            "database": db.url.get_backend_name(),
            "products": len(ids),
            "connections": connections,
            "workers": workers,
            "rounds": rounds,
            "seconds_per_round": seconds,
            "compared": differences.compared,
            "wrong": differences.wrong,
            "kinds": results,
        }


async def _contest(
    kind: str,
    ports: dict[str, int],
    drawn: list[bytes],
    seconds: float,
    rounds: int,
    connections: int,
    say: Console,
) -> dict[str, Any]:
    """Ask both shops the same in turn."""
    # Each shop goes through the same requests from the beginning and goes on where it was in the next round.
    requests = {mode: cycle(drawn) for mode in ports}
    totals = {mode: Figures() for mode in ports}
    # Unmeasured first: imports, connections, the database's pages in memory, and for the cache every request once.
    say.print(f"{kind}: warming up", highlight=False)
    await ask(ports["off"], requests["off"], connections, seconds)
    await ask(ports["on"], iter(dict.fromkeys(drawn)), connections, _WARM_LIMIT)
    ratios = []
    for number in range(rounds):
        rates = {}
        for mode in ("off", "on") if number % 2 == 0 else ("on", "off"):
            say.print(f"{kind}: round {number + 1} of {rounds}, cache {mode}", highlight=False)
            figures = await ask(ports[mode], requests[mode], connections, seconds)
            rates[mode] = figures.rate
            totals[mode].add(figures)
        if rates["off"]:
            ratios.append(rates["on"] / rates["off"])
    return {
        "off": totals["off"].summary(),
        "on": totals["on"].summary(),
        "ratio": round(statistics.median(ratios), 2) if ratios else 0.0,
        "ratios": [round(each, 2) for each in ratios],
    }


async def _log_out(port: int, members: Sequence[Member]) -> None:
    """End the sessions in the cache as well: it may be one that stays."""
    for each in members:
        with contextlib.suppress(OSError, EOFError):
            await fetch(port, Request("/api/logout", each).encode("POST"))


@contextlib.asynccontextmanager
async def seeded_database(
    environ: dict[str, str], postgres: bool, size: Size, say: Console
) -> AsyncIterator[Database]:
    """Give the shop's database, or one of our own: on PostgreSQL, small, or where there is none yet."""
    own = postgres or size is not FULL
    if own and environ.get("DATABASE_URL"):
        raise LoadError("DATABASE_URL is set: --postgres and --small are for a database of its own")
    with contextlib.ExitStack() as stack:
        db = Database(Settings.from_env(environ).database_url)
        if own or await seeded_as(db) is None:
            if environ.get("DATABASE_URL"):
                raise LoadError("there is no shop in this database yet; fill it with: python -m shop seed")
            if postgres:
                server = stack.enter_context(_postgres())
                environ["DATABASE_URL"] = server.create_database("shop")
            else:
                place = stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-load-"))
                environ["DATABASE_URL"] = f"sqlite:///{Path(place) / 'shop.db'}"
            say.print("Filling a database of its own ...")
            await db.close()
            db = Database(environ["DATABASE_URL"])
            await seed(db, size, seed=1, admin_password="not used here")
        if db.is_sqlite:  # the shops run elsewhere, where a relative path would be another one
            environ["DATABASE_URL"] = _absolute(db)
        try:
            yield db
        finally:
            await db.close()


def _absolute(db: Database) -> str:
    return f"sqlite:///{Path(db.url.database or '').absolute()}"


def _postgres() -> PostgresServer:
    if PostgresServer.programs() is None:
        raise LoadError("there is no PostgreSQL server: apt-get install postgresql, or set DATABASE_URL")
    return PostgresServer.start()


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    """Start a server of our own and give its URL."""
    found = binaries()
    binary = found.get("valkey") or found.get("redis")
    if binary is None:
        raise LoadError("there is no Redis server: apt-get install redis-server, or set REDIS_URL")
    with RedisServer.start(binary, unixsocket=False) as server:
        yield server.url


@contextlib.asynccontextmanager
async def running_shop(environ: dict[str, str], cache: str, workers: int) -> AsyncIterator[int]:
    """Serve the shop (observed.py) with its cache on, "1", or off, "0", and give its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "shop.observed:create_app", "--factory", "--host", HOST]
    command += ["--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    command += ["--no-access-log", "--no-server-header"]  # as `python -m shop serve` does
    quiet = {**environ, "CACHE_ENABLED": cache}
    with tempfile.TemporaryDirectory(prefix="shop-load-") as place:
        log = Path(place) / "shop.log"
        # The shop says where it is; nobody here needs to read it. Its modules are where ours are.
        quiet["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path[1:]])
        process = spawn(command, log, env=quiet, death=SIGTERM)
        try:
            until = time.monotonic() + _START_LIMIT
            while not await is_up(port):
                if process.poll() is not None or time.monotonic() > until:
                    said = " ".join(log.read_text(errors="replace").split())
                    raise LoadError(f"the shop did not start: {said}")
                await asyncio.sleep(0.05)
            yield port
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


def command(
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="of each round")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="of each kind, off and on in turn")] = 4,
    connections: Annotated[int, typer.Option(min=1, max=500, help="at the same time")] = 16,
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes of each shop")] = 1,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"one of: {', '.join(KINDS)}; all by default")
    ] = None,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="on a PostgreSQL server of its own, not in DATABASE_URL")
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="on a database of its own with 600 products")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="figures for programs")] = False,
) -> None:
    """Measure the shop with its cache off and on, in one run."""
    out, err = Console(), Console(stderr=True)
    chosen = kind or list(KINDS)
    unknown = [each for each in chosen if each not in KINDS]
    try:
        if unknown:
            raise LoadError(f"--kind is {unknown[0]!r}; allowed are {', '.join(KINDS)}")
        results = asyncio.run(
            measure(
                dict(os.environ),
                kinds=chosen,
                seconds=seconds,
                rounds=rounds,
                connections=connections,
                workers=workers,
                postgres=postgres,
                size=SMALL if small else FULL,
                say=err,
            )
        )
    except (LoadError, ServerError, ValueError) as error:
        err.print(f"shop: {error}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        out.print_json(json.dumps(results))
    else:
        show(results, out)
    if results["wrong"] or any(
        each[mode]["failed"] for each in results["kinds"].values() for mode in ("off", "on")
    ):
        raise typer.Exit(1)


def main() -> None:
    """Run as `python -m shop.load`."""
    typer.run(command)


if __name__ == "__main__":
    main()
