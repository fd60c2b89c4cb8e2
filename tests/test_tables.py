"""Tables of figures in the pages: the commands that the pages name run, and print these rows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import peers
from neverstale.testing.servers import RedisServer, binaries

ROOT = Path(__file__).resolve().parent.parent


def printed(*command: str) -> list[list[str]]:
    """Run a command of the repository and return the rows of the table that it prints, the head first."""
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    return rows(run.stdout)


def rows(text: str) -> list[list[str]]:
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row for row in found if not row[0].startswith("---")]


def on_page(name: str, first: str) -> list[list[str]]:
    """Return the rows of the table of a page whose head begins with `first`."""
    text = (ROOT / "docs" / name).read_text()
    tables = re.findall(r"^(?:\|.*\n)+", text, re.MULTILINE)
    whole, *parts = [rows(table) for table in tables if rows(table)[0][0] == first]
    # What is shown of it further down is of the same run.
    assert all(row in whole for part in parts for row in part)
    return whole


def test_memory_of_entries() -> None:
    """docs/production.md has the rows of `python -m bench.memory`, and no entry is much larger than it says."""
    page, now = on_page("production.md", "an entry"), printed("bench.memory", "--entries", "500")
    assert [row[:2] for row in now] == [row[:2] for row in page]
    for then, row in zip(page[1:], now[1:], strict=True):
        # Few entries have a larger part in what a server needs for itself.
        assert number(row[2]) == pytest.approx(number(then[2]), rel=0.5)


def test_steps_of_the_tutorial() -> None:
    """docs/tutorial.md has the rows of `python -m examples.bookshop`, and every step does what the page says of it."""
    page = on_page("tutorial.md", "step")
    now = printed("examples.bookshop", "--seconds", "0.5", "--rounds", "1", "--connections", "4")
    assert [row[:2] for row in now] == [row[:2] for row in page]
    assert all(number(row[2]) > 0 for row in now[1:])
    # Nothing stale but where nobody says yet that something has changed.
    assert {row[0]: number(row[-1]) for row in page[1:] if row[0] != "2"} == dict.fromkeys("01345678", 0)
    assert [number(row[-1]) for row in now[4:]] == [0] * 6
    # Statements: what is cached is not asked.
    statements = [number(row[-2]) for row in now[1:]]
    assert statements[0] > statements[3] > statements[6]


def test_comparison() -> None:
    """docs/comparison.md has the rows of bench/peers.py, and what it says of this library still holds."""
    page = on_page("comparison.md", "library")[1:]
    assert [(row[0].split()[0], row[1]) for row in page] == [(name, by) for name, by, _ in peers.LIBRARIES]
    found = binaries()
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        for row, (name, _, run) in zip(page, peers.LIBRARIES, strict=True):
            if name == "neverstale":
                stale, loads = run(server.url)
                assert [str(loads), "the old value" if stale else "the new value"] == [row[3], row[2]]


def number(text: str) -> float:
    return float(text.replace(",", ""))
