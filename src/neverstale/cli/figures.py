"""`ping`, `stats`, `top`: whether Redis answers, what was counted, and what happens now."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from neverstale.cache import Cache
from neverstale.doctor.nodes import Node, nodes_of, version_of
from neverstale.errors import RedisUnavailable

from .output import Output, duration, plain, table
from .pressed import watched
from .tool import AWAY, FOUND, Tool, tool_of
from .view import Frame, Reading, frame_of, prefix_table, processes, rendered

__all__ = ["ping", "stats", "top"]

#: Rates are those of so many seconds: processes report once a second, so a shorter window would flicker.
_WINDOW: Final = 10.0


def ping(context: typer.Context) -> None:
    """Ask every node of Redis whether it is there, and how long that takes.

    Of a cluster all nodes that it names, replicas included.

    Exit status: 0 every primary answers; 3 one does not.
    """
    tool = tool_of(context)
    with tool.cache() as cache:
        asked = [_pinged(node) for node in nodes_of(cache._connections, replicas=True)]
    if tool.out.json:
        tool.out.data({"ok": _all_answer(asked), "nodes": asked})
    else:
        made = table("NODE", "ROLE", "ANSWER", "LATENCY", "SERVER", right=("LATENCY",))
        for each in asked:
            answer = Text("ok", "green") if each["ok"] else Text(plain(each["error"]), "red")
            made.add_row(
                plain(each["node"]), each["role"], answer, duration(each["latency_ms"]), each["server"] or "-"
            )
        tool.out.console.print(made)
    if not _all_answer(asked):
        raise typer.Exit(AWAY)


def _pinged(node: Node) -> dict[str, Any]:
    said: dict[str, Any] = {"node": node.name, "role": node.role, "ok": False, "error": None}
    said |= {"latency_ms": None, "server": None}
    try:
        # The first one may have to connect.
        node.ask(lambda client: client.ping())
        began = time.perf_counter()
        node.ask(lambda client: client.ping())
        said |= {"ok": True, "latency_ms": round((time.perf_counter() - began) * 1000, 3)}
        with suppress(RedisUnavailable):  # not everybody may ask for INFO
            info: Any = node.ask(lambda client: client.info())
            said["server"] = " ".join(version_of(info))
            said["role"] = "replica" if info.get("role") == "slave" else node.role
    except RedisUnavailable as problem:
        said["error"] = str(problem)
    return said


def _all_answer(asked: list[dict[str, Any]]) -> bool:
    return all(each["ok"] for each in asked if each["role"] == "primary")


def stats(
    context: typer.Context,
    last: Annotated[
        int | None,
        typer.Option(min=10, max=1800, help="Only the last so many seconds.", show_default=False),
    ] = None,
) -> None:
    """Show what all processes have counted together: hit rate, loads, invalidations, errors, by prefix.

    It is what processes report to Redis about once a second while 'cache.reporting()' is open,
    as the web middleware or your application's start should have it. Of this version only.

    Exit status: 0 figures; 1 nobody has reported any.
    """
    tool = tool_of(context)
    with tool.cache() as cache:
        reading = Reading.take(cache, last=last)
    if tool.out.json:
        tool.out.data(reading.as_dict())
    elif reading.prefixes:
        since = f"in the last {last} s" if last else "since the first report"
        tool.out.console.print(
            f"{plain(cache.settings.namespace or '(no namespace)')}, version {cache.settings.version}: "
            f"{processes(reading)} reporting now; figures {since}\n"
        )
        tool.out.console.print(prefix_table(reading, 0.0, tool.out.console.width))
    else:
        tool.out.remark("no process has reported figures: see 'neverstale stats --help'")
    if not reading.prefixes:
        raise typer.Exit(FOUND)


def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One look, over the last minute, then end.")] = False,
    every: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between two looks.")] = 2.0,
    most: Annotated[int, typer.Option(min=1, max=50, help="Keys and tags to show.")] = 10,
) -> None:
    """Watch the cache: rates by prefix, the hottest keys and tags, Redis' memory and load by node.

    'q', Escape or Ctrl-C ends it. Into a pipe it is '--once'. What is hot is a sample of the reads: rates
    of keys and tags are estimates; keys of sessions are never among them.

    Exit status: 0; 3 Redis does not answer at the start.
    """
    tool = tool_of(context)
    with tool.cache() as cache:
        if once or tool.out.json or not sys.stdout.isatty():
            _once(tool, cache, most)
        else:
            with suppress(KeyboardInterrupt):
                _watch(tool.out, cache, every, most)


def _once(tool: Tool, cache: Cache, most: int) -> None:
    frame = frame_of(cache, Reading.take(cache, last=60), most)
    if tool.out.json:
        tool.out.data(frame.as_dict())
    else:
        tool.out.console.print(rendered(frame, cache, tool.out.console.width))


def _watch(out: Output, cache: Cache, every: float, most: int) -> None:
    readings: deque[Reading] = deque()

    def shown() -> RenderableType:
        return rendered(frame, cache, out.console.width, "q ends it")

    # Before the screen is taken: what fails at the start is one line.
    frame = frame_of(cache, Reading.take(cache, last=60), most)
    live = Live(shown(), console=out.console, screen=True, auto_refresh=False)
    with watched() as ends_within:
        try:
            # Not as a context manager: interrupted while it starts, it would leave the terminal to its screen.
            live.start(refresh=True)
            while not ends_within(every):
                try:
                    frame = _next(cache, readings, most)
                    live.update(shown(), refresh=True)
                except RedisUnavailable as problem:
                    wrong = Text(f"Redis does not answer: {plain(problem)}", "bold red")
                    live.update(Group(wrong, "", shown()), refresh=True)
        finally:
            live.stop()


def _next(cache: Cache, readings: deque[Reading], most: int) -> Frame:
    """Read anew; the rates are those since the oldest reading that is kept."""
    now = Reading.take(cache)
    readings.append(now)
    while len(readings) > 2 and now.at - readings[1].at >= _WINDOW:
        readings.popleft()
    if len(readings) < 2:
        return frame_of(cache, Reading.take(cache, last=10), most)
    return frame_of(cache, now.since(readings[0]), most)
