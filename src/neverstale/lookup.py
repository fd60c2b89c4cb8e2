"""Look at one entry: what is stored, under which tags, how long, and whether a read would be served it.

For people (command line, dashboard), so nothing is counted as a hit or a miss. Rules:
- Whether it is served is decided by `core.policy`, as for any read.
- What belongs to one user, the data of a session or an answer to an authenticated request, is not shown unless it is
  asked for by name. What is encrypted cannot be shown: this knows no keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from neverstale.codecs import JSON, RESPONSE, TEXT, Undecodable, unpack
from neverstale.config import Settings
from neverstale.core.calls import ABSENT, TimeLeft
from neverstale.core.commands import Fetch, Flow, Together, Wall
from neverstale.core.entry import Entry
from neverstale.core.keys import Keys
from neverstale.core.policy import State, examine

__all__ = ["Lookup", "TagLook", "look_up"]

_CODECS: Final = {TEXT: "text", JSON: "json", RESPONSE: "response", 0xAE: "encrypted"}
_COMPRESSIONS: Final = {0: "none", 1: "zlib", 2: "zstd"}
_SESSIONS: Final = "session:"
#: Far more than people make, and few enough for every encoder of JSON on every stack.
_DEEPEST: Final = 100


@dataclass(frozen=True)
class TagLook:
    """A tag of an entry.

    Attributes:
        tag: its name.
        state: `valid`; `invalidated`: its stamp is another one now; `stale`: by a soft invalidation; `gone`: without
            a stamp, which makes the entry a miss, too.
    """

    tag: str
    state: str


@dataclass(frozen=True)
class Lookup:
    """What is known of an entry. Moments are milliseconds since 1970; None is none, or not known.

    Attributes:
        key: as the caller named it.
        redis_key: its name in Redis.
        there: whether Redis holds anything under that name.
        state: `fresh`, `stale`, `expired`, `leased`, `invalid`, `absent`, or `foreign`: something that is not an entry.
        served: whether a read would get it; a stale one is served while it is renewed.
        codec, compression: by name.
        bytes, value_bytes: what is stored, and the payload of that.
        ttl_ms: until Redis drops it; None with `there` is a key without a TTL.
        soft_at, hard_at: fresh until, served until; None: for as long as Redis keeps it.
        load_ms: what its load took.
        age_ms: since it was made; known of HTTP answers alone.
        tags: those it was loaded under.
        value: decoded.
        hidden: why there is no `value`, or "".
    """

    key: str
    redis_key: str
    there: bool
    state: str
    served: bool = False
    codec: str = ""
    compression: str = ""
    bytes: int = 0
    value_bytes: int = 0
    ttl_ms: int | None = None
    soft_at: int | None = None
    hard_at: int | None = None
    load_ms: float | None = None
    age_ms: int | None = None
    tags: tuple[TagLook, ...] = ()
    value: Any = None
    hidden: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        # Not asdict(), which copies the value, level by level.
        return {**vars(self), "tags": [asdict(each) for each in self.tags]}


def look_up(
    key: str, keys: Keys, settings: Settings, *, name: str | None = None, show_data: bool = False
) -> Flow[Lookup]:
    """Look at the entry `key` under the prefix of `keys`.

    Args:
        key: as its readers name it.
        keys: the view.
        settings: of the cache.
        name: what it is called in Redis, where that is known: of a key above 512 bytes that is all that a scan tells.
        show_data: also what belongs to one user.

    Raises:
        RedisUnavailable: Redis did not answer.
        UsageError: this is no key.
    """
    name = name or keys.entry(key)
    (raw,) = yield from Fetch((name,))
    (ttl,) = yield from Together((TimeLeft(name),))
    now = yield from Wall()
    seen = examine(raw, (), (), now)
    stamps: Mapping[str, bytes | None] = {}
    if seen.state is State.UNSURE and seen.entry is not None:
        tags = tuple(tag for tag, _ in seen.entry.stamps)
        found = yield from Fetch(tuple(map(keys.stamp, tags)))
        stamps = dict(zip(tags, found, strict=True))
        seen = examine(raw, tags, found, now)
    there = raw is not None or ttl != ABSENT
    ttl_ms = ttl if ttl >= 0 else None
    if seen.entry is None:
        state = "foreign" if there else "absent"
        hidden = "it is not an entry of Neverstale" if there else ""
        return Lookup(key, name, there, state, bytes=len(raw or b""), ttl_ms=ttl_ms, hidden=hidden)
    entry = seen.entry
    if entry.is_lease:
        return Lookup(
            key,
            name,
            there,
            "leased",
            bytes=len(entry.raw),
            ttl_ms=ttl_ms,
            hidden="somebody is loading it now",
        )
    value, hidden, born = _value(entry, keys.prefix + key, settings.max_value_bytes, show_data)
    return Lookup(
        key,
        name,
        there,
        seen.state.value,
        served=seen.state in (State.FRESH, State.STALE),
        codec=_CODECS.get(entry.codec, f"unknown ({entry.codec})"),
        compression=_COMPRESSIONS.get(entry.compression, f"unknown ({entry.compression})"),
        bytes=len(entry.raw),
        value_bytes=len(entry.payload),
        ttl_ms=ttl_ms,
        soft_at=entry.soft_at or None,
        hard_at=entry.hard_at or None,
        load_ms=entry.cost / 1000,
        age_ms=None if born is None else max(0, now - born),
        tags=tuple(TagLook(tag, _tag_state(entry, tag, stamps, now)) for tag, _ in entry.stamps),
        value=value,
        hidden=hidden,
    )


def _tag_state(entry: Entry, tag: str, stamps: Mapping[str, bytes | None], now: int) -> str:
    own, current = dict(entry.stamps)[tag], stamps.get(tag)
    if current is None:
        return "gone"
    if own == current:
        return "valid"
    # Whether another stamp leaves an entry to be served is for the policy to say: it is asked about this tag alone.
    others = [(name, stamp) for name, stamp in entry.stamps if name != tag]
    names = (tag, *(name for name, _ in others))
    state = examine(entry.raw, names, (current, *(stamp for _, stamp in others)), now).state
    return "invalidated" if state is State.INVALID else "stale"


def _value(entry: Entry, name: str, most: int, show_data: bool) -> tuple[Any, str, int | None]:
    """Return the value, or why there is none, and when it was made."""
    if entry.codec not in (TEXT, JSON, RESPONSE):
        what = "it is encrypted" if entry.codec in _CODECS else "its codec is not known here"
        return None, what, None
    try:
        body = unpack(entry.compression, entry.payload, most)
        if entry.codec == TEXT:
            if name.startswith(_SESSIONS) and not show_data:
                return None, "it belongs to a session", None
            return str(body, "utf-8"), "", None
        if entry.codec == RESPONSE:
            return _answer(body, show_data)
        value = msgspec.json.decode(body)
        if _is_deep(value):
            return None, f"it has more than {_DEEPEST} levels", None
    except (Undecodable, UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as problem:
        return None, f"it cannot be decoded: {problem}", None
    if not show_data:
        # An application may have given its sessions another prefix.
        if isinstance(value, dict) and {"digest", "family", "expires_at"} <= value.keys():
            return {**value, "data": "(hidden)"}, "", None
        if name.startswith(_SESSIONS):
            return None, "it belongs to a session", None
    return value, "", None


def _answer(body: bytes | memoryview, show_data: bool) -> tuple[Any, str, int | None]:
    from neverstale.responses.stored import CODEC, Flag

    stored = CODEC.decode(body)
    born = stored.born_ms or None
    if stored.owner and not show_data:
        return None, "it is the answer to one user", born
    text: Any = None
    try:
        text = stored.body.decode()
        value = msgspec.json.decode(stored.body)
        text = text if _is_deep(value) else value
    except UnicodeDecodeError:
        text = f"({len(stored.body)} bytes that are no text)"
    except (msgspec.MsgspecError, RecursionError):
        pass
    named: Any = vars(Flag).items()
    flags = [name.lower() for name, bit in named if isinstance(bit, int) and bit and stored.flags & bit]
    return (
        {
            "status": stored.status,
            "headers": [[_latin(name), _latin(value)] for name, value in stored.headers],
            "body": text,
            "fresh_ms": stored.fresh_ms,
            "vary": [_latin(name) for name in stored.vary],
            "flags": flags,
        },
        "",
        born,
    )


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = (
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        )
        level = [each for group in inner for each in group]
        if not level:
            return False
    return True


def _latin(raw: Any) -> str:
    # RFC 9110 section 5.5: field values are octets, read as ISO 8859-1 by whoever must show them.
    return raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)
