"""What an invalidation gives back to the one who asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Receipt"]


@dataclass(frozen=True)
class Receipt:
    """An invalidation has happened: no read that starts from now on returns what was there before.

    Attributes:
        kind: `key`, `pattern` or `tag`.
        names: what was invalidated.
        removed: how many entries were cleared; of keys, those of this version. Entries of a tag that Redis had dropped
            already, or that are left to expire because the clearing was cut short, are not among them; they are not
            served either way.
        status: `applied`.
        duration: seconds it took.
        soft: a tag was only marked stale: what was there may be served once more, while it is loaded anew.
    """

    kind: Literal["key", "pattern", "tag"]
    names: tuple[str, ...]
    removed: int
    status: Literal["applied", "queued"]
    duration: float
    soft: bool = False
