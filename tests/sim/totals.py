"""What the explorations of this run did, for a line at its end: each that found no violation adds to it."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from neverstale.drive.sim import Found

TOTAL: list[Found] = []


def explored() -> Found:
    """Add up what all of them did."""
    return Found(*map(sum, zip((0, 0, 0), *map(astuple, TOTAL), strict=True)))


class FromWorkers:
    """Takes over what processes explored that tests were spread over (pytest-xdist)."""

    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker explored before it ended."""
        TOTAL.append(Found(*getattr(node, "workeroutput", {}).get("explored", (0, 0, 0))))
