"""Make `requirements.lock` from `pyproject.toml`, or check that the two are in step.

    python tools/lock.py            make it anew, keeping the versions that are still allowed
    python tools/lock.py --upgrade  take the newest versions
    python tools/lock.py --check    compare; needs no network

The lock holds everything that developing takes, for every platform and every Python that the project supports,
each file by its digest. It names no registry: where packages come from is the machine's business. Its head
carries a digest of the tables of `pyproject.toml` that it was made from: that is what the check compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "requirements.lock"
MARK = "# made from dependencies with the digest "
HEAD = "# Everything that `make` installs. Do not edit: change pyproject.toml, then `make lock`.\n"


def digest(project: dict[str, Any]) -> str:
    """Return the digest of what a project asks to be installed; the order within a list does not matter."""
    asked = {
        "build": sorted(project["build-system"]["requires"]),
        "python": project["project"]["requires-python"],
        "runtime": sorted(project["project"]["dependencies"]),
        "extras": _sorted(project["project"].get("optional-dependencies", {})),
        "groups": _sorted(project.get("dependency-groups", {})),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def problems(project: dict[str, Any], lock: str) -> list[str]:
    """Return what is wrong with a lock, a line each; nothing if it is in step with the project."""
    found = []
    marks = [line.removeprefix(MARK).strip() for line in lock.splitlines() if line.startswith(MARK)]
    if marks != [digest(project)]:
        found.append("requirements.lock is not in step with pyproject.toml: run `make lock`")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==\S.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    whole = re.findall(r"^([A-Za-z0-9._-]+)==\S(?:(?!^\S).)*?--hash=sha256:[0-9a-f]{64}", lock, re.M | re.S)
    found += [f"requirements.lock has no digest for {name}" for name in pins if name not in whole]
    if not pins:
        found.append("requirements.lock is empty: run `make lock`")
    options = ("-i ", "-f ", "-e ", "--index", "--extra-index", "--find-links", "--trusted-host")
    for number, line in enumerate(lock.splitlines(), 1):
        if "://" in line or line.startswith(options) or " @ " in line:
            found.append(f"requirements.lock, line {number}, names a place: {line.strip()}")
    return found


def compile_lock(*, upgrade: bool) -> None:
    """Resolve the dependencies and write the lock."""
    project = _project()
    command = [sys.executable, "-m", "uv", "pip", "compile", PROJECT.name, "--output-file", LOCK.name]
    command += ["--universal", "--python-version", _oldest(project), "--generate-hashes", "--all-extras"]
    command += [option for group in project["dependency-groups"] for option in ("--group", group)]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    if upgrade:
        command.append("--upgrade")
    before = LOCK.read_text() if LOCK.exists() else ""
    try:
        # Files that happen to lie on this machine must not decide: their digests may be nobody else's.
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "UV_FIND_LINKS": ""})
    except BaseException:
        if before:
            LOCK.write_text(before)
        raise
    LOCK.write_text(f"{HEAD}{MARK}{digest(project)}\n{LOCK.read_text()}")


def _project() -> dict[str, Any]:
    return tomllib.loads(PROJECT.read_text())


def _oldest(project: dict[str, Any]) -> str:
    version: str = project["project"]["requires-python"]
    return version.removeprefix(">=")


def _sorted(tables: dict[str, list[Any]]) -> dict[str, list[str]]:
    return {
        name: sorted(json.dumps(item, sort_keys=True) for item in items) for name, items in tables.items()
    }


def main() -> int:
    options = argparse.ArgumentParser(description="make or check requirements.lock")
    options.add_argument("--check", action="store_true")
    options.add_argument("--upgrade", action="store_true")
    chosen = options.parse_args()
    if not chosen.check:
        compile_lock(upgrade=chosen.upgrade)
    found = problems(_project(), LOCK.read_text() if LOCK.exists() else "")
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
