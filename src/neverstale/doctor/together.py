"""What endangers the cache, seen from all nodes together: the cluster, the clocks, the versions. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from neverstale.core.plan import MARGIN

from .facts import Facts
from .findings import Finding

__all__ = ["check_all"]

_SLOTS: Final = 16384
#: Milliseconds; Redis' own default. So long an isolated primary may go on answering.
_NODE_TIMEOUT: Final = 15_000


def check_all(nodes: Sequence[Facts]) -> Iterator[Finding]:
    """Return what is wrong between the nodes."""
    heard = [facts for facts in nodes if not facts.unreachable]
    yield from _cluster(heard)
    yield from _clocks(heard)
    versions = {facts.server for facts in heard if facts.info}
    if len(versions) > 1:
        told = ", ".join(sorted(" ".join(version) for version in versions))
        yield Finding(
            "notice",
            "mixed-versions",
            f"the nodes run different versions: {told}",
            "A failover changes what the server can do.",
            "Finish the upgrade.",
        )
    refused: dict[str, list[str]] = {}
    for facts in heard:
        for what in facts.refused:
            refused.setdefault(what, []).append(facts.name)
    # Rights and DRYRUN refused are a finding's absence: an application's user should not be told.
    for what in [name for name in refused if not name.startswith("ACL ")]:
        reason = next(facts.refused[what] for facts in heard if what in facts.refused)
        yield Finding(
            "notice",
            "not-asked",
            f"{what} was refused: {reason}",
            "What it would have told is not checked.",
            "Run the doctor as a user who may ask, if there is one: --url.",
            tuple(refused[what]),
        )


def _cluster(nodes: Sequence[Facts]) -> Iterator[Finding]:
    told = [facts for facts in nodes if facts.cluster]
    for facts in told:
        state, covered = (
            facts.cluster.get("cluster_state"),
            int(facts.cluster.get("cluster_slots_ok", _SLOTS)),
        )
        if state != "ok" or covered < _SLOTS:
            yield Finding(
                "error",
                "cluster-down",
                f"cluster_state is {state}; {_SLOTS - covered:,} of {_SLOTS:,} slots are not served",
                "Reads of their keys go to your database, and invalidations of them raise.",
                "CLUSTER NODES says which node is missing; bring it back, or fail over to its replica.",
                (facts.name,),
            )
        if facts.config.get("cluster-allow-reads-when-down") == "yes":
            yield Finding(
                "warning",
                "reads-when-down",
                "cluster-allow-reads-when-down is yes",
                "A primary that is cut off from the others goes on answering, with what was invalidated elsewhere.",
                "Set it to no.",
                (facts.name,),
            )
        timeout = int(facts.config.get("cluster-node-timeout", 0) or 0)
        if timeout > _NODE_TIMEOUT:
            yield Finding(
                "notice",
                "long-node-timeout",
                f"cluster-node-timeout is {timeout / 1000:g} s",
                "An isolated primary may answer for so long with what was invalidated elsewhere.",
                f"{_NODE_TIMEOUT // 1000} s is the default; 5 s suits nodes in one place.",
                (facts.name,),
            )
    if not told:
        return
    view = next((facts.map for facts in told if facts.map), {})
    heads = {
        str(node.get("node_id")): name
        for name, node in view.items()
        if "master" in str(node.get("flags")) and node.get("slots")
    }
    followed = {str(node.get("master_id")) for node in view.values() if "fail" not in str(node.get("flags"))}
    alone = sorted(name for ident, name in heads.items() if ident not in followed)
    if alone:
        yield Finding(
            "notice",
            "no-replica",
            f"{len(alone)} of {len(heads)} primaries have no replica",
            "If one fails, the reads of its keys go to your database until it is back.",
            "Add replicas, or see that your database can bear a share of the reads.",
            tuple(alone),
        )
    failing = sorted(name for name, node in view.items() if "fail" in str(node.get("flags")))
    if failing:
        yield Finding(
            "error",
            "node-failed",
            f"the cluster takes {len(failing)} of its nodes for dead",
            "A primary among them is not served; a replica among them cannot take its primary's place.",
            "Bring them back, or CLUSTER FORGET them.",
            tuple(failing),
        )
    moving = sorted({facts.name for facts in told for node in facts.map.values() if node.get("migrations")})
    if moving:
        yield Finding(
            "notice",
            "slots-moving",
            "slots are being moved between nodes",
            "Invalidations by pattern take longer: they scan until the slots have come to rest.",
            "If nobody is resharding now, somebody's was interrupted: redis-cli --cluster fix.",
            tuple(moving),
        )


def _clocks(nodes: Sequence[Facts]) -> Iterator[Finding]:
    told = [facts for facts in nodes if facts.offset is not None]
    for facts in told:
        assert facts.offset is not None
        if abs(facts.offset) - facts.doubt > MARGIN:
            direction = "ahead of" if facts.offset > 0 else "behind"
            yield Finding(
                "warning",
                "clock",
                f"its clock is {abs(facts.offset):.1f} s {direction} this machine's",
                "Soft TTLs end early or late by as much where the application's clock is the wrong one; and a failover "
                f"to a node that is more than {MARGIN:g} s ahead can make a tag's stamp look older than it is.",
                "Run a time service (chrony, ntpd) on all of these machines.",
                (facts.name,),
            )
    if len(told) > 1:
        first = min(told, key=lambda facts: facts.offset or 0.0)
        last = max(told, key=lambda facts: facts.offset or 0.0)
        apart = (last.offset or 0.0) - (first.offset or 0.0)
        if apart - first.doubt - last.doubt > MARGIN:
            yield Finding(
                "warning",
                "clocks-differ",
                f"the clocks of {first.name} and {last.name} are {apart:.1f} s apart",
                "After a failover from the one to the other a tag's stamp can look older than it is, and a load that "
                "an invalidation overtook is stored.",
                "Run a time service (chrony, ntpd) on all nodes.",
                (first.name, last.name),
            )
