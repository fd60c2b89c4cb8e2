"""What endangers the cache, seen from what one node said: pure decisions.

What each means follows from the protocol. Losing a key is a load, never a stale read; so an eviction is no danger, but
some policies lose just what the cache needs most. A refused write is no stale read either: an invalidation that cannot
set a stamp deletes it. What can bring something stale back is the past: an old snapshot, an isolated primary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from neverstale.config import Settings

from .facts import Facts
from .findings import Finding, Severity

__all__ = ["check_node"]

#: README.md: scripts and options of 7.0 are used.
_OLDEST: Final = (7, 0)
#: Full enough that what a deploy adds is too much.
_FULL: Final = 0.9
#: Below this a server's own needs make every ratio look bad (an empty one takes a few MB for 1 MB of data).
_WORTH_A_RATIO: Final = 256 * 1024 * 1024
#: jemalloc's own documents and Redis' `MEMORY DOCTOR` call 1.4 high.
_FRAGMENTED: Final = 1.5
_SWAPPED: Final = 0.8
#: Seconds. A replica is asked for its offset every second, and reported late after ten (repl-ping-replica-period).
_LAG: Final = 10
#: Seconds: connections of an idle worker live longer than that between two requests at night.
_IDLE: Final = 300
#: Milliseconds: half of what a read within a data centre should ever take, and far above a millisecond.
_SLOW_TRIP: Final = 5.0


def check_node(facts: Facts, settings: Settings) -> Iterator[Finding]:
    """Return what is wrong with one node."""
    if facts.unreachable:
        yield Finding(
            "error",
            "unreachable",
            f"the {facts.role} does not answer: {facts.unreachable}",
            "Reads of its keys go to your database, and invalidations of them raise."
            if facts.role == "primary"
            else "If its primary fails now, nothing takes its place.",
            "Look whether it runs, and whether this machine may reach it.",
            (facts.name,),
        )
        return
    for severity, code, what, why, remedy in (
        *_version(facts),
        *_memory(facts),
        *_eviction(facts),
        *_persistence(facts),
        *_replication(facts),
        *_connections(facts),
        *_speed(facts, settings),
        *_rights(facts, settings),
    ):
        yield Finding(severity, code, what, why, remedy, (facts.name,))


_Said = tuple[Severity, str, str, str, str]


def _version(facts: Facts) -> Iterator[_Said]:
    name, version = facts.server
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name == "redis" and numbers and numbers < _OLDEST:
        yield (
            "error",
            "old-server",
            f"redis {version} is older than 7.0",
            "Neverstale's scripts and options are those of 7.0 and later; older releases get no security fixes.",
            "Upgrade to Redis 7.2 or later, or to Valkey.",
        )


def _memory(facts: Facts) -> Iterator[_Said]:
    used, most = facts.number("used_memory"), facts.number("maxmemory")
    policy = str(facts.info.get("maxmemory_policy", ""))
    if not facts.info:
        return
    if not most:
        total = facts.number("total_system_memory")
        yield (
            "warning",
            "maxmemory-unset",
            f"maxmemory is not set; {_bytes(used)} are used"
            + (f", the machine has {_bytes(total)}" if total else ""),
            "It grows until the operating system ends it, with all that is cached, in the middle of traffic.",
            "Set maxmemory to about two thirds of the memory it may have, and maxmemory-policy allkeys-lru.",
        )
    elif policy == "noeviction":
        full = used / most
        yield (
            "error" if full >= _FULL else "warning",
            "noeviction",
            f"maxmemory-policy is noeviction, and {full:.0%} of {_bytes(most)} are used",
            "When it is full every write is refused: nothing new is cached, and all misses go to your database. "
            "Invalidations still hold: a stamp that cannot be set is deleted.",
            "Set maxmemory-policy to allkeys-lru, or volatile-lru where others keep data in this Redis.",
        )
    elif used / most >= _FULL:
        yield (
            "notice",
            "nearly-full",
            f"{used / most:.0%} of {_bytes(most)} are used; {facts.number('evicted_keys'):,.0f} keys "
            "were evicted since it started",
            "A full cache is no fault, but every eviction is a load to come.",
            "If the hit rate is too low, give it more memory or shorten TTLs of what is seldom read.",
        )
    if used >= _WORTH_A_RATIO:
        ratio = facts.number("mem_fragmentation_ratio")
        if ratio >= _FRAGMENTED:
            yield (
                "warning",
                "fragmented",
                f"it takes {ratio:.2f} times the memory that its data need",
                "What is lost to fragmentation is not there for the cache, and may be above what the machine has.",
                "Set activedefrag yes, or restart it when traffic is low: an empty cache fills by itself.",
            )
        elif 0 < ratio < _SWAPPED:
            yield (
                "warning",
                "swapped",
                f"only {ratio:.0%} of its data are in memory",
                "The rest was swapped out: reads of it take as long as the disk, and hold up all others.",
                "Give the machine more memory, or lower maxmemory.",
            )


def _eviction(facts: Facts) -> Iterator[_Said]:
    policy = str(facts.info.get("maxmemory_policy", ""))
    if not facts.number("maxmemory"):
        return
    if policy == "volatile-ttl":
        yield (
            "warning",
            "evicts-leases",
            "maxmemory-policy is volatile-ttl",
            "It evicts first what has the least time left: leases, which live for seconds. A load whose lease is "
            "gone is not stored, so under pressure the cache stops filling.",
            "Set it to allkeys-lru, or volatile-lru where others keep data in this Redis.",
        )
    elif policy.endswith("-random"):
        yield (
            "warning",
            "evicts-at-random",
            f"maxmemory-policy is {policy}",
            "A tag's stamp is as likely to go as anything, and with it every entry of the tag becomes a miss.",
            "Set it to allkeys-lru: a stamp is read with each of its entries, so it is never the oldest.",
        )
    elif policy.endswith("-lrm"):
        yield (
            "warning",
            "evicts-stamps",
            f"maxmemory-policy is {policy}",
            "It evicts what was not written for long: the stamps of tags that are seldom invalidated, and with each "
            "of them every entry of its tag.",
            "Set it to allkeys-lru: a stamp is read with each of its entries, so it is never the oldest.",
        )
    elif policy.startswith("volatile-"):
        yield (
            "notice",
            "only-the-cache-gives-way",
            f"maxmemory-policy is {policy}",
            "Every key of the cache has a TTL, so the cache alone makes room for what others keep here without one.",
            "Right where others share this Redis, if there is room for both; otherwise allkeys-lru.",
        )


def _persistence(facts: Facts) -> Iterator[_Said]:
    save, aof = facts.config.get("save", ""), facts.number("aof_enabled") == 1
    ways = [f"snapshots (save {save})"] if save else []
    if not facts.config and facts.number("rdb_saves") > 0:
        ways.append("snapshots")
    if aof:
        ways.append(f"append-only file (appendfsync {facts.config.get('appendfsync', '?')})")
    if ways:
        yield (
            "warning",
            "persistent",
            f"it writes to disk: {', '.join(ways)}",
            "Restarted from an old file, it brings entries and stamps of the past back together: what was invalidated "
            "since is served again until its TTL.",
            "Set save '' and appendonly no. A cache that starts empty fills by itself; what must survive belongs "
            "into a Redis of its own.",
        )
    failed = facts.info.get("rdb_last_bgsave_status") == "err"
    if failed and facts.config.get("stop-writes-on-bgsave-error") != "no":
        yield (
            "error",
            "writes-stopped",
            "the last snapshot failed, and it refuses writes until one succeeds",
            "Nothing new is cached, and all misses go to your database.",
            "Set save '', or make room on its disk.",
        )
    if facts.number("loading"):
        yield (
            "error",
            "loading",
            "it is loading a file from disk",
            "It answers nothing until it is done, and then with what was true when the file was written.",
            "Wait, then clear the namespace: neverstale clear.",
        )


def _replication(facts: Facts) -> Iterator[_Said]:
    if facts.role == "replica":
        if facts.info.get("master_link_status") != "up":
            down = facts.number("master_link_down_since_seconds")
            yield (
                "warning",
                "replica-cut-off",
                f"the link to its primary is down{f' for {down:,.0f} s' if down > 0 else ''}",
                "It knows nothing of invalidations since: made primary now, it would serve what they removed.",
                "Look at the network between them and at both logs.",
            )
        elif facts.number("master_last_io_seconds_ago") > _LAG:
            yield (
                "warning",
                "replica-lag",
                f"it has not heard of its primary for {facts.number('master_last_io_seconds_ago'):.0f} s",
                "Made primary now, it would serve what was invalidated since.",
                "Look at the network between them, and whether either is overloaded.",
            )
        return
    for name, told in facts.info.items():
        if not re.fullmatch(r"slave\d+", name) or not isinstance(told, dict):
            continue
        lag, state = told.get("lag", 0), told.get("state")
        address = f"{told.get('ip')}:{told.get('port')}"
        if state != "online":
            said = f"its replica {address} is not online but {state}"
        elif isinstance(lag, int | float) and lag > _LAG:
            said = f"its replica {address} is {lag:.0f} s behind"
        else:
            continue
        yield (
            "warning",
            "replica-lag",
            said,
            "Made primary now, it would serve what was invalidated since.",
            "Look at the network between them, and whether the replica is overloaded.",
        )


def _connections(facts: Facts) -> Iterator[_Said]:
    most, now = facts.number("maxclients"), facts.number("connected_clients")
    if most and now / most > 0.8:
        yield (
            "warning",
            "many-clients",
            f"{now:,.0f} of {most:,.0f} connections are in use",
            "The next deploy, which doubles the processes for a while, finds it closed.",
            "Raise maxclients, or lower pool_size in the applications.",
        )
    if facts.number("rejected_connections"):
        yield (
            "notice",
            "rejected-clients",
            f"{facts.number('rejected_connections'):,.0f} connections were refused since it started",
            "Each was a process whose reads all went to the database for a while.",
            "Raise maxclients, or lower pool_size in the applications.",
        )
    idle = facts.config.get("timeout", "0")
    if idle.isdigit() and 0 < int(idle) < _IDLE:
        yield (
            "notice",
            "closes-idle-connections",
            f"it closes connections that are idle for {idle} s (timeout)",
            "The first read after a quiet time connects anew, and may take longer than its limit; the news of "
            "invalidations (listen) are kept alive only by traffic.",
            f"Set timeout 0, or at least {_IDLE}; tcp-keepalive finds clients that are gone.",
        )
    if facts.config.get("tcp-keepalive") == "0":
        yield (
            "notice",
            "no-keepalive",
            "tcp-keepalive is off",
            "Connections of machines that vanished stay, and count towards maxclients.",
            "Set tcp-keepalive 300, its default.",
        )
    limits = re.search(r"pubsub (\d+) (\d+) (\d+)", facts.config.get("client-output-buffer-limit", ""))
    if limits and 0 < int(limits[1]) < 1024 * 1024:
        yield (
            "notice",
            "small-pubsub-buffer",
            f"a subscriber that is {_bytes(int(limits[1]))} behind is thrown out (client-output-buffer-limit)",
            "A burst of invalidations cuts off the processes that listen to them; they miss news, not invalidations.",
            "Set client-output-buffer-limit 'pubsub 32mb 8mb 60', its default.",
        )
    if events := facts.config.get("notify-keyspace-events"):
        yield (
            "notice",
            "keyspace-notifications",
            f"it publishes what happens to keys (notify-keyspace-events {events})",
            "Neverstale does not use that, and every write costs more by it.",
            "Set notify-keyspace-events '', unless somebody else needs it.",
        )


def _speed(facts: Facts, settings: Settings) -> Iterator[_Said]:
    limit = settings.timeout * 1000
    if facts.latency is not None and facts.latency[1] > _SLOW_TRIP:
        late = facts.latency[1] > limit / 2
        yield (
            "warning" if late else "notice",
            "latency",
            f"a round trip from here takes {facts.latency[1]:.1f} ms, the quickest {facts.latency[0]:.1f} ms",
            f"A hit takes at least that long; reads give up after {limit:.0f} ms (timeout), and are loads then.",
            "Put the application next to its Redis. If only this machine is far away, there is nothing to do.",
        )
    ours = [slow for slow in facts.slow if slow.ours]
    if ours:
        slowest = max(ours, key=lambda slow: slow.milliseconds)
        yield (
            "warning" if slowest.milliseconds > limit else "notice",
            "slow-commands",
            f"{len(ours)} of our commands are in the slow log; the slowest took {slowest.milliseconds:.1f} ms: "
            f"{slowest.command[:60]}",
            "While one command runs, all others wait; what waits longer than `timeout` is a load.",
            "Look for very large values (neverstale doctor lists them) and for a machine that is overloaded.",
        )
    scans = [slow for slow in facts.slow if slow.command.upper().startswith(("KEYS ", "FLUSHALL", "FLUSHDB"))]
    if scans:
        yield (
            "warning",
            "stops-for-others",
            f"somebody runs {scans[0].command.split()[0].upper()} here: it took {scans[0].milliseconds:.1f} ms",
            "Everybody else waits as long; what waits longer than `timeout` is a load.",
            "Find who does it (CLIENT LIST), and forbid it by ACL. Neverstale itself uses SCAN and UNLINK.",
        )


def _rights(facts: Facts, settings: Settings) -> Iterator[_Said]:
    open_to_all = "nopass" in facts.user_flags or (not facts.user_flags and settings.password is None)
    bound = facts.config.get("bind", "")
    everywhere = bool(facts.config) and (not bound or "*" in bound or "0.0.0.0" in bound)
    if open_to_all and not facts.loopback:
        yield (
            "error",
            "no-password",
            f"no password is needed for user {facts.user or 'default'}",
            "Whoever reaches it can put into the cache what your users then see.",
            "Give the application a user of its own with a password (ACL SETUSER); see docs/production.md.",
        )
    elif open_to_all and everywhere and facts.config.get("protected-mode") == "no":
        yield (
            "warning",
            "no-password",
            "it listens on every address, with protected-mode off and without a password",
            "Whoever reaches this machine can put into the cache what your users then see.",
            "Set bind 127.0.0.1, or a password (requirepass, ACL SETUSER).",
        )
    if not settings.tls and not facts.loopback:
        yield (
            "warning",
            "no-tls",
            "the connection is not encrypted",
            "Who can read the network reads passwords and what is cached, and can change it on its way.",
            "Use a rediss:// URL, or a network that only these machines share.",
        )
    if facts.allowed:
        yield (
            "notice" if facts.loopback else "warning",
            "dangerous-commands",
            f"user {facts.user} may {', '.join(facts.allowed)}",
            "The cache needs none of them; who gets hold of its password could stop or empty the server.",
            "Give the application a user of its own; docs/production.md has the ACL.",
        )


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
