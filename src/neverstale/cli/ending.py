"""`invalidate` and `clear`: the end of entries, by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Final

import typer
from redis.exceptions import NoPermissionError
from rich.text import Text

from neverstale.cache import Cache
from neverstale.core.calls import Count
from neverstale.core.commands import Flow, Together
from neverstale.core.keys import Keys, check_tags
from neverstale.doctor.nodes import nodes_of
from neverstale.errors import RedisUnavailable
from neverstale.receipt import Receipt

from .listing import entries_on, scan
from .output import Output, count, duration
from .tool import FOUND, Tool, tool_of

__all__ = ["clear", "invalidating"]

#: An invalidation of more entries than these asks first: their loads all go to the database.
_MANY: Final = 1000
_BY_HAND: Final = "by hand"

Reason = Annotated[str, typer.Option(help="Why, for the log and for whoever listens.", metavar="TEXT")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help=f"Do not ask, even where it is more than {_MANY:,} entries.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]

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
            receipt = cache.invalidate_keys(*names, reason=reason)
        _tell(tool.out, receipt)
        if not receipt.removed:
            _nothing(tool, [tool.prefix + name for name in dict.fromkeys(names)])


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
            number = sum(len(found) for node in nodes_of(cache._connections) for found in scan(node, globs))
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
        listed = _listed_for(cache, tags)
        number = None if listed is None else sum(listed)
        if not _go_on(tool, number, what, yes=yes, dry_run=dry_run):
            return
        receipt = cache.invalidate_tags(*tags, reason=reason, soft=soft)
    _tell(tool.out, receipt)
    if empty := _empty(tags, listed, receipt):
        _nothing(tool, empty)


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
            number = sum(len(found) for node in nodes for found in entries_on(node, cache._keys))
            if not _go_on(tool, number, "entries are in the namespace", yes=yes, dry_run=dry_run):
                return
        _end(tool.out, cache.clear(reason=reason))


def _end(out: Output, receipt: Receipt) -> None:
    _tell(out, receipt)
    if not receipt.removed:
        raise typer.Exit(FOUND)


def _listed_for(cache: Cache, tags: tuple[str, ...]) -> list[int] | None:
    """Return how many entries each tag lists, or None where this user may not ask: the cache itself never does."""
    try:
        return cache._driver.run(_cards(cache._keys, tags), cache._counters, patient=True)
    except RedisUnavailable as problem:
        if isinstance(problem.__cause__, NoPermissionError):
            return None
        raise


def _empty(tags: tuple[str, ...], listed: list[int] | None, receipt: Receipt) -> list[str]:
    """Return the tags that nothing was stored under, as far as that is known."""
    if listed is None:
        return [] if receipt.removed or receipt.soft else list(tags)
    if receipt.removed and not any(listed):
        return []  # it came after they were counted, for whichever of them
    return [tag for tag, number in zip(tags, listed, strict=True) if not number]


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


def _nothing(tool: Tool, names: Iterable[str]) -> None:
    """Say that there was nothing: it is done all the same, but a name that was mistyped looks just so."""
    if not tool.out.json:
        tool.out.remark(f"nothing {tool.of} was stored under {_named(names)}")


def _named(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _cards(view: Keys, tags: tuple[str, ...]) -> Flow[list[int]]:
    found: list[int] = yield from Together(tuple(Count(view.members(tag)) for tag in tags))
    return found
