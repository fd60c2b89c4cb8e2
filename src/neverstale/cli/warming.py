"""`warm`: run an application's list of jobs."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from neverstale.cache import Cache
from neverstale.errors import RedisUnavailable
from neverstale.hot import HotKey
from neverstale.metrics.totals import StatKeys, hot_keys
from neverstale.warm import FilePosition, Job, Position, RedisPosition, Summary, Warmer
from neverstale.warm.running import ending_on_ctrl_c

from .output import Output, count, duration, plain
from .tool import FOUND, INTERRUPTED, Refused, Tool, tool_of

__all__ = ["warm_command"]

#: Half an hour is as far back as is known what was asked for (metrics).
_LEARN = 1800.0


def warm_command(
    context: typer.Context,
    jobs: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:ATTRIBUTE",
            help="A list of jobs, or a function that returns one; see docs/warm-up.md.",
        ),
    ],
    at_once: Annotated[int, typer.Option(min=1, help="Jobs side by side: the database's share.")] = 4,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Loads begun per second at most.", show_default=False)
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds after which no more jobs are begun.", show_default=False),
    ] = None,
    hot: Annotated[
        int, typer.Option(min=0, max=500, help="Hottest keys that a function of one argument is given.")
    ] = 200,
    learn_from: Annotated[
        int | None,
        typer.Option(help="The version whose hottest keys these are; by default ours, or the one before."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on where a run of the last hour was killed, or begin anew."
        ),
    ] = True,
    position: Annotated[
        Path | None,
        typer.Option(help="Note what is done in this file instead of in Redis.", show_default=False),
    ] = None,
) -> None:
    """Fill the cache: run an application's jobs, each of which reads something through it.

    What is cached already is left as it is, and an invalidation in between wins as always.
    The module is looked for in this directory, too. Ctrl-C ends it with a summary, and the next
    run goes on from there.

    Exit status: 0 all were read; 1 some failed, or were left when the time was up; 130 Ctrl-C.
    """
    tool = tool_of(context)
    # The application reads the environment: what the options say instead must reach it, too.
    for name, value in tool.overrides.items():
        os.environ["REDIS_URL" if name == "url" else f"NEVERSTALE_{name.upper()}"] = str(value)
    found = _imported(jobs)
    with tool.cache() as cache, _progress(tool.out) as progress:
        about = f"{cache.settings.namespace} v{cache.settings.version} {jobs}"
        place: Position = (
            RedisPosition(cache, _run_name(jobs)) if position is None else FilePosition(position, about)
        )
        summary = asyncio.run(
            _warmed(
                found,
                lambda: _learnt(tool, cache, hot, learn_from),
                begin_anew=not resume,
                at_once=at_once,
                rate=rate,
                limit=limit,
                position=place,
                progress=progress,
            )
        )
    _tell(tool.out, summary)
    if summary.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(FOUND if summary.failed or summary.left else 0)


def _run_name(jobs: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "_.-") else "-" for char in jobs)[
        :64
    ]


def _imported(place: str) -> Any:
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        raise Refused(f"name the jobs as module:attribute, not {place!r}")
    # As `python -m` and uvicorn do: an application is often not installed where it is deployed.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise Refused(f"{module} cannot be imported: {error}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise Refused(f"{module} has no {attribute}")
        found = getattr(found, name)
    return found


async def _warmed(
    found: Any,
    learnt: Callable[[], list[HotKey]],
    *,
    begin_anew: bool,
    position: Position,
    **options: Any,
) -> Summary:
    async with AsyncExitStack() as stack:
        if callable(found):
            arguments = [learnt()] if _wants_keys(found) else []
            found = found(*arguments)
            if inspect.isawaitable(found):
                found = await found
            # A function that opens a database and closes it again is written as a context manager.
            if hasattr(found, "__aenter__"):
                found = await stack.enter_async_context(found)
            elif hasattr(found, "__enter__"):
                found = stack.enter_context(found)
        if begin_anew:
            await position.clear()
        jobs = [each if isinstance(each, Job | tuple) else _named(each) for each in _listed(found)]
        warmer = Warmer(jobs, position=position, **options)
        with ending_on_ctrl_c(warmer):
            return await warmer.run()


def _listed(found: Any) -> list[Any]:
    if isinstance(found, str) or not hasattr(found, "__iter__"):
        raise Refused(f"what is to be warmed is a list of jobs, not {type(found).__name__}")
    return list(found)


def _named(func: Any) -> Any:
    name = getattr(func, "__qualname__", None)
    if not callable(func) or name is None or "<lambda>" in name:
        raise Refused(f"a job is a Job, a name with a function, or a function with a name, not {func!r}")
    return Job(f"{func.__module__}.{name}", func)


def _wants_keys(func: Any) -> bool:
    needed = [
        each
        for each in inspect.signature(func).parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > 1:
        raise Refused("a function that returns jobs takes no argument, or one: the hottest keys")
    return len(needed) == 1


def _learnt(tool: Tool, cache: Cache, most: int, version: int | None) -> list[HotKey]:
    """Return the hottest keys of the version that is running: on a deploy that may be the one before ours."""
    settings = cache.settings
    versions = [version] if version else [settings.version, settings.version - 1]
    for each in versions:
        if each < 1 or not most:
            continue
        try:
            flow = hot_keys(StatKeys(settings.namespace, each), most, _LEARN)
            found: list[HotKey] = cache._driver.run(flow, cache._counters, patient=True)
        except RedisUnavailable as problem:
            tool.out.remark(f"what is asked for most is not known: {problem}")
            return []
        if found:
            return found
    return []


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[Summary], object]]:
    if not out.err.is_terminal:
        yield lambda summary: None
        return
    columns = (
        TextColumn("warming"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out.err, transient=True) as bar:
        task = bar.add_task("", total=None, figures="")

        def show(summary: Summary) -> None:
            figures = f"{count(summary.filled)} filled, {count(summary.failed)} failed"
            bar.update(task, total=summary.total, completed=summary.finished, figures=figures)

        yield show


def _tell(out: Output, summary: Summary) -> None:
    if out.json:
        out.data(summary.as_dict())
        return
    endings = {"time": "the time was up", "interrupted": "interrupted"}
    told = [
        f"{count(summary.filled)} filled",
        f"{count(summary.skipped)} were there",
        *([f"{count(summary.resumed)} done before"] if summary.resumed else []),
        f"{count(summary.failed)} failed",
        *([f"{count(summary.left)} left ({endings.get(summary.ended, '')})"] if summary.left else []),
    ]
    style = "red" if summary.failed else "yellow" if summary.left else "green"
    text = f"{count(summary.total)} jobs in {duration(summary.seconds * 1000)}: {', '.join(told)}"
    out.console.print(Text(text, style), soft_wrap=True)
    for name, problem in summary.failures[:10]:
        out.console.print(Text(f"  {plain(name)}: {plain(problem)}", "red"), soft_wrap=True)
    if len(summary.failures) > 10:
        out.console.print(f"  and {count(summary.failed - 10)} more", style="red")
