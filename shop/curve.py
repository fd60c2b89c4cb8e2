"""How soon is the cache warm again after a cold start under load? `python -m shop curve`.

What happens on a deploy that raises the version, in one run:

1. The shop runs, visitors come at a constant rate, and after a while the hit rate is what it always is: the steady
   state.
2. The next version starts, for which nothing is cached. The same visitors come at once, at the same rate, and beside
   them runs the warm-up, within its limits.

Each second is measured: the share of answers that came from the cache, and what the database was asked, by the misses
of visitors and by the warm-up together. Two limits are stated and checked: how many statements run at the same time
(the pools of connections, which nothing goes beyond), and how many there are in a second (which follows from the rate
of the warm-up and from the misses of visitors).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import httpx
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from sqlalchemy import func, select

from neverstale.testing.processes import ServerError
from neverstale.warm import Warmer

from .caching import VERSION
from .client import HOST, ask
from .db import POOL_SIZE
from .load import LoadError, running_redis, running_shop, seeded_database
from .members import logged_in
from .models import Category, Order, Product, Review, utc_now
from .seed import FULL
from .settings import Settings
from .traffic import Visitors
from .warm import jobs_of, learnt, opened

__all__ = ["Curve", "Second", "command", "measure"]

#: The share of the steady state's hit rate that counts as back.
_BACK = 0.95
_CONNECTIONS = 8
#: Seconds, at the end of the first part, whose mean is the steady state.
_STEADY = 10
#: One second is a small sample: what counts is the mean of so many.
_MEAN = 10


@dataclass(frozen=True)
class Second:
    """One second of a cold start: `at_once` is the most until then."""

    hit_rate: float
    requests: int
    failed: int
    statements: int
    at_once: int


@dataclass
class Curve:
    """What was measured; the limits are those of the database, for shop and warm-up together."""

    steady: float
    at_once_limit: int
    statements_limit: int
    seconds: list[Second] = field(default_factory=list)
    warmed: dict[str, Any] | None = None

    @property
    def back_after(self) -> int | None:
        """Seconds after which the hit rate was back, in the next `_MEAN` and in all that were measured, or None."""
        rates = [each.hit_rate for each in self.seconds]
        mark = _BACK * self.steady
        for after in range(len(rates) - _MEAN + 1):
            if min(statistics.fmean(rates[after : after + _MEAN]), statistics.fmean(rates[after:])) >= mark:
                return after
        return None

    @property
    def within_limits(self) -> bool:
        """Whether the database never saw more than it was said it would."""
        return all(
            each.at_once <= self.at_once_limit and each.statements <= self.statements_limit
            for each in self.seconds
        )

    @property
    def failed(self) -> int:
        """Requests that were not answered with 200."""
        return sum(each.failed for each in self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        derived = {"back_after": self.back_after, "within_limits": self.within_limits, "failed": self.failed}
        return {**asdict(self), **derived}


async def measure(
    environ: dict[str, str],
    *,
    visitors_per_second: int = 100,
    steady: int = 120,
    seconds: int = 60,
    warm: bool = True,
    rate: float = 140.0,
    at_once: int = 4,
    statements: int = 600,
    say: Console,
) -> Curve:
    """Measure one cold start.

    Arguments:
        visitors_per_second: requests, in the mix of `traffic.py`.
        steady, seconds: of the first and of the second part.
        warm: whether the warm-up runs.
        rate, at_once: its limits.
        statements: that the database may be asked in a second.
    """
    async with contextlib.AsyncExitStack() as stack:
        db = await stack.enter_async_context(seeded_database(environ, False, FULL, say))
        admin, members = await stack.enter_async_context(logged_in(db))
        environ["REDIS_URL"] = environ.get("REDIS_URL") or stack.enter_context(running_redis())
        for name in ("SHOP_METRICS_TOKEN", "PROMETHEUS_MULTIPROC_DIR"):
            environ.pop(name, None)
        # Nothing of a run before this one: neither its entries nor what it has learnt.
        environ["NEVERSTALE_NAMESPACE"] = f"curve-{time.time_ns()}"
        async with db.read() as session:
            # What many have reviewed, many look at.
            counts = select(func.count(Review.id)).where(Review.product_id == Product.id).scalar_subquery()
            ids = list(await session.scalars(select(Product.id).order_by(counts.desc(), Product.id)))
            slugs = list(await session.scalars(select(Category.slug).order_by(Category.id)))
            newest = await session.scalar(select(func.max(Order.created_at))) or utc_now()
        visitors = Visitors(ids, slugs, admin, members, newest.date(), ranked=True)

        say.print(f"{steady} s of visitors until the hit rate is steady ...", highlight=False)
        rates = []
        async with running_shop(environ, "1", 1) as port, opened(_settings(environ, VERSION)) as shop:
            await Warmer(await jobs_of(shop, []), at_once=at_once).run()
            for _ in range(steady):
                rates.append((await _second(port, visitors, visitors_per_second)).hit_rate)
            # The last report of what is asked for most is a second old.
            hottest = await learnt(shop)
        last = rates[-_STEADY:]
        curve = Curve(statistics.fmean(last), POOL_SIZE + (at_once if warm else 0), statements)

        say.print(f"{seconds} s of the next version, cold, with the same visitors ...", highlight=False)
        environ["NEVERSTALE_VERSION"] = str(VERSION + 1)
        async with running_shop(environ, "1", 1) as port, opened(_settings(environ, VERSION + 1)) as shop:
            warmer: Warmer | None = None
            running = None
            if warm:
                warmer = Warmer(await jobs_of(shop, hottest), at_once=at_once, rate=rate)
                running = asyncio.create_task(warmer.run())
            async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}") as scraper:
                before = await _asked(scraper)
                mine = shop.db.statements.total
                for _ in range(seconds):
                    figures = await _second(port, visitors, visitors_per_second)
                    asked = await _asked(scraper)
                    total = shop.db.statements.total
                    curve.seconds.append(
                        Second(
                            figures.hit_rate,
                            figures.requests,
                            figures.failed,
                            asked[0] - before[0] + total - mine,
                            asked[1] + shop.db.statements.peak,
                        )
                    )
                    before, mine = asked, total
            if warmer is not None and running is not None:
                warmer.stop()
                curve.warmed = (await running).as_dict()
        return curve


def _settings(environ: dict[str, str], version: int) -> Settings:
    return Settings.from_env({**environ, "NEVERSTALE_VERSION": str(version)})


@dataclass(frozen=True)
class _Figures:
    hit_rate: float
    requests: int
    failed: int


async def _second(port: int, visitors: Visitors, count: int) -> _Figures:
    """Let so many come within a second."""
    began = time.perf_counter()
    drawn = [each.encode() for each in visitors.requests("mix", count)]
    figures = await ask(port, iter(drawn), _CONNECTIONS, 1.0)
    await asyncio.sleep(max(0.0, began + 1.0 - time.perf_counter()))
    summary = figures.summary()
    return _Figures(float(summary["hit_rate"]), int(summary["requests"]), int(summary["failed"]))


async def _asked(scraper: httpx.AsyncClient) -> tuple[int, int]:
    """Return how many statements the shop has executed, and the most at once."""
    said = (await scraper.get("/metrics")).raise_for_status().text
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(said)
        for sample in family.samples
        if sample.name.startswith("shop_database_")
    }
    return int(found["shop_database_statements_total"]), int(found["shop_database_statements_peak"])


def _show(curve: Curve, out: Console) -> None:
    width = 40
    mark = round(_BACK * curve.steady * width)
    out.print(
        f"steady state: {curve.steady:.1%} hits; back is {_BACK:.0%} of that, marked |", highlight=False
    )
    out.print("second  hits" + " " * (width + 2) + "statements  at once", highlight=False)
    # Every second at first, where the curve is steep.
    for number, each in enumerate(curve.seconds, 1):
        if number <= 20 or number % 5 == 0:
            bar = ("#" * round(each.hit_rate * width)).ljust(width)
            bar = f"{bar[:mark]}|{bar[mark:]}"
            out.print(
                f"{number:6}  {each.hit_rate:4.0%} {bar} {each.statements:10} {each.at_once:8}",
                highlight=False,
            )
    back = curve.back_after
    said = f"back after {back} s" if back is not None else f"not back within {len(curve.seconds)} s"
    most = max(each.statements for each in curve.seconds)
    at_once = max(each.at_once for each in curve.seconds)
    out.print(
        f"{said}; the database was asked at most {most} statements in a second (limit {curve.statements_limit}), "
        f"{at_once} at once (limit {curve.at_once_limit}); {curve.failed} failed requests.",
        highlight=False,
        soft_wrap=True,
    )


def command(
    visitors: Annotated[int, typer.Option(min=1, max=5000, help="requests per second")] = 100,
    steady: Annotated[int, typer.Option(min=_STEADY, max=3600, help="seconds before the cold start")] = 120,
    seconds: Annotated[int, typer.Option(min=_MEAN, max=3600, help="seconds after it")] = 60,
    warm: Annotated[bool, typer.Option("--warm/--no-warm", help="whether the warm-up runs")] = True,
    rate: Annotated[float, typer.Option(min=0.1, help="loads per second of the warm-up")] = 140.0,
    at_once: Annotated[int, typer.Option(min=1, max=64, help="its reads side by side")] = 4,
    statements: Annotated[int, typer.Option(min=1, help="a second that the database may be asked")] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="figures for programs")] = False,
) -> None:
    """Show how soon the cache is warm again after a cold start under load, and what the database is asked meanwhile.

    Exit status: 0 the hit rate is back to 95 % of its steady state and the limits were kept, 1 if not.
    """
    out, err = Console(), Console(stderr=True)
    try:
        curve = asyncio.run(
            measure(
                dict(os.environ),
                visitors_per_second=visitors,
                steady=steady,
                seconds=seconds,
                warm=warm,
                rate=rate,
                at_once=at_once,
                statements=statements,
                say=err,
            )
        )
    except (LoadError, ServerError, ValueError) as error:
        err.print(f"shop: {error}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        out.print_json(json.dumps(curve.as_dict()))
    else:
        _show(curve, out)
    if curve.back_after is None or not curve.within_limits or curve.failed:
        raise typer.Exit(1)
