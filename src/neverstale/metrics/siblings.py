"""What the worker processes of one machine know together: small files beside those of prometheus_client.

Whichever worker a scrape reaches must say the same, or Prometheus takes two workers for one that has been restarted.
What is not a sum of what each has counted is therefore in one file for all, in `PROMETHEUS_MULTIPROC_DIR`:

- `neverstale-nodes-<n>.json`: the last look at the nodes of one Redis (`neverstale.metrics.nodes.Looks`);
- `neverstale-prefixes.json`: the prefixes that have series of their own (`neverstale.metrics.figures.Names`);
- a `.lock` beside each, which is held by who writes. It ends with its process.

A file is replaced as a whole, so who reads needs no lock. Without that directory there is one process, or there are
several that are asked for themselves, and each has its own memory.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["alone", "load", "shared", "store"]


def shared(name: str) -> Path | None:
    """Return where a file of all workers is; `None` without a directory for such."""
    place = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(place, f"neverstale-{name}.json") if place and Path(place).is_dir() else None


def load(path: Path) -> Any:
    """Return what is in a file; `None` where there is none, or none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def store(path: Path, value: Any) -> None:
    """Replace a file; only for who is `alone`.

    Raises:
        OSError: it could not be written, and is as it was.
    """
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


@contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[bool]:
    """Keep all other threads and processes from writing to a file while the block runs; says whether that holds.

    Args:
        path: of the file.
        wait: for another one to be done; otherwise the block runs with `False` while there is one.

    Raises:
        OSError: the lock's file cannot be made.
    """
    with path.with_suffix(".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # Said, not left to the closing: a child that was forked in between has the file open, too.
            fcntl.flock(lock, fcntl.LOCK_UN)
