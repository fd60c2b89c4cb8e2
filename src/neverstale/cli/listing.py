"""`keys`: what is there, found by SCAN on every primary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Final

import redis
import typer
from rich.text import Text

from neverstale.cache import Cache
from neverstale.core.keys import Keys
from neverstale.doctor.names import Name, Names
from neverstale.doctor.nodes import Node, nodes_of
from neverstale.drive.connection import REDIS_ERRORS, unavailable

from .output import Output, count, duration, plain, size
from .tool import FOUND, tool_of

__all__ = ["entries_on", "keys", "scan"]

#: Keys looked at in one step of SCAN: a fraction of a millisecond of the server's time.
_STEP: Final = 500


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
        version = "" if all_versions else f", version {tool.settings.version},"
        out.remark(f"no key {tool.of}{version} matches {tool.prefix + pattern!r}")
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
        for names in scan(node, of_version.patterns(pattern)):
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
        {names.of(raw).version for node in nodes for found in entries_on(node, view) for raw in found}
    )


def entries_on(node: Node, view: Keys) -> Iterator[list[bytes]]:
    """Yield all entries of the namespace that are on one node."""
    for names in scan(node, (view.everything,)):
        yield [raw for raw in names if view.is_entry(raw)]


def scan(node: Node, globs: Iterable[str]) -> Iterator[list[bytes]]:
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
