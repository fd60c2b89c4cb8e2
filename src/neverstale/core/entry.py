"""The bytes of an entry: a header of fixed places, the tags with their stamps, then the payload.

| bytes | what |
|---|---|
| 0-1 | magic `CE 01`: no UTF-8 text starts so; the second byte is the version of the format |
| 2 | kind: `V` a value, `L` a lease that waits for one |
| 3, 4 | codec, compression |
| 5 | reserved, 0 |
| 6-17 | fill id, unique to each fill |
| 18-33 | token of the lease, or zeros |
| 34-41 | when that lease ends, in milliseconds of the clock of the Redis node (only beside a value) |
| 42-49 | fresh until, in milliseconds since 1970, or 0 for as long as Redis keeps it |
| 50-57 | served until, likewise; from then on only a fallback |
| 58-61 | cost of the load, in microseconds |
| 62-63 | number of tags; then, for each: its length (2 bytes), the tag, the stamp's length (1 byte), the stamp |

All numbers are big-endian. The scripts beside this file know the places 0 to 41 and 50 to 57, and compare the first 56
bytes, so the rest may change with the version of the format. Any bytes may come back from Redis: what does not parse is
not ours, and a miss.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

__all__ = ["HEAD", "NO_TOKEN", "Entry", "build", "fill_id_of", "parse", "placeholder", "token_of"]

MAGIC: Final = b"\xce\x01"
VALUE: Final = b"V"
LEASE: Final = b"L"
FILL_ID_BYTES: Final = 12
TOKEN_BYTES: Final = 16
NO_TOKEN: Final = bytes(TOKEN_BYTES)
_MAX_COST: Final = 2**32 - 1

_HEADER = struct.Struct(">2scBBx12s16sQQQIH")
#: The same for reading: what only the scripts look at is skipped.
_READ = struct.Struct(">2scBB13x16s8xQQIH")
_TAG = struct.Struct(">H")
_SIZE: Final = _HEADER.size
assert _READ.size == _SIZE
#: What a reader has seen of an entry is told by so many of its first bytes.
HEAD: Final = 56


# Not a NamedTuple: on the way of every hit, that costs three times as much to make, and work for the garbage collector.
class Entry(msgspec.Struct, frozen=True, gc=False):
    """One parsed entry; the payload is a view into the bytes that came from Redis."""

    raw: bytes
    is_lease: bool
    codec: int
    compression: int
    token: bytes
    soft_at: int
    hard_at: int
    cost: int
    stamps: tuple[tuple[str, bytes], ...]
    payload: memoryview


def parse(raw: bytes | None) -> Entry | None:
    """Parse what a key holds; None if it holds nothing, or nothing of ours. Never raises."""
    if raw is None or len(raw) < _SIZE:
        return None
    magic, kind, codec, compression, token, soft_at, hard_at, cost, count = _READ.unpack_from(raw)
    if magic != MAGIC or (kind != VALUE and kind != LEASE):
        return None
    at = _SIZE
    stamps: tuple[tuple[str, bytes], ...] = ()
    if count:
        found = []
        size = len(raw)
        try:
            for _ in range(count):
                middle = at + 2 + (raw[at] << 8 | raw[at + 1])
                end = middle + 1 + raw[middle]
                found.append((raw[at + 2 : middle].decode(), raw[middle + 1 : end]))
                at = end
        except (IndexError, UnicodeDecodeError):
            return None
        if at > size:
            return None
        stamps = tuple(found)
    return Entry(
        raw, kind == LEASE, codec, compression, token, soft_at, hard_at, cost, stamps, memoryview(raw)[at:]
    )


def build(
    *,
    codec: int,
    compression: int,
    fill_id: bytes,
    soft_at: int,
    cost: int,
    stamps: tuple[tuple[str, bytes], ...],
    payload: bytes | memoryview,
    hard_at: int = 0,
) -> bytes:
    """Return the bytes of a value without a lease.

    Args:
        codec, compression: ids of `neverstale.codecs`.
        fill_id: 12 bytes, unique to this fill.
        soft_at: milliseconds since 1970 from which on the value is stale, or 0.
        cost: of the load, in microseconds; what does not fit is the highest that does.
        stamps: the tags with the stamps that the value was loaded under.
        payload: the encoded value.
        hard_at: milliseconds since 1970 from which on the value is only a fallback, or 0.
    """
    cost = min(max(cost, 0), _MAX_COST)
    parts: list[bytes | memoryview] = [
        _HEADER.pack(
            MAGIC, VALUE, codec, compression, fill_id, NO_TOKEN, 0, soft_at, hard_at, cost, len(stamps)
        )
    ]
    for tag, stamp in stamps:
        name = tag.encode()
        parts += (_TAG.pack(len(name)), name, bytes((len(stamp),)), stamp)
    parts.append(payload)
    return b"".join(parts)


def placeholder(token: bytes) -> bytes:
    """Return the bytes of a lease without a value."""
    return _HEADER.pack(MAGIC, LEASE, 0, 0, bytes(FILL_ID_BYTES), token, 0, 0, 0, 0, 0)


def fill_id_of(head: bytes) -> bytes:
    """Return the fill id in a header: two headers with the same one are of the same value."""
    return head[6:18]


def token_of(head: bytes) -> bytes | None:
    """Return the token of the lease in a header that a script returned, or None if there is no lease."""
    if len(head) < HEAD or head[:2] != MAGIC:
        return None
    token = head[18:34]
    return None if token == NO_TOKEN else token
