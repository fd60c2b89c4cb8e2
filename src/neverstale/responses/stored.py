"""The form in which an answer lies in Redis, and the codec for it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import msgspec

from neverstale.codecs import RESPONSE, Codec, Undecodable, unpack
from neverstale.core.entry import Entry
from neverstale.core.plan import Sealed
from neverstale.errors import EncodingError
from neverstale.sealing import SealedValue, ValueSealer

__all__ = ["CODEC", "Flag", "Stored", "StoredSealer", "new_ident"]


# Plain numbers: on the way of every hit, `&` of an IntFlag takes ten times as long.
class Flag:
    """What is to be known of a stored answer, beside its headers. The numbers are stored: they never change."""

    NONE: Final = 0
    #: No answer, only the fact that answers differ by user.
    PER_USER: Final = 1
    #: To be validated before each use (`no-cache`).
    VALIDATE: Final = 2
    #: Never to be served stale by a cache's own decision (`must-revalidate`, `proxy-revalidate`, `s-maxage`).
    STRICT: Final = 4
    #: Explicitly for everybody: also for requests with `Authorization` or a session.
    FOR_ALL: Final = 8
    #: `ETag` or `Last-Modified` were made here: the handler does not know them.
    MADE_ETAG: Final = 16
    MADE_DATE: Final = 32


# Not a dataclass: on the way of every hit, msgspec's Structs decode in a third of the time, and cost no garbage
# collection.
class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One answer.

    Attributes:
        ident: random id of the base entry; variants hang on it.
        flags: see `Flag`.
        status, headers, body: as the handler gave them, without what may not be stored.
        born_ms: when it was made, in milliseconds since 1970: its age counts from there.
        fresh_ms: so long after that it is fresh; then `stale_ms` (stale-while-revalidate) and `error_ms`
            (stale-if-error).
        vary: names of the request headers that it was selected by, and the digest of their values.
        selected: that digest; empty without `vary`.
        owner: digest of the user whose it is; empty if it is nobody's.
        etag, modified: its validators; modified in seconds since 1970, or 0.
    """

    ident: str
    flags: int
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    born_ms: int = 0
    fresh_ms: int = 0
    stale_ms: int = 0
    error_ms: int = 0
    vary: tuple[bytes, ...] = ()
    selected: bytes = b""
    owner: bytes = b""
    etag: bytes = b""
    modified: int = 0


def new_ident() -> str:
    """Return a random id for a base entry: nobody can guess one, so nobody can aim at another's variants."""
    return secrets.token_hex(8)


class _StoredCodec(Codec[Stored]):
    """MessagePack of a `Stored`: bodies are bytes, which JSON has none of."""

    __slots__ = ("_decode", "_encode")

    def __init__(self) -> None:
        self.ident = RESPONSE
        self.name = "Stored"
        self._decode = msgspec.msgpack.Decoder(Stored).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def encode(self, value: Stored) -> bytes:
        if not isinstance(value, Stored):
            raise EncodingError(f"only answers are stored here, not {type(value).__qualname__}")
        return self._encode(value)

    def decode(self, data: bytes | memoryview) -> Stored:
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError) as error:
            raise Undecodable(str(error)) from error

    def settle(self, value: Stored) -> tuple[Stored, bytes]:
        # Made of bytes, numbers and text alone, and never changed: it comes back as it is.
        return value, self.encode(value)


CODEC: Final[Codec[Stored]] = _StoredCodec()


@dataclass(frozen=True)
class StoredSealer(ValueSealer):
    """Encodes and decodes answers; nothing else that lies under the prefix is taken for one."""

    codec: Codec[Stored] = CODEC
    compress_above: int = 0
    max_value_bytes: int = 0

    def write(self, value: Stored) -> SealedValue:
        """Encode an answer that nobody is given back."""
        return self.seal(value)

    def open(self, entry: Entry) -> Stored:
        """Decode what an entry holds; raises `Undecodable`."""
        if entry.codec != RESPONSE:
            raise Undecodable(f"codec {entry.codec} is no answer's")
        if not entry.compression:
            return CODEC.decode(entry.payload)
        return CODEC.decode(unpack(entry.compression, entry.payload, self.max_value_bytes))

    def share(self, sealed: Sealed) -> Stored:
        """Return what another has sealed: an answer is never changed, so one object serves all."""
        value = sealed.value
        if isinstance(value, Stored):
            return value
        raise Undecodable("no answer")
