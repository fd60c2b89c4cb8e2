"""`get`: one entry."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from neverstale.lookup import Lookup, look_up

from .output import Output, duration, plain, size
from .tool import FOUND, tool_of

__all__ = ["get"]

_STATES: Final = {
    "fresh": "green",
    "valid": "green",
    "stale": "yellow",
    "expired": "yellow",
    "leased": "cyan",
}


def get(
    context: typer.Context,
    key: Annotated[
        str, typer.Argument(help="As the application names it; its whole name in Redis does, too.")
    ],
    show_data: Annotated[
        bool,
        typer.Option(
            "--show-data",
            help="Also what belongs to one user: the data of a session, an answer to one user.",
        ),
    ] = False,
) -> None:
    """Show what is stored under a key, and whether a read would get it.

    Codec, size, TTL, until when it is fresh and served, its tags and whether they still hold,
    what its load cost, and the value. Sessions are shown without their data unless --show-data
    is given; what is encrypted cannot be shown.

    Exit status: 0 a read would get it; 1 it is not there, or no read would get it.
    """
    tool = tool_of(context)
    with tool.cache() as cache:
        name = None
        if key.startswith(cache._keys.head) and key != cache._keys.head:
            name, key = key, key[len(cache._keys.head) :]
        flow = look_up(key, cache._keys, cache.settings, name=name, show_data=show_data)
        found = cache._driver.run(flow, cache._counters, patient=True)
    if tool.out.json:
        tool.out.data(found.as_dict())
    else:
        _show(found, tool.out)
    raise typer.Exit(0 if found.served else FOUND)


def _show(found: Lookup, out: Output) -> None:
    if not found.there:
        out.console.print(Text.assemble((plain(found.redis_key), "bold"), " is not there"))
        return
    state = Text(found.state, _STATES.get(found.state, "red"))
    state.append(", served" if found.served else ", not served", "")
    if found.served and found.state == "stale":
        state.append(", and renewed by the next read")
    rows: list[tuple[str, Any]] = [("key", Text(plain(found.redis_key), "bold")), ("state", state)]
    if found.codec:
        packed = "" if found.compression == "none" else f", {found.compression}"
        rows.append(
            ("value", f"{found.codec}{packed}, {size(found.value_bytes)}; {size(found.bytes)} with header")
        )
    else:
        rows.append(("size", size(found.bytes)))
    rows.append(("TTL", duration(found.ttl_ms) if found.ttl_ms is not None else Text("none", "bold red")))
    if found.soft_at is not None:
        rows.append(("fresh until", _moment(found.soft_at)))
    if found.hard_at is not None:
        rows.append(("served until", _moment(found.hard_at)))
    if found.load_ms is not None:
        rows.append(("load took", duration(found.load_ms) if found.load_ms else "nothing: it was set"))
    if found.age_ms is not None:
        rows.append(("age", duration(found.age_ms)))
    if found.tags:
        tags = Text()
        for each in found.tags:
            tags.append("\n" if tags else "")
            tags.append(plain(each.tag)).append(f"  {each.state}", _STATES.get(each.state, "red"))
        rows.append(("tags", tags))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    out.console.print(grid)
    out.console.print()
    if found.hidden:
        hint = "; --show-data shows it" if "user" in found.hidden or "session" in found.hidden else ""
        out.console.print(f"The value is not shown: {found.hidden}{hint}.", style="dim")
    elif isinstance(found.value, str):
        out.console.print("\n".join(map(plain, found.value.splitlines())), soft_wrap=True)
    else:
        # Escaped by JSON, and what JSON leaves alone by plain().
        text = json.dumps(found.value, indent=2, ensure_ascii=False)
        out.console.print("\n".join(map(plain, text.splitlines())), soft_wrap=True)


def _moment(milliseconds: int) -> str:
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    left = milliseconds - datetime.now(UTC).timestamp() * 1000
    told = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC, {told}"
