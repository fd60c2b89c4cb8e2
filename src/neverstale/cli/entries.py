"""`get`, `keys`, `invalidate`, `clear`: one entry, many entries, and their end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Annotated, Any, Final

import redis
import typer
from redis.exceptions import NoPermissionError
from rich.table import Table
from rich.text import Text

from neverstale.cache import Cache
from neverstale.core.commands import Call, Flow, Together
from neverstale.core.keys import Keys, check_tags
from neverstale.doctor.names import Name, Names
from neverstale.doctor.nodes import Node, nodes_of
from neverstale.drive.connection import REDIS_ERRORS, unavailable
from neverstale.errors import RedisUnavailable
from neverstale.lookup import Lookup, look_up
from neverstale.receipt import Receipt

from .output import Output, count, duration, plain, size
from .tool import FOUND, Tool, tool_of

__all__ = ["clear", "get", "invalidating", "keys"]

#: An invalidation of more entries than these asks first: their loads all go to the database.
_MANY: Final = 1000
#: Keys looked at in one step of SCAN: a fraction of a millisecond of the server's time.
_STEP: Final = 500
_BY_HAND: Final = "by hand"
_STATES: Final = {
    "fresh": "green",
    "valid": "green",
    "stale": "yellow",
    "expired": "yellow",
    "leased": "cyan",
}

Reason = Annotated[str, typer.Option(help="Why, for the log and for whoever listens.", metavar="TEXT")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help=f"Do not ask, even where it is more than {_MANY:,} entries.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]


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


# --- many -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    redis_key: bytes
    name: Name
    ttl_ms: int | None
    bytes: int | None


def keys(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(help="A glob: * ? [a-z]; quote it for the shell.")] = "*",
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many; 0 for no limit.")] = 1000,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Also what other versions have stored.")
    ] = False,
) -> None:
    """List the keys of entries that match a pattern, as they are found.

    Goes through all of Redis by SCAN, every primary of a cluster; a key may come late, none comes
    twice. Into a pipe it writes a JSON object a line.

    Exit status: 0 some were found; 1 none was.
    """
    tool = tool_of(context)
    out, found = tool.out, 0
    with tool.cache() as cache:
        for each in _matching(cache, pattern, all_versions=all_versions):
            if not found and not out.json:
                out.console.print(f"{'TTL':>12}  {'SIZE':>10}  KEY", style="bold")
            found += 1
            _list(out, each)
            if found == limit:
                out.remark(f"stopped after {count(found)}, there may be more: --limit 0 lists all")
                break
    if not found:
        out.remark("no key matches")
        raise typer.Exit(FOUND)


def _list(out: Output, each: _Listed) -> None:
    if out.json:
        redis_key = each.redis_key.decode(errors="backslashreplace")
        out.line(
            {
                "key": each.name.text,
                "redis_key": redis_key,
                "version": each.name.version,
                "ttl_ms": each.ttl_ms,
                "bytes": each.bytes,
            }
        )
        return
    ttl = Text(f"{duration(each.ttl_ms) if each.ttl_ms is not None else 'none':>12}")
    ttl.stylize("dim" if each.ttl_ms is not None else "bold red")
    out.console.print(
        Text.assemble(ttl, "  ", (f"{size(each.bytes):>10}", "dim"), "  ", plain(each.name.text)),
        soft_wrap=True,
    )


def _matching(cache: Cache, pattern: str, *, all_versions: bool) -> Iterator[_Listed]:
    view = cache._keys
    nodes = nodes_of(cache._connections)
    versions = _versions(nodes, view) if all_versions else [view.version]
    for node, version in product(nodes, versions):
        of_version = Keys(view.namespace, version, view.prefix)
        for names in _scan(node, of_version.patterns(pattern)):
            named = [(raw, Names(view.namespace).of(raw)) for raw in names]
            # The globs of a version find its neighbours, too, for the sake of invalidations.
            wanted = [(raw, name) for raw, name in named if name.version == version]
            if not wanted:
                continue
            pipeline: Any = node.client.pipeline(transaction=False)
            for raw, _ in wanted:
                pipeline.pttl(raw).strlen(raw)
            replies = iter(pipeline.execute(raise_on_error=False))
            for raw, name in wanted:
                ttl, length = next(replies), next(replies)
                if ttl != -2:
                    yield _Listed(raw, name, ttl if _is_number(ttl) and ttl >= 0 else None, _number(length))


def _versions(nodes: Iterable[Node], view: Keys) -> list[int]:
    """Return the versions of which there are entries."""
    names = Names(view.namespace)
    return sorted(
        {names.of(raw).version for node in nodes for found in _entries(node, view) for raw in found}
    )


def _entries(node: Node, view: Keys) -> Iterator[list[bytes]]:
    """Yield all entries of the namespace that are on one node."""
    for names in _scan(node, (view.everything,)):
        yield [raw for raw in names if view.is_entry(raw)]


def _scan(node: Node, globs: Iterable[str]) -> Iterator[list[bytes]]:
    """Yield the keys on one node that match one of the globs; each once."""
    seen: set[bytes] = set()
    for glob in globs:
        cursor: int | None = None
        while cursor != 0:
            try:
                reply: Any = node.client.scan(cursor or 0, match=glob, count=_STEP)
            except REDIS_ERRORS as problem:
                raise unavailable(problem) from problem
            cursor, names = reply
            fresh = [raw for raw in dict.fromkeys(names) if raw not in seen]
            seen.update(fresh)
            if fresh:
                yield fresh


def _is_number(reply: object) -> bool:
    return isinstance(reply, int) and not isinstance(reply, redis.ResponseError)


def _number(reply: Any) -> int | None:
    return reply if _is_number(reply) else None


# --- their end ------------------------------------------------------------------------------------------------------

invalidating = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Invalidate by hand: once it returns, no read that starts then returns what was there before.",
)


@invalidating.command("key")
def invalidate_key(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="KEY...", help="As the application names them.")],
    reason: Reason = _BY_HAND,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Invalidate entries by their keys.

    Exit status: 0 done, whether they were there or not.
    """
    tool = tool_of(context)
    if _go_on(tool, len(dict.fromkeys(names)), "entries would be invalidated", yes=yes, dry_run=dry_run):
        with tool.cache() as cache:
            _tell(tool.out, cache.invalidate_keys(*names, reason=reason))


@invalidating.command("pattern")
def invalidate_pattern(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(help="A glob: * ? [a-z]; quote it for the shell.")],
    reason: Reason = _BY_HAND,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Invalidate all entries whose keys match a pattern, of the neighbouring versions, too.

    Goes through all of Redis twice: to count, and to invalidate.

    Exit status: 0 done; 1 nothing matched, or you said no.
    """
    tool = tool_of(context)
    with tool.cache() as cache:
        # With --yes nobody reads the count: one scan is saved.
        if not yes or dry_run:
            globs = cache._keys.patterns(pattern)
            number = sum(len(found) for node in nodes_of(cache._connections) for found in _scan(node, globs))
            if not _go_on(tool, number, f"entries match {pattern!r}", yes=yes, dry_run=dry_run):
                return
        _end(tool.out, cache.invalidate_pattern(pattern, reason=reason))


@invalidating.command("tag")
def invalidate_tag(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="TAG...")],
    reason: Reason = _BY_HAND,
    soft: Annotated[
        bool,
        typer.Option(
            "--soft", help="Only mark them stale: each is served once more while it is loaded anew."
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Invalidate all entries that carry one of the tags, of all prefixes and versions.

    What is counted before are the entries listed for the tags, some of which may be gone.

    Exit status: 0 done, also where no entry carried them.
    """
    tool = tool_of(context)
    tags = check_tags(names)
    with tool.cache() as cache:
        what = f"entries are listed for {_named(tags)}"
        if _go_on(tool, _listed_for(cache, tags), what, yes=yes, dry_run=dry_run):
            _tell(tool.out, cache.invalidate_tags(*tags, reason=reason, soft=soft))


def clear(
    context: typer.Context,
    reason: Reason = _BY_HAND,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Invalidate every entry of the namespace: all prefixes, all versions.

    With many readers this is a cold start: see 'neverstale warm'. To change the shape of what
    is cached, raise the version instead.

    Exit status: 0 done; 1 there was nothing, or you said no.
    """
    tool = tool_of(context)
    with tool.cache() as cache:
        nodes = nodes_of(cache._connections)
        if not yes or dry_run:
            number = sum(len(found) for node in nodes for found in _entries(node, cache._keys))
            if not _go_on(tool, number, "entries are in the namespace", yes=yes, dry_run=dry_run):
                return
        _end(tool.out, cache.clear(reason=reason))


def _end(out: Output, receipt: Receipt) -> None:
    _tell(out, receipt)
    if not receipt.removed:
        raise typer.Exit(FOUND)


def _listed_for(cache: Cache, tags: tuple[str, ...]) -> int | None:
    """Return how many entries tags list, or None where this user may not ask: the cache itself never does."""
    try:
        return sum(cache._driver.run(_cards(cache._keys, tags), cache._counters, patient=True))
    except RedisUnavailable as problem:
        if isinstance(problem.__cause__, NoPermissionError):
            return None
        raise


def _go_on(tool: Tool, number: int | None, what: str, *, yes: bool, dry_run: bool) -> bool:
    """Return whether to go on; asks where it is much, or may be."""
    told = f"{'an unknown number of' if number is None else count(number)} {what}"
    if dry_run:
        if tool.out.json:
            tool.out.data({"dry_run": True, "entries": number})
        else:
            tool.out.console.print(f"{told}; nothing was done")
        return False
    if number is None or number > _MANY:
        tool.confirm(told, "Invalidate them all?", yes=yes)
    return True


def _tell(out: Output, receipt: Receipt) -> None:
    if out.json:
        out.data(asdict(receipt))
        return
    cleared = f"{count(receipt.removed)} {'entry' if receipt.removed == 1 else 'entries'}"
    done = "marked stale" if receipt.soft else "invalidated"
    text = Text.assemble(
        (receipt.status, "green"), f": {receipt.kind} {_named(receipt.names)} {done}, {cleared} cleared"
    )
    out.console.print(text.append(f" in {duration(receipt.duration * 1000)}"), soft_wrap=True)


def _named(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


@dataclass(frozen=True, slots=True)
class _Card(Call[int]):
    members: str

    @property
    def key(self) -> str:
        return self.members

    def words(self) -> tuple[Any, ...]:
        return ("SCARD", self.members)

    def parse(self, reply: Any) -> int:
        return int(reply)


def _cards(view: Keys, tags: tuple[str, ...]) -> Flow[list[int]]:
    found: list[int] = yield from Together(tuple(_Card(view.members(tag)) for tag in tags))
    return found
