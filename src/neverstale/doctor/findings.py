"""What the doctor says: findings, ordered by how much they endanger the cache, and what they mean for a script."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from neverstale.errors import UsageError

__all__ = ["CODES", "ORDER", "Finding", "Severity", "exit_status", "known", "merged"]

Severity = Literal["error", "warning", "notice"]
ORDER: Final[dict[Severity, int]] = {"error": 0, "warning": 1, "notice": 2}
#: Every finding that there is, by its code.
CODES: Final = frozenset(
    (
        "clock",
        "clocks-differ",
        "closes-idle-connections",
        "cluster-down",
        "dangerous-commands",
        "evicts-at-random",
        "evicts-leases",
        "evicts-stamps",
        "foreign-keys",
        "fragmented",
        "keyspace-notifications",
        "latency",
        "loading",
        "long-node-timeout",
        "many-clients",
        "maxmemory-unset",
        "mixed-versions",
        "nearly-full",
        "no-keepalive",
        "no-password",
        "no-replica",
        "no-tls",
        "no-ttl",
        "no-ttl-foreign",
        "node-failed",
        "noeviction",
        "not-asked",
        "not-ours-inside",
        "not-served",
        "nothing-found",
        "old-server",
        "only-the-cache-gives-way",
        "orphans",
        "other-version",
        "persistent",
        "reads-when-down",
        "rejected-clients",
        "replica-cut-off",
        "replica-lag",
        "scan-incomplete",
        "slots-moving",
        "slow-commands",
        "small-pubsub-buffer",
        "stops-for-others",
        "swapped",
        "ttl-above-a-day",
        "unreachable",
        "writes-stopped",
    )
)


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


def known(codes: Iterable[str]) -> frozenset[str]:
    """Return codes that are to be ignored; raises `UsageError` for one that no finding has."""
    if isinstance(codes, str):
        raise UsageError(f"ignore is a list of codes, not one string: write ignore=[{codes!r}]")
    wanted = frozenset(codes)
    for code in sorted(wanted - CODES):
        near = difflib.get_close_matches(code, sorted(CODES))
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "docs/doctor.md has them all"
        raise UsageError(f"no finding has the code {code!r}: {hint}")
    return wanted


def exit_status(findings: Iterable[Finding], *, strict: bool) -> int:
    """Return 1 for an error, with `strict` for a warning, too; else 0."""
    bad = {"error", "warning"} if strict else {"error"}
    return int(any(each.severity in bad for each in findings))
