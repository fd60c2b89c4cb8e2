"""`doctor`: what endangers the cache, as a list to be read or to be judged by a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from neverstale.doctor import RATE, How, Mended, Report, Scan, examine, exit_status, mend, mendable
from neverstale.doctor.scan import Group

from .output import SEVERITIES, Output, count, duration, plain, size, table, wrapped
from .tool import Refused, Tool, tool_of

__all__ = ["doctor"]

_ROWS: Final = 8
#: Of what `size` writes: "1023.9 KiB".
_SIZE: Final = 10


def doctor(
    context: typer.Context,
    rate: Annotated[
        float, typer.Option(min=0, help="Keys looked at per second, whoever's they are; 0: no limit.")
    ] = RATE,
    scan: Annotated[
        bool, typer.Option("--scan/--no-scan", help="Look at the keys, or only ask the servers.")
    ] = True,
    mend_: Annotated[
        str | None,
        typer.Option(
            "--mend",
            metavar="expire|delete",
            help="Give keys without a TTL one (entries the default TTL, tags a day), shorten those above a day; "
            "or delete them. Asks first.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Mend without asking.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="A finding that is known and accepted, by its code; may be repeated.", metavar="CODE"
        ),
    ] = None,
) -> None:
    """Examine Redis and what is in it: what endangers the cache, and what to do.

    Asks every node for its settings and state, then goes through all keys of the namespace, slowly,
    reading headers and never values: keys without a TTL, what takes the memory, what is left over.
    Changes nothing without --mend. What this user may not ask is said.

    Exit status: 0 no errors (with --strict: no warnings either); 1 there are, after mending too,
    where something could not be mended; 3 Redis is away.
    """
    tool = tool_of(context)
    how: How | None = None
    if mend_ is not None:
        how = "expire" if mend_ == "expire" else "delete"
        if mend_ != how:
            raise Refused(f"--mend is expire or delete, not {mend_!r}")
    if how and not scan:
        raise Refused("--mend needs the scan: leave --no-scan away")
    with tool.cache() as cache:
        with _progress(tool.out) as progress:
            report = examine(cache, rate=rate, scan=scan, ignore=ignore or (), progress=progress)
        if not tool.out.json:
            _show(report, tool.out)
        mended = _mend(tool, report, how, yes=yes) if how else None
    findings = report.findings
    if mended is not None and not mended.refused:
        findings = [finding for finding in findings if finding.code not in ("no-ttl", "ttl-above-a-day")]
    status = exit_status(findings, strict=strict)
    if tool.out.json:
        tool.out.data(
            {
                **report.as_dict(),
                "mended": None if mended is None else mended.as_dict(),
                "exit_status": status,
            }
        )
    raise typer.Exit(status)


@contextmanager
def _progress(out: Output) -> Iterator[Callable[[Scan], object]]:
    """Show how far the scan is, where there is somebody to see it."""
    if not out.err.is_terminal:
        yield lambda scan: None
        return
    columns = (
        TextColumn("scanning"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[keys]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out.err, transient=True) as bar:
        task = bar.add_task("", total=None, keys="")

        def show(scan: Scan) -> None:
            # DBSIZE is an estimate of the steps to come: SCAN looks at empty places, too.
            done = min(scan.looked_at, scan.expected)
            bar.update(task, total=max(scan.expected, 1), completed=done, keys=f"{count(scan.keys)} of ours")

        yield show


def _mend(tool: Tool, report: Report, how: How, *, yes: bool) -> Mended:
    scan = report.scan
    assert scan is not None
    wrong = mendable([*scan.lasting, *scan.long])
    if not wrong:
        return Mended()
    does = "deleted" if how == "delete" else "given a TTL"
    found = f"{count(len(wrong))} {'key is' if len(wrong) == 1 else 'keys are'} to be {does}"
    tool.confirm(found, "Do it?", yes=yes)
    mended = mend(report.primaries, wrong, tool.settings, how)
    if not tool.out.json:
        done = mended.deleted if how == "delete" else mended.expired
        tool.out.console.print(
            Text(f"{count(done)} {does}, {count(mended.untouched)} needed it no more", "green")
        )
        if mended.refused:
            tool.out.console.print(Text(f"{count(mended.refused)} refused: {plain(mended.reason)}", "red"))
    return mended


# --- how it looks ---------------------------------------------------------------------------------------------------


def _show(report: Report, out: Output) -> None:
    made = table("NODE", "ROLE", "SERVER", "MEMORY", "OF", "LATENCY", right=("MEMORY", "OF", "LATENCY"))
    for node in report.nodes:
        if node.unreachable:
            made.add_row(plain(node.name), node.role, Text("does not answer", "red"))
            continue
        most = node.number("maxmemory")
        latency = duration(node.latency[1]) if node.latency else "-"
        used = size(node.number("used_memory")) if node.info else "-"
        made.add_row(
            plain(node.name), node.role, " ".join(node.server), used, size(most) if most else "-", latency
        )
    out.console.print(made)
    if report.scan is not None:
        _show_scan(report.scan, out)
    out.console.print()
    if not report.findings:
        out.console.print(Text("Nothing is wrong.", "bold green"))
        return
    for finding in report.findings:
        where = (
            f"  ({', '.join(map(plain, finding.where))})" if finding.where and len(report.nodes) > 1 else ""
        )
        style = SEVERITIES[finding.severity]
        head = Text.assemble(
            (finding.severity.upper(), style), "  ", (plain(finding.what), "bold"), (where, "dim")
        )
        out.console.print(wrapped(head, out.console.width), soft_wrap=True)
        for text, how in ((finding.why, ""), (f"-> {finding.remedy}", "green"), (f"[{finding.code}]", "dim")):
            out.console.print(Padding(Text(plain(text), how), (0, 0, 0, 4)))
        out.console.print()
    numbers = {name: sum(each.severity == name for each in report.findings) for name in SEVERITIES}
    out.console.print(", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in numbers.items()))


def _show_scan(scan: Scan, out: Output) -> None:
    out.console.print()
    exact = "measured one by one" if scan.every == 1 else f"memory estimated from every {scan.every}th"
    out.console.print(
        f"{count(scan.keys)} keys of the namespace, of {count(scan.expected)} in Redis; {exact}", style="dim"
    )
    if not scan.keys:
        return
    _show_groups("PREFIX", scan.prefixes, out)
    _show_groups("TAG", scan.tags, out)
    if scan.biggest:
        out.console.print(f"\n{'SIZE':>{_SIZE}}  BIGGEST KEYS", style="bold")
        for big in scan.biggest[:_ROWS]:
            # Never broken: it is to be copied.
            out.console.print(f"{size(big.bytes):>{_SIZE}}  {plain(big.key)}", soft_wrap=True)


def _show_groups(name: str, groups: dict[str, Group], out: Output) -> None:
    if not groups:
        return
    ranked = sorted(groups.items(), key=lambda item: (-(item[1].memory or 0), item[0]))
    made = table(name, "KEYS", "MEMORY", right=("KEYS", "MEMORY"))
    for each, group in ranked[:_ROWS]:
        made.add_row(plain(each), count(group.keys), size(group.memory))
    if len(ranked) > _ROWS:
        rest = ranked[_ROWS:]
        known = [group.memory for _, group in rest if group.memory is not None]
        keys = sum(group.keys for _, group in rest)
        # Entries of several tags would be counted several times.
        total = "" if name == "TAG" else size(sum(known))
        made.add_row(Text(f"and {count(len(rest))} more", "dim"), "" if name == "TAG" else count(keys), total)
    out.console.print()
    out.console.print(made)
