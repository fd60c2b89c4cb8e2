"""What the exploration did is worth a line at the end of the run."""

from __future__ import annotations

import pytest

from neverstale.drive.sim import Found

from .totals import TOTAL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many schedules were run."""
    total = sum_of(TOTAL)
    if total.schedules:
        terminalreporter.write_line(
            f"explored {total.schedules:,} schedules ({total.states:,} states, {total.steps:,} steps): "
            "no read was given what had been invalidated before it began"
        )


def sum_of(found: list[Found]) -> Found:
    """Add up what several explorations did."""
    return Found(
        sum(each.schedules for each in found),
        sum(each.states for each in found),
        sum(each.steps for each in found),
    )
