"""What the project promises about itself: its lock, the core's imports, its documents."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "src" / "neverstale" / "core"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# What a protocol must be given, or must yield: then a test can hold every step of it in its hand.
NOT_IN_CORE = {"asyncio", "random", "redis", "secrets", "socket", "threading", "time", "uuid"}


@pytest.fixture
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def lock() -> str:
    return (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def problems() -> Callable[[dict[str, Any], str], list[str]]:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[dict[str, Any], str], list[str]] = module.problems
    return found


Problems = Callable[[dict[str, Any], str], list[str]]


class TestLock:
    def test_is_in_step(self, problems: Problems, project: dict[str, Any], lock: str) -> None:
        """Everything is locked, by digest, from nowhere in particular, and as pyproject.toml asks."""
        assert problems(project, lock) == []

    @pytest.mark.parametrize(
        "change",
        [
            lambda project: project["project"]["dependencies"].append("tomli"),
            lambda project: project["project"]["dependencies"].pop(),
            lambda project: project["project"]["optional-dependencies"]["zstd"].append("tomli"),
            lambda project: project["project"]["optional-dependencies"].update(more=["tomli"]),
            lambda project: project["dependency-groups"]["shop"].append("tomli"),
            lambda project: project["dependency-groups"]["dev"].pop(),
            lambda project: project["build-system"]["requires"].append("tomli"),
            lambda project: project["project"].update({"requires-python": ">=3.12"}),
        ],
    )
    def test_falls_out_of_step(
        self, problems: Problems, project: dict[str, Any], lock: str, change: Callable[[Any], object]
    ) -> None:
        """Any change of what is asked for is noticed, without a network."""
        change(project)
        assert problems(project, lock) == [
            "requirements.lock is not in step with pyproject.toml: run `make lock`"
        ]

    def test_order_does_not_matter(self, problems: Problems, project: dict[str, Any], lock: str) -> None:
        """Sorting a list of dependencies is no change of them."""
        project["project"]["dependencies"].reverse()
        project["dependency-groups"]["dev"].reverse()
        assert problems(project, lock) == []

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("left-pad==1.0", "has no digest for left-pad"),
            ("--index-url somewhere", "names a place"),
            ("-f wheels", "names a place"),
            ("tomli @ somewhere", "names a place"),
            ("# via https://example.com/simple", "names a place"),
        ],
    )
    def test_wrong_line(
        self, problems: Problems, project: dict[str, Any], lock: str, line: str, problem: str
    ) -> None:
        """A package without a digest, and the address of a registry, are found."""
        (found,) = problems(project, f"{lock}{line}\n")
        assert problem in found

    def test_no_lock(self, problems: Problems, project: dict[str, Any]) -> None:
        """A lock that is not there is not in step."""
        assert "requirements.lock is empty: run `make lock`" in problems(project, "")

    def test_supports_the_pythons_it_names(self, project: dict[str, Any]) -> None:
        """The classifiers begin with the version that is required."""
        named = re.findall(r"Python :: (3\.\d+)", " ".join(project["project"]["classifiers"]))
        assert named == ["3.11", "3.12", "3.13", "3.14"]
        assert project["project"]["requires-python"] == f">={named[0]}"


class TestCore:
    @pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: path.stem)
    def test_imports_no_world(self, path: Path) -> None:
        """The protocol knows no clock, no randomness, no threads, no event loop and no Redis client."""
        assert {name for name in imported(path) if name.split(".")[0] in NOT_IN_CORE} == set()

    @pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: path.stem)
    def test_knows_no_upper_floor(self, path: Path) -> None:
        """Dependencies point down: the protocol imports itself and the words below it."""
        words = ("core", "errors", "config", "events", "codecs", "counters", "lifetime", "receipt")
        below = tuple(f"neverstale.{name}" for name in words)
        ours = {
            name for name in imported(path) if name.split(".")[0] == "neverstale" and name != "neverstale"
        }
        assert {name for name in ours if not name.startswith(below)} == set()

    def test_there_is_one(self) -> None:
        """The tests above look at something."""
        assert (CORE / "lease.py").exists()


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions as well; relative names made absolute."""
    package = path.relative_to(ROOT / "src").parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if node.level and not node.module)


class TestDocuments:
    @pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
    def test_links_lead_somewhere(self, document: Path) -> None:
        """A link to a file of the project names a file that is there."""
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
        files = [link for link in links if "://" not in link and not link.startswith("mailto:")]
        assert [link for link in files if not (document.parent / link).exists()] == []

    def test_make_targets_exist(self) -> None:
        """Every `make` command that a document names is in the Makefile."""
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = {
            name for document in DOCUMENTS for name in re.findall(r"`make ([a-z-]+)", document.read_text())
        }
        assert named - targets == set()


def test_nothing_but_the_package_is_in_the_wheel(tmp_path: Path) -> None:
    """The wheel has the package, its scripts and its marker of types; no tests and no shop."""
    builder = "import sys, hatchling.build as build; print(build.build_wheel(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", builder, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(tmp_path / run.stdout.split()[-1])],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    names = {line.split()[0] for line in listed.stdout.splitlines()[1:]}
    assert {name.split("/")[0] for name in names if not name.startswith("neverstale-")} == {"neverstale"}
    assert {"neverstale/py.typed", "neverstale/core/fill.lua", "neverstale/testing/servers.py"} <= names
