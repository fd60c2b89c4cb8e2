"""What all processes of an application have counted together, in Redis.

Each process adds its differences about once a second ([report.lua](report.lua)), so that anybody can see the whole: the
command line, the dashboard, a warm-up. Reads of the cache never depend on it, and losing it costs a graph.

| key, behind `<namespace>:cache:{<namespace>:stats}:` | what | lives |
|---|---|---|
| `totals:v<version>` | HASH: every figure by prefix, and which prefixes have a name | a day after the last report |
| `series:v<version>:<n>` | HASH: the same of the n-th 10 s since 1970 | 40 min |
| `keys:v<version>:<n>`, `tags:v<version>:<n>` | ZSET: what was asked for most in the n-th minute | 40 min |
| `live`, `reports` | ZSET and HASH: processes, when they last reported, and the number of that report | a minute |

All are in one slot of a cluster, and all that counts time in them is the clock of its node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from importlib import resources
from typing import Any, Final

from neverstale.core.commands import Call, Flow, Together
from neverstale.counters import CounterSnapshot
from neverstale.hot import HotKey, HotTag, read

from .figures import read_figures

__all__ = ["SPAN", "Report", "Span", "StatKeys", "Totals", "hot_keys", "hot_tags", "series", "totals"]

#: Seconds of one step of the series, and of one table of what is asked for most; report.lua knows them, too.
SPAN: Final = 10
MINUTE: Final = 60
#: A process that has not reported for so many seconds is not counted: several reports in a row have failed.
LIVE: Final = 10
#: How far back the series and the tables go, in seconds: half an hour, and what their TTL leaves beyond it.
LONGEST: Final = 1800
_SOURCE: Final = (resources.files("neverstale.metrics") / "report.lua").read_text()


class StatKeys:
    """The names of all this, of one namespace and version."""

    __slots__ = ("_head", "_version", "live", "reports", "totals")

    def __init__(self, namespace: str, version: int) -> None:
        space = f"{namespace}:" if namespace else ""
        self._head = f"{space}cache:{{{space}stats}}:"
        self._version = f"v{version}"
        self.totals = f"{self._head}totals:{self._version}"
        self.live = f"{self._head}live"
        self.reports = f"{self._head}reports"

    def span(self, number: int) -> str:
        """Return the key of the series for the n-th 10 s since 1970."""
        return f"{self._head}series:{self._version}:{number}"

    def hot(self, kind: str, number: int) -> str:
        """Return the key of the table of `keys` or `tags` for the n-th minute since 1970."""
        return f"{self._head}{kind}:{self._version}:{number}"


# --- what is asked of Redis ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report(Call["tuple[bool, int]"]):
    """Add what a process has counted; replies whether it was added, and the seconds of the server's clock.

    Attributes:
        keys: the names of the statistics.
        process: a name of the process, another one after a fork.
        number: of the report; one that arrives twice counts once.
        seconds: what the clock of the server is thought to say; where it is in another span nothing is done.
        going: whether the process ends.
        figures, hot_keys, hot_tags: names and what is to be added to them.
    """

    keys: StatKeys
    process: str
    number: int
    seconds: float
    figures: Sequence[tuple[str, int]] = ()
    hot_keys: Sequence[tuple[str, int]] = ()
    hot_tags: Sequence[tuple[str, int]] = ()
    going: bool = False

    @property
    def key(self) -> str:
        return self.keys.totals

    def words(self) -> tuple[Any, ...]:
        span, minute = int(self.seconds // SPAN), int(self.seconds // MINUTE)
        keys = (
            self.keys.totals,
            self.keys.span(span),
            self.keys.hot("keys", minute),
            self.keys.hot("tags", minute),
            self.keys.live,
            self.keys.reports,
        )
        parts = (self.figures, self.hot_keys, self.hot_tags)
        sizes = map(len, parts)
        pairs = (word for part in parts for pair in part for word in pair)
        # With its source each time: once a second it is not worth remembering who knows it by its digest.
        return (
            *("EVAL", _SOURCE, len(keys), *keys),
            *(self.process, self.number, span, minute, int(self.going), *sizes, *pairs),
        )

    def parse(self, reply: Any) -> tuple[bool, int]:
        return bool(reply[0]), int(reply[1])


@dataclass(frozen=True, slots=True)
class _Ask(Call[Any]):
    """A command that reads one key."""

    name: str
    verb: str = "HGETALL"
    args: tuple[Any, ...] = ()

    @property
    def key(self) -> str:
        return self.name

    def words(self) -> tuple[Any, ...]:
        return (self.verb, self.name, *self.args)

    def parse(self, reply: Any) -> Any:
        return reply


@dataclass(frozen=True, slots=True)
class _Now(Call[float]):
    """Ask the node of a key for its time, in seconds since 1970."""

    name: str

    @property
    def key(self) -> str:
        return self.name

    def words(self) -> tuple[Any, ...]:
        return ("TIME",)

    def parse(self, reply: Any) -> float:
        return int(reply[0]) + int(reply[1]) / 1e6


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


# --- what comes back ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Totals:
    """What all processes have counted together.

    Attributes:
        at: when, in seconds since 1970 by the clock of Redis.
        processes: how many have reported within the last 10 s.
        prefixes: the figures of each prefix since the first report. They begin anew where Redis has lost them.
    """

    at: float
    processes: int
    prefixes: Mapping[str, CounterSnapshot] = field(default_factory=dict)

    @property
    def all(self) -> CounterSnapshot:
        """The figures of all prefixes together."""
        return _sum(self.prefixes.values())

    def since(self, earlier: Totals) -> Totals:
        """Return what was counted between two moments; divided by the difference of `at` it is a rate."""
        nothing = CounterSnapshot()
        return Totals(
            self.at,
            self.processes,
            {
                prefix: now.minus(earlier.prefixes.get(prefix, nothing))
                for prefix, now in self.prefixes.items()
            },
        )


@dataclass(frozen=True)
class Span:
    """What all processes have reported in one step of time.

    Attributes:
        at: its begin, in seconds since 1970.
        seconds: its length; of the last one only what has passed of it.
        prefixes: the figures of each prefix.
    """

    at: int
    seconds: float
    prefixes: Mapping[str, CounterSnapshot] = field(default_factory=dict)

    @property
    def all(self) -> CounterSnapshot:
        """The figures of all prefixes together."""
        return _sum(self.prefixes.values())


def _sum(snapshots: Iterable[CounterSnapshot]) -> CounterSnapshot:
    return reduce(CounterSnapshot.plus, snapshots, CounterSnapshot())


# --- flows --------------------------------------------------------------------------------------------------------


def totals(keys: StatKeys) -> Flow[Totals]:
    """Read what all processes have counted.

    Raises:
        RedisUnavailable: Redis did not answer.
    """
    (now,) = yield from Together((_Now(keys.totals),))
    alive, figures = yield from Together((_Ask(keys.live, "ZCOUNT", (now - LIVE, "+inf")), _Ask(keys.totals)))
    return Totals(now, int(alive), read_figures(dict(_pairs(figures))))


def series(keys: StatKeys, seconds: float) -> Flow[list[Span]]:
    """Read the steps of the last so many seconds, the oldest first; those without figures, too.

    Raises:
        RedisUnavailable: Redis did not answer.
    """
    (now,) = yield from Together((_Now(keys.totals),))
    last = int(now // SPAN)
    numbers = range(last - int(min(max(seconds, SPAN), LONGEST) // SPAN) + 1, last + 1)
    replies = yield from Together(tuple(_Ask(keys.span(number)) for number in numbers))
    return [
        Span(
            number * SPAN,
            max(now - number * SPAN, 0.001) if number == last else float(SPAN),
            read_figures(dict(_pairs(reply))),
        )
        for number, reply in zip(numbers, replies, strict=True)
    ]


def hot_keys(keys: StatKeys, most: int, seconds: float) -> Flow[list[HotKey]]:
    """Return the keys that are asked for most, the hottest first.

    Args:
        keys: of the statistics.
        most: how many at most.
        seconds: how far back, in whole minutes; the present one counts beside them as far as it has passed.

    Raises:
        RedisUnavailable: Redis did not answer.
    """
    found = yield from _hottest(keys, "keys", most, seconds)
    return [HotKey(*both, reads) for name, reads in found if (both := read(name)) is not None]


def hot_tags(keys: StatKeys, most: int, seconds: float) -> Flow[list[HotTag]]:
    """Return the tags whose entries are asked for most; as `hot_keys`."""
    found = yield from _hottest(keys, "tags", most, seconds)
    return [HotTag(name, reads) for name, reads in found]


def _hottest(keys: StatKeys, kind: str, most: int, seconds: float) -> Flow[list[tuple[str, float]]]:
    (now,) = yield from Together((_Now(keys.totals),))
    last = int(now // MINUTE)
    before = max(1, int(min(seconds, LONGEST) // MINUTE))
    # Twice as many of each as are wanted: one that is behind in a minute may be ahead in all.
    ask = ("ZREVRANGE", (0, 2 * most - 1, "WITHSCORES"))
    replies = yield from Together(
        tuple(_Ask(keys.hot(kind, number), *ask) for number in range(last - before, last + 1))
    )
    # From the first minute of which there is something: before, nobody reported.
    empty = next((index for index, reply in enumerate(replies) if reply), before)
    covered = max((before - empty) * MINUTE + (now - last * MINUTE), SPAN)
    reads: dict[str, float] = {}
    for reply in replies:
        for name, score in _pairs(reply):
            known = name.decode(errors="replace")
            reads[known] = reads.get(known, 0.0) + float(score) / covered
    return sorted(reads.items(), key=lambda item: (-item[1], item[0]))[:most]
