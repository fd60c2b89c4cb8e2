"""docs/doctor.md names every finding that there is, and none that there is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import neverstale.doctor
from neverstale.doctor.findings import CODES, ORDER

SOURCE = Path(neverstale.doctor.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def codes() -> Iterator[str]:
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = (
                node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
            )
            if len(parts) >= 5 and any(
                isinstance(each, ast.Constant) and each.value in ORDER for each in ast.walk(parts[0])
            ):
                assert isinstance(parts[1], ast.Constant)
                yield str(parts[1].value)


def test_findings_are_documented() -> None:
    """The tables of the page and the code have the same findings."""
    tables = "\n".join(line for line in PAGE.read_text().splitlines() if line.startswith("| `"))
    named = set(
        re.findall(r"`([a-z][a-z-]*)`", "\n".join(line.split("|")[1] for line in tables.splitlines()))
    )
    assert len(set(codes())) > 40
    assert named == set(codes())


def test_all_codes_are_known() -> None:
    """The list that --ignore is held against has every finding, and no other."""
    assert set(codes()) == CODES
