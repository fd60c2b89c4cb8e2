"""The commands. What the operator can put right gets one line on stderr and exit status 1, never a traceback."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvicorn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import DBAPIError
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from neverstale.warm import RedisPosition, Summary, Warmer
from neverstale.warm.running import ending_on_ctrl_c

from . import caching, curve
from . import load as load_generator
from . import warm as warming
from .app import configure_logging
from .caching import CachedCatalog
from .db import UNREACHABLE, Database, explain
from .seed import FULL, SMALL, seed, seeded_as
from .settings import Settings, SettingsError
from .statements import Statements

__all__ = ["main"]

T = TypeVar("T")
app = typer.Typer(
    help="A web shop for Neverstale to serve.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
out = Console()
err = Console(stderr=True)
# prometheus_client's: files that its multi-process mode adds up.
_PLACE = "PROMETHEUS_MULTIPROC_DIR"
_DATABASE_ERRORS: tuple[type[Exception], ...] = (DBAPIError, *UNREACHABLE)


def main() -> None:
    """Run the command that the arguments name."""
    app(prog_name="python -m shop")


@app.command(name="seed")
def seed_command(
    small: Annotated[bool, typer.Option("--small", help="600 products in seconds, for tests")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
    number: Annotated[int, typer.Option("--seed", help="another number, another shop")] = 1,
) -> None:
    """Fill the database (DATABASE_URL) with products, customers, orders and reviews."""
    settings = _settings()
    size = SMALL if small else FULL
    with _database_errors():
        _run(
            _seed(settings, small, force, number),
            f"seeding the {size.name} shop was interrupted; nothing was kept",
        )


async def _seed(settings: Settings, small: bool, force: bool, number: int) -> None:
    db = Database(settings.database_url)
    size = SMALL if small else FULL
    try:
        there = await seeded_as(db)
        if there and not force:
            out.print(f"The database is filled already ({there}); --force fills it again.", highlight=False)
            return
        password = settings.admin_password or secrets.token_urlsafe(12)
        began = time.monotonic()
        with _progress() as bar:
            tasks: dict[str, TaskID] = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what.replace("_", " "), total=total)
                bar.update(tasks[what], completed=done)

            await seed(db, size, seed=number, admin_password=password, progress=show)
        out.print(
            f"Filled in {time.monotonic() - began:.1f} s: {size.products:,} products, {size.customers:,} customers, "
            f"{size.orders:,} orders with {size.lines:,} lines, {size.reviews:,} reviews.",
            highlight=False,
            soft_wrap=True,
        )
        if settings.admin_password is None:
            out.print(
                f"Administrator: admin@example.com, password {password} (shown only now)", highlight=False
            )
        if there:
            await _forget_all(db, settings)
    finally:
        await db.close()


async def _forget_all(db: Database, settings: Settings) -> None:
    """Invalidate everything that was cached of the shop that was replaced."""
    catalog = await CachedCatalog.open(db, settings)
    try:
        problem = await catalog.forget_everything()
    finally:
        await catalog.close()
    if problem:
        err.print(
            f"shop: what was cached could not be invalidated: {problem}", highlight=False, soft_wrap=True
        )


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one")] = 8000,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes")] = 1,
) -> None:
    """Serve the shop (DATABASE_URL, REDIS_URL, CACHE_ENABLED, SHOP_ADMIN_PASSWORD)."""
    settings = _settings()
    with _database_errors():
        namespace = asyncio.run(_check(settings))
    listening = _listen(host, port)
    place = f"http://{host}:{listening.getsockname()[1]}"
    cache = f"with the cache, namespace {namespace}" if settings.cache_enabled else "without a cache"
    out.print(f"Wayside is open at {place} ({cache}); Ctrl-C closes it.", highlight=False, soft_wrap=True)
    with _figures_of_workers(workers):
        _serve(listening, workers)


def _serve(listening: socket.socket, workers: int) -> None:
    config = uvicorn.Config(
        "shop.app:create_app",
        factory=True,
        workers=workers,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    try:
        if workers == 1:
            server = uvicorn.Server(config)
            server.run([listening])
            if not server.started:
                raise typer.Exit(1)
        else:
            supervisor = Multiprocess(config, [listening])
            supervisor.run()
            if any(each.exitcode == STARTUP_FAILURE for each in supervisor.processes):
                raise typer.Exit(1)
    except KeyboardInterrupt:
        pass


@contextmanager
def _figures_of_workers(workers: int) -> Iterator[None]:
    """Give several workers a place to put their figures together for /metrics, unless the operator has."""
    if workers == 1 or os.environ.get(_PLACE):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="shop-metrics-") as place:
        os.environ[_PLACE] = place
        try:
            yield
        finally:
            del os.environ[_PLACE]


async def _check(settings: Settings) -> str:
    """Find out before any worker starts whether there is a shop to serve; return its namespace in Redis."""
    db = Database(settings.database_url)
    try:
        if not db.exists():
            _fail(f"there is no database {db.url.database}; make one with: python -m shop seed")
        if await seeded_as(db) is None:
            _fail("there is no shop in this database yet; fill it with: python -m shop seed")
        return await caching.namespace_of(db, settings)
    finally:
        await db.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # uvicorn's own backlog; here a port that another one listens on is found out
    except OSError as error:
        listening.close()
        _fail(f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}")
    listening.set_inheritable(True)
    return listening


@app.command(name="warm")
def warm_command(
    pages: Annotated[int, typer.Option(min=1, max=100, help="of the list of everything")] = warming.PAGES,
    products: Annotated[int, typer.Option(min=0, help="the most popular")] = warming.PRODUCTS,
    hot: Annotated[
        int, typer.Option(min=0, max=500, help="what the running version is asked for most")
    ] = warming.HOT,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="reads side by side")] = 4,
    rate: Annotated[float | None, typer.Option(min=0.1, help="loads begun per second, at most")] = None,
    limit: Annotated[
        float | None, typer.Option(min=0.1, help="seconds after which no more are begun")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="go on where a run of the last hour was killed")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="the summary for programs")] = False,
) -> None:
    """Fill the cache with what is asked for first; run it on deploy, before visitors come.

    What is cached already is left as it is. Ctrl-C ends it with a summary, and the next run goes on from there.
    """
    settings = _settings()
    logging.getLogger("neverstale").setLevel(logging.ERROR)  # what goes wrong is said here, once
    if not settings.cache_enabled:
        out.print("The cache is off (CACHE_ENABLED=0): nothing to warm.")
        return
    with _database_errors():
        summary, statements = _run(
            _warm(settings, pages, products, hot, resume, at_once=at_once, rate=rate, limit=limit),
            "warming was interrupted; what was filled stays",
        )
    if as_json:
        out.print_json(data={**summary.as_dict(), "statements": statements.total, "peak": statements.peak})
    else:
        _tell(summary, statements)
    if summary.ended == "interrupted":
        raise typer.Exit(130)
    if summary.failed or summary.left:
        raise typer.Exit(1)


async def _warm(
    settings: Settings, pages: int, products: int, hot: int, resume: bool, **limits: Any
) -> tuple[Summary, Statements]:
    await _check(settings)
    async with warming.opened(settings) as shop:
        cache = shop.catalog.cache
        assert cache is not None
        redis = (await cache.health()).redis
        if redis != "ok":
            _fail(f"cannot warm the cache: {redis}")
        found = await warming.jobs_of(shop, await warming.learnt(shop, hot), pages=pages, products=products)
        position = RedisPosition(cache, "shop")
        if not resume:
            await position.clear()
        with _progress(err) as bar:
            task = bar.add_task("warming", total=None)
            warmer = Warmer(
                found,
                position=position,
                progress=lambda told: bar.update(task, total=told.total, completed=told.finished),
                **limits,
            )
            with ending_on_ctrl_c(warmer):
                return await warmer.run(), shop.db.statements


def _tell(summary: Summary, statements: Statements) -> None:
    told = [f"{summary.filled:,} filled", f"{summary.skipped:,} were there", f"{summary.failed:,} failed"]
    if summary.resumed:
        told.append(f"{summary.resumed:,} done before")
    if summary.left:
        told.append(
            f"{summary.left:,} left ({'the time was up' if summary.ended == 'time' else 'interrupted'})"
        )
    out.print(
        f"Warmed in {summary.seconds:.1f} s: {', '.join(told)}. "
        f"The database was asked {statements.total:,} statements, at most {statements.peak} at once.",
        highlight=False,
        soft_wrap=True,
    )
    for name, problem in summary.failures[:10]:
        err.print(f"shop: {name}: {problem}", highlight=False, soft_wrap=True, markup=False)


app.command(name="load")(load_generator.command)
app.command(name="curve")(curve.command)


# -- what the commands share ------------------------------------------------------------------------------------------


def _settings() -> Settings:
    configure_logging()
    try:
        settings = Settings.from_env(os.environ)
        Database(settings.database_url)  # the URL is looked at; nothing is connected yet
        caching.check(settings)
    except (SettingsError, ValueError) as error:
        _fail(str(error))
    return settings


def _run(work: Coroutine[Any, Any, T], interrupted: str) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        err.print(f"shop: {interrupted}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except _DATABASE_ERRORS as error:
        _fail(f"the database cannot be used: {explain(error)}")


def _fail(problem: str) -> NoReturn:
    err.print(f"shop: {problem}", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(1)


def _progress(console: Console = out) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
