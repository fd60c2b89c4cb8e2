"""The documentation: it builds without a warning, and the reference names everything that is public."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neverstale

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "docs/reference.md").read_text()
#: Beside `neverstale` itself, where users import from.
PLACES = (
    "neverstale.computed",
    "neverstale.dashboard",
    "neverstale.doctor",
    "neverstale.metrics",
    "neverstale.sessions",
    "neverstale.testing.servers",
    "neverstale.warm",
    "neverstale.web.asgi",
    "neverstale.web.sessions",
    "neverstale.web.sqlalchemy",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    place = tmp_path_factory.mktemp("docs")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return place


def test_it_builds_without_a_warning(built: Path) -> None:
    """What `make docs` does works, and leaves no page out of the contents."""
    assert "get_or_load" in (built / "reference.html").read_text()


def test_the_reference_is_whole() -> None:
    """Each public name is in the reference, and nothing else is."""
    named = set(re.findall(r"^\.\. auto\w+:: neverstale\.(\w+)$", REFERENCE, re.MULTILINE))
    errors = set(neverstale.errors.__all__)
    assert named - {"errors"} == set(neverstale.__all__) - errors


@pytest.mark.parametrize("place", PLACES)
def test_so_it_is_for_each_feature(place: str) -> None:
    """Whatever a feature's place makes public is in the reference under that place."""
    named = re.findall(rf"^\.\. auto\w+:: {re.escape(place)}\.(\w+)$", REFERENCE, re.MULTILINE)
    assert sorted(named) == sorted(importlib.import_module(place).__all__)


def test_nothing_is_fetched_from_elsewhere(built: Path) -> None:
    """No page needs an asset of another host."""
    for page in built.glob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?://[^\"]+)", page.read_text())
        assert loaded == []
