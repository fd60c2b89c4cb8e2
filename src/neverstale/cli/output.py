"""What the commands write: tables with colours for people, JSON for programs, one line for what went wrong.

Rules:
- JSON where standard output is no terminal, or with `--json`; the same figures, in the base units that their names say.
- What comes from Redis is data: neither Rich's markup nor the terminal may take it for anything else, so control
  characters are shown, not sent.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neverstale.doctor.findings import Severity

__all__ = [
    "SEVERITIES",
    "Output",
    "count",
    "duration",
    "fitted",
    "plain",
    "share",
    "size",
    "table",
    "wrapped",
]

SEVERITIES: Final[dict[Severity, str]] = {"error": "bold red", "warning": "yellow", "notice": "cyan"}


#: So much of a name is shown in the narrowest terminal: an address with its port fits.
_NAME: Final = 20


class Output:
    """Where a command writes.

    Attributes:
        json: whether it writes JSON.
        console: standard output; only for people.
        err: standard error: questions, progress, remarks.
    """

    def __init__(self, as_json: bool | None = None) -> None:
        options: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}
        self.console = Console(**options)
        self.err = Console(stderr=True, **options)
        self.json = not self.console.is_terminal if as_json is None else as_json

    @property
    def interactive(self) -> bool:
        """Whether there is somebody to be asked."""
        return sys.stdin.isatty() and self.err.is_terminal

    def data(self, value: Any) -> None:
        """Write one JSON document."""
        self._write(json.dumps(value, indent=2, default=str))

    def line(self, value: Any) -> None:
        """Write one line of JSON, for what comes in a stream."""
        self._write(json.dumps(value, default=str))

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever reads, such as `head`, has enough. Python would complain again when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    def remark(self, text: str) -> None:
        """Say something to people that is no result."""
        self.err.print(plain(text), soft_wrap=True)


def plain(value: object) -> str:
    """Return text without anything that a terminal would obey: escape sequences, line breaks, reversed writing."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() and unicodedata.category(char) != "Cf"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def wrapped(text: Text, width: int) -> Text:
    """Return text with its lines broken between words only: a key that is longer than a line can be copied.

    To be printed with `soft_wrap`.
    """
    breaks, start = [], 0
    for word in re.finditer(r"\S+", text.plain):
        if word.start() > start and cell_len(text.plain[start : word.end()]) > width:
            start = word.start()
            breaks.append(start)
    lines = text.divide(breaks)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """Return a table; the columns named in `right` have figures."""
    made = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    made.title_style = "bold"
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in right,
            overflow="fold",
        )
    return made


def fitted(made: Table, width: int, least: Sequence[str]) -> Table:
    """Return a table that has room in so many columns of a terminal.

    Args:
        made: whose first column has names; where a name takes much of the width it is folded.
        width: of the terminal.
        least: titles of columns that are left away, the first of them first, until there is room.
    """
    cells = [[str(column.header), *map(str, column.cells)] for column in made.columns]
    needs = [max(map(cell_len, each)) for each in cells]
    needs[0] = min(needs[0], max(width // 3, _NAME))
    kept = list(range(len(needs)))
    for title in least:
        # Two blanks stand between two columns.
        if sum(needs[at] + 2 for at in kept) - 2 <= width:
            break
        kept = [at for at in kept if made.columns[at].header != title]
    if len(kept) == len(needs):
        return made
    right = tuple(str(column.header) for column in made.columns if column.justify == "right")
    small = table(*(cells[at][0] for at in kept), right=right)
    columns = [list(column.cells) for column in made.columns]
    for row in range(made.row_count):
        small.add_row(*(columns[at][row] for at in kept))
    return small


def count(number: float | None) -> str:
    """Return a figure with its thousands apart."""
    return "-" if number is None else f"{number:,.0f}"


def share(part: float | None) -> Text:
    """Return a hit rate, coloured: below a half the cache costs more than it saves."""
    if part is None:
        return Text("-")
    style = "green" if part >= 0.9 else "yellow" if part >= 0.5 else "red"
    return Text(f"{part:.1%}", style)


def size(number: float | None) -> str:
    """Return bytes as people read them."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def duration(milliseconds: float | None) -> str:
    """Return a span as people read it."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1:
        return f"{milliseconds * 1000:.0f} µs"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
