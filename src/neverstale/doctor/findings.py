"""What the doctor says: findings, ordered by how much they endanger the cache, and what they mean for a script."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

__all__ = ["ORDER", "Finding", "Severity", "exit_status", "merged"]

Severity = Literal["error", "warning", "notice"]
ORDER: Final[dict[Severity, int]] = {"error": 0, "warning": 1, "notice": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        severity: `error`: the promise or the safety net is broken, or will be under load; `warning`: something
            endangers them; `notice`: to be known.
        code: a name that does not change, for scripts and `--ignore`.
        what: one line of what was found.
        why: what it means for the cache.
        remedy: what to do.
        where: the nodes it was found on; empty where it concerns all, or none.
    """

    severity: Severity
    code: str
    what: str
    why: str
    remedy: str
    where: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, the gravest first; what several nodes have in common, but for figures, is one."""
    found: dict[tuple[str, str, str], list[Finding]] = {}
    for each in findings:
        what = re.sub(r"[0-9][0-9.,:]*( [KMGT]iB| B)?", "#", each.what) if each.where else each.what
        found.setdefault((each.severity, each.code, what), []).append(each)
    return sorted(map(_one, found.values()), key=lambda each: (ORDER[each.severity], each.code))


def _one(alike: list[Finding]) -> Finding:
    first = alike[0]
    where = tuple(dict.fromkeys(node for each in alike for node in each.where))
    others = len({each.what for each in alike}) - 1
    return replace(first, what=first.what + (f" (and {others} like it)" if others else ""), where=where)


def exit_status(findings: Iterable[Finding], *, strict: bool) -> int:
    """Return 1 for an error, with `strict` for a warning, too; else 0."""
    bad = {"error", "warning"} if strict else {"error"}
    return int(any(each.severity in bad for each in findings))
