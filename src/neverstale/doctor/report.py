"""Examine a Redis: ask all nodes, look at the keys, and say what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from neverstale.cache import Cache
from neverstale.errors import RedisUnavailable

from .checks import check_node
from .elsewhere import MOST
from .facts import Facts, gather
from .findings import Finding, known, merged
from .names import Kind
from .nodes import Node, nodes_of
from .scan import Plain, Scan, Scanner, shown
from .together import check_all

__all__ = ["Report", "examine"]

#: Keys looked at per second: a few percent of what one core of a server does.
RATE: Final = 10_000.0
#: Share of the memory of the namespace.
_MUCH: Final = 0.2
#: Members of tags that are gone, below which nobody needs to know.
_MANY: Final = 10_000
_SHOWN: Final = 3


@dataclass
class Report:
    """All that was found.

    Attributes:
        namespace, version: of the cache.
        nodes: what each said.
        scan: what is in the keys; None where none were looked at.
        findings: the gravest first.
        primaries: to mend what was found.
    """

    namespace: str
    version: int
    nodes: list[Facts]
    scan: Scan | None
    findings: list[Finding]
    primaries: list[Node] = field(default_factory=list, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "namespace": self.namespace,
            "version": self.version,
            "findings": [finding.as_dict() for finding in self.findings],
            "nodes": [_node(facts) for facts in self.nodes],
            "scan": None if self.scan is None else self.scan.as_dict(),
        }


def examine(
    cache: Cache,
    *,
    rate: float = RATE,
    scan: bool = True,
    ignore: Iterable[str] = (),
    progress: Callable[[Scan], object] = lambda scan: None,
) -> Report:
    """Examine the Redis of a cache.

    Args:
        cache: says where it is, and which namespace.
        rate: keys looked at per second, whoever's they are; 0 for no limit.
        scan: whether to look at keys at all.
        ignore: codes of findings that are known and accepted.
        progress: called with what was found until now, after every step.

    What may not be asked (CONFIG, ACL, ...) is said in a finding.

    Raises:
        RedisUnavailable: no node answers.
        UsageError: there is no such finding as one of `ignore`.
    """
    accepted = known(ignore)
    settings = cache.settings
    nodes = nodes_of(cache._connections, replicas=True)
    facts = [gather(node, settings.namespace, is_cluster=settings.mode == "cluster") for node in nodes]
    if all(each.unreachable for each in facts):
        raise RedisUnavailable(facts[0].unreachable)
    found = None
    # A node that a cluster names a primary may have become a replica meanwhile; then it has nothing of its own.
    primaries = [
        node
        for node, each in zip(nodes, facts, strict=True)
        if node.role == "primary" and not each.unreachable
    ]
    if scan:
        found = Scanner(cache, primaries, rate=rate, progress=progress).run()
    findings = [finding for each in facts for finding in check_node(each, settings)]
    findings += check_all(facts)
    if found is not None:
        findings += _check_scan(found, settings.version, settings.namespace)
    kept = [finding for finding in merged(findings) if finding.code not in accepted]
    return Report(settings.namespace, settings.version, facts, found, kept, primaries)


def _check_scan(scan: Scan, version: int, namespace: str) -> Iterator[Finding]:
    for node, problem in scan.failed.items():
        yield Finding(
            "error",
            "scan-incomplete",
            f"not all keys were looked at: {problem}",
            "What is said here of keys holds for those that were seen; the others may lack a TTL.",
            "Run it again when the node answers. A cluster that has lost a node answers again after its failover.",
            where=(node,),
        )
    if not scan.own and not scan.failed:
        yield _nothing(scan, namespace)
    ours = [each for each in scan.lasting if each.name.kind is not Kind.FOREIGN]
    foreign = [each for each in scan.lasting if each.name.kind is Kind.FOREIGN]
    if ours:
        yield Finding(
            "error",
            "no-ttl",
            f"{_count(scan.lasting_count - len(foreign), 'key')} without a TTL: {_examples(ours)}",
            "The TTL is the safety net: should an invalidation ever be lost, a value without one is wrong for ever. "
            "Neverstale sets a TTL with every key, so something else wrote or changed them.",
            "neverstale doctor --mend gives them one; then find out who runs SET or PERSIST on them.",
        )
    if foreign:
        yield Finding(
            "warning",
            "no-ttl-foreign",
            f"{_count(len(foreign), 'key')} of the namespace, not ours, without a TTL: {_examples(foreign)}",
            "They stay for ever and are never evicted by a volatile-* policy. `clear` leaves them.",
            "Give whatever writes them a namespace of its own. --mend does not touch them.",
        )
    if scan.long_count:
        yield Finding(
            "error",
            "ttl-above-a-day",
            f"{_count(scan.long_count, 'key')} with a TTL above 24 hours: {_examples(scan.long)}",
            "Should an invalidation ever be lost, its harm ends with the TTL, and nothing of ours lives above a day.",
            "neverstale doctor --mend shortens them; then find out who changed them.",
        )
    if scan.strange_count:
        yield Finding(
            "warning",
            "not-ours-inside",
            f"{_count(scan.strange_count, 'key')} with a name of ours and other contents: {_examples(scan.strange)}",
            "Somebody else writes under this namespace. To the cache they are misses, and it overwrites them.",
            "Give one of the two another namespace.",
        )
    if scan.foreign:
        count = scan.kinds[Kind.FOREIGN.value].keys
        yield Finding(
            "notice",
            "foreign-keys",
            f"{_count(count, 'key')} of the namespace {namespace!r} not ours: {_examples(scan.foreign)}",
            "Nothing of the cache reads, invalidates or clears them.",
            "Give whatever writes them a namespace of its own.",
        )
    for other, group in sorted(scan.versions.items()):
        if other != version:
            yield Finding(
                "notice",
                "other-version",
                f"{_count(group.keys, 'entry', 'entries')} of version {other}, while {version} was asked about",
                "Left over from before a deploy they expire within a day; if they keep coming, processes of that "
                "version are still running.",
                "None needed: eviction and TTLs take them.",
            )
    total = sum(group.memory or 0 for name, group in scan.kinds.items() if name != Kind.OUTSIDE.value)
    if total and (scan.dead.memory or 0) > _MUCH * total:
        yield Finding(
            "notice",
            "not-served",
            f"{_count(scan.dead.keys, 'entry', 'entries')} not served any more, "
            f"{(scan.dead.memory or 0) / total:.0%} of the memory",
            "A tag of theirs was invalidated, and the clearing afterwards was cut short, or a stamp was evicted.",
            "They expire by themselves. If stamps are evicted, give Redis more memory.",
        )
    if scan.members.orphans > _MANY:
        yield Finding(
            "notice",
            "orphans",
            f"tags list about {scan.members.orphans:,.0f} entries that are gone (sampled: {scan.members.sets} tags), "
            f"most in {scan.members.worst[0]}",
            "Memory for nothing, and work for the next invalidation of the tag. They do no other harm.",
            "None needed: the list goes with the next invalidation, or within a day of the last fill.",
        )
    for what, reason in scan.refused.items():
        yield Finding(
            "warning" if what in ("PTTL", "GETRANGE", "MGET") else "notice",
            "not-asked",
            f"{what} was refused: {reason}",
            "Whether keys have a TTL was not checked."
            if what == "PTTL"
            else "What it tells is missing here.",
            "Run the doctor as a user who may ask, if there is one: --url.",
        )


def _nothing(scan: Scan, namespace: str) -> Finding:
    """Say that nothing of the cache is there; only where others' caches are is it likely to be a mistake."""
    whose = f"the namespace {namespace!r}" if namespace else "a cache without a namespace"
    if not scan.expected and not scan.elsewhere and "DBSIZE" not in scan.refused:
        what = "Redis is empty: there was no key to look at"
    else:
        of = f"none of {_count(scan.expected, 'key')}" if scan.expected else "no key"
        what = f"{of} is {'of ' if not scan.keys else 'an entry or a tag of '}{whose}"
    if scan.elsewhere:
        seen = [repr(each) if each else "no namespace" for each in scan.elsewhere[:MOST]]
        what += f"; seen: {', '.join(seen)}{', ...' if len(scan.elsewhere) > MOST else ''}"
    return Finding(
        "warning" if scan.elsewhere else "notice",
        "nothing-found",
        what,
        "So nothing is said here of the keys of your cache."
        if scan.elsewhere
        else "Nothing is said here of keys; right if nothing was cached yet.",
        "Give the application's namespace and Redis: NEVERSTALE_NAMESPACE and REDIS_URL, or --namespace and --url.",
    )


def _count(number: int, what: str, plural: str = "") -> str:
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def _examples(found: list[Plain] | list[str]) -> str:
    names = [each if isinstance(each, str) else shown(each.key) for each in found[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(found) > _SHOWN else "")


def _node(facts: Facts) -> dict[str, Any]:
    name, version = facts.server
    return {
        "name": facts.name,
        "role": facts.role,
        "unreachable": facts.unreachable or None,
        "server": f"{name} {version}" if facts.info else None,
        "keys": facts.keys,
        "used_memory": facts.info.get("used_memory"),
        "maxmemory": facts.info.get("maxmemory"),
        "maxmemory_policy": facts.info.get("maxmemory_policy"),
        "latency_ms": None if facts.latency is None else round(facts.latency[1], 3),
        "clock_offset_s": None if facts.offset is None else round(facts.offset, 6),
        "refused": facts.refused,
    }
