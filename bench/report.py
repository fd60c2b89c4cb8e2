"""Print what was measured: a table for people, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from bench.measure import Row, Section

HEADS = ("", "figure", "ratio", "middle half", "target", "")


def as_json(about: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Return everything as JSON."""
    return json.dumps({**about, "sections": [section.as_dict() for section in sections]}, indent=2)


def as_table(about: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Print everything as tables; in colour where there is a terminal and Rich."""
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for section in sections:
        print()
        cells = [_cells(row) for row in section.rows]
        if sys.stdout.isatty() and _rich(section, cells):
            continue
        _plain(section, cells)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    span = "" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}"
    target = "" if row.target is None else f"{row.target}: {'met' if row.met else 'MISSED'}"
    figure = f"{row.figure:,.0f}" if row.figure >= 1000 else f"{row.figure:,.2f}"
    return row.name, figure, ratio, span, target, row.note


def _rich(section: Section, cells: list[tuple[str, ...]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table(title=f"{section.title} ({section.unit})", title_justify="left")
    for place, head in enumerate(HEADS):
        table.add_column(head, justify="right" if 1 <= place <= 3 else "left")
    for row, line in zip(section.rows, cells, strict=True):
        table.add_row(*line, style={True: "green", False: "red", None: ""}[row.met])
    Console().print(table)
    return True


def _plain(section: Section, cells: list[tuple[str, ...]]) -> None:
    lines = [HEADS, *cells]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADS))]
    print(f"{section.title} ({section.unit})")
    for line in lines:
        parts = [
            text.rjust(width) if 1 <= place <= 3 else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(parts).rstrip())
