"""How much faster is the shop with its cache? `python -m shop load`, or `python -m shop.load`.

Starts the same shop twice on the same database, once without and once with the cache, and asks them in turn, round
after round, so that whatever else the machine does meets both alike. Both get the same requests in the same order:
products and lists by Zipf's law, as people ask. Every status is checked.

The client shares the machine with the servers, so the ratio is rather too low than too high.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from signal import SIGTERM
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from neverstale.testing.processes import ServerError, free_port, spawn
from neverstale.testing.servers import RedisServer, binaries

from .db import Database
from .models import Category, Product
from .seed import FULL, seed, seeded_as
from .settings import Settings
from .traffic import KINDS, Figures, Visitors, ask, is_up

__all__ = ["LoadError", "command", "main", "measure"]

# Drawn once for each kind and asked again and again: about what a shop is asked within the five minutes that entries
# live, so that most of it is in the cache, as it is after a while in production.
_DRAWN = 1_000
_START_LIMIT = 30.0


class LoadError(Exception):
    """The measurement cannot be made; the message says why, in one line."""


# -- the run ----------------------------------------------------------------------------------------------------------


async def measure(
    environ: dict[str, str],
    *,
    kinds: Sequence[str] = KINDS,
    seconds: float = 2.0,
    rounds: int = 3,
    connections: int = 16,
    workers: int = 1,
    say: Console,
) -> dict[str, Any]:
    """Start both shops, ask them in turn, and return the figures of each kind, off and on, with their ratio."""
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(_database(environ, say))
        async with db.read() as session:
            ids = list(await session.scalars(select(Product.id).order_by(Product.id)))
            slugs = list(await session.scalars(select(Category.slug).order_by(Category.id)))
        environ["REDIS_URL"] = environ.get("REDIS_URL") or stack.enter_context(_redis())
        ports = {
            mode: await stack.enter_async_context(_shop(environ, flag, workers))
            for mode, flag in (("off", "0"), ("on", "1"))
        }
        visitors = Visitors(ids, slugs)
        results: dict[str, Any] = {}
        for kind in kinds:
            drawn = visitors.requests(kind, _DRAWN)
            # Each shop goes through the same requests from the beginning and goes on where it was in the next round.
            requests = {mode: cycle(drawn) for mode in ports}
            totals = {mode: Figures() for mode in ports}
            # Unmeasured first: imports, connections, the database's pages in memory, and for the cache every request
            # once.
            say.print(f"{kind}: warming up", highlight=False)
            await ask(ports["off"], requests["off"], connections, seconds)
            await ask(ports["on"], iter(drawn), connections, 120.0)
            for number in range(1, rounds + 1):
                for mode, port in ports.items():
                    say.print(f"{kind}: round {number} of {rounds}, cache {mode}", highlight=False)
                    totals[mode].add(await ask(port, requests[mode], connections, seconds))
            off, on = totals["off"].summary(), totals["on"].summary()
            ratio = (
                on["requests_per_second"] / off["requests_per_second"] if off["requests_per_second"] else 0.0
            )
            results[kind] = {"off": off, "on": on, "ratio": round(ratio, 2)}
        return {
            "database": db.url.get_backend_name(),
            "products": len(ids),
            "connections": connections,
            "workers": workers,
            "rounds": rounds,
            "seconds_per_round": seconds,
            "kinds": results,
        }


@contextlib.asynccontextmanager
async def _database(environ: dict[str, str], say: Console) -> AsyncIterator[Database]:
    """Give the shop's database, or a full one of our own where there is none yet."""
    with contextlib.ExitStack() as stack:
        db = Database(Settings.from_env(environ).database_url)
        if await seeded_as(db) is None:
            if environ.get("DATABASE_URL"):
                raise LoadError("there is no shop in this database yet; fill it with: python -m shop seed")
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-load-"))
            environ["DATABASE_URL"] = f"sqlite:///{Path(place) / 'shop.db'}"
            say.print("Filling a database of its own ...")
            db = Database(environ["DATABASE_URL"])
            await seed(db, FULL, seed=1, admin_password="not used here")
        if db.is_sqlite:  # the shops run elsewhere, where a relative path would be another one
            environ["DATABASE_URL"] = _absolute(db)
        try:
            yield db
        finally:
            await db.close()


def _absolute(db: Database) -> str:
    return f"sqlite:///{Path(db.url.database or '').absolute()}"


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    found = binaries()
    binary = found.get("valkey") or found.get("redis")
    if binary is None:
        raise LoadError("there is no Redis server: apt-get install redis-server, or set REDIS_URL")
    with RedisServer.start(binary, unixsocket=False) as server:
        yield server.url


@contextlib.asynccontextmanager
async def _shop(environ: dict[str, str], cache: str, workers: int) -> AsyncIterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "shop", "serve", "--port", str(port), "--workers", str(workers)]
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


def _show(results: dict[str, Any], out: Console) -> None:
    table = Table(
        title="The shop with its cache off and on",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("asked for", no_wrap=True)
    for mode in ("off", "on"):
        for column in ("req/s", "p50 ms", "p99 ms"):
            table.add_column(f"{mode}\n{column}", justify="right", no_wrap=True)
    table.add_column("\nhits", justify="right", no_wrap=True)
    table.add_column("\nratio", justify="right", style="bold", no_wrap=True)
    for kind, each in results["kinds"].items():
        cells = [
            f"{each[mode][name]:,.{digits}f}"
            for mode in ("off", "on")
            for name, digits in (("requests_per_second", 0), ("p50_ms", 1), ("p99_ms", 1))
        ]
        table.add_row(kind, *cells, f"{each['on']['hit_rate']:.0%}", f"{each['ratio']:.1f}")
    out.print(table)
    failed = sum(each[mode]["failed"] for each in results["kinds"].values() for mode in ("off", "on"))
    out.print(
        f"{results['database']}, {results['products']:,} products, {results['workers']} worker(s), "
        f"{results['connections']} connections, "
        f"{results['rounds']} rounds of {results['seconds_per_round']:g} s in turn; {failed} failed requests.",
        highlight=False,
        soft_wrap=True,
    )


def command(
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="of each round")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="of each kind, off and on in turn")] = 3,
    connections: Annotated[int, typer.Option(min=1, max=500, help="at the same time")] = 16,
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes of each shop")] = 1,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"one of: {', '.join(KINDS)}; all by default")
    ] = None,
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
        _show(results, out)
    if any(each[mode]["failed"] for each in results["kinds"].values() for mode in ("off", "on")):
        raise typer.Exit(1)


def main() -> None:
    """Run as `python -m shop.load`."""
    typer.run(command)


if __name__ == "__main__":
    main()
