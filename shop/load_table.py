"""The load generator's tables: at most 80 columns wide."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["show"]

_PREFIXES = ("session:", "api:", "computed:", "catalog:")


def show(results: dict[str, Any], out: Console) -> None:
    """Print what was measured."""
    out.print(_rates(results))
    out.print(_inside(results))
    failed = sum(each[mode]["failed"] for each in results["kinds"].values() for mode in ("off", "on"))
    out.print(
        f"{results['database']}, {results['products']:,} products, {results['workers']} worker(s), "
        f"{results['connections']} connections; {results['rounds']} rounds of {results['seconds_per_round']:g} s "
        f"in turn, the ratio is the median of theirs.",
        highlight=False,
    )
    out.print(
        f"{failed} failed requests; {results['compared']:,} answers compared, {len(results['wrong'])} not the same "
        "with the cache as without.",
        highlight=False,
    )
    for line in results["wrong"][:10]:
        out.print(f"  {line}", highlight=False, markup=False)


def _rates(results: dict[str, Any]) -> Table:
    table = _table("The shop with its cache off and on")
    for mode in ("off", "on"):
        for column in ("req/s", "p50 ms", "p99 ms"):
            table.add_column(f"{mode}\n{column}", justify="right", no_wrap=True)
    table.add_column("\nratio", justify="right", style="bold", no_wrap=True)
    for kind, each in results["kinds"].items():
        cells = [
            f"{each[mode][name]:,.{digits}f}"
            for mode in ("off", "on")
            for name, digits in (("requests_per_second", 0), ("p50_ms", 1), ("p99_ms", 1))
        ]
        table.add_row(kind, *cells, f"{each['ratio']:.1f}")
    return table


def _inside(results: dict[str, Any]) -> Table:
    table = _table("SQL statements a request, and hit rates by prefix")
    for mode in ("off", "on"):
        table.add_column(f"{mode}\nSQL", justify="right", no_wrap=True)
    for prefix in _PREFIXES:
        table.add_column(f"on\n{prefix}", justify="right", no_wrap=True)
    for kind, each in results["kinds"].items():
        rates = each["on"]["hit_rates"]
        table.add_row(
            kind,
            *(f"{each[mode]['statements_per_request']:.2f}" for mode in ("off", "on")),
            *(f"{rates[prefix]:.1%}" if prefix in rates else "-" for prefix in _PREFIXES),
        )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("asked for", no_wrap=True)
    return table
