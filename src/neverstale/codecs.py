"""Turn values into payload bytes and back, typed by msgspec, never by pickle.

Rules:

- A hit and a miss give the caller the same. So a value is *settled* before it is stored: encoded, decoded
  again, and compared. What would come back different (a tuple as a list, a NaN as null, a date as text) is an
  `EncodingError` for the one who loads it, not a surprise for the one who reads it later.
- Whatever bytes stand in Redis, decoding gives a value of the type or raises `Undecodable`, which the cache
  counts as a miss. A value of another release, of another type, cut off, deeply nested or made to fill memory
  is just a miss.
- Decoding is on the hit path: one call into msgspec, on a memoryview, without a copy.

Not known here: keys, TTLs, Redis, and whether a value is too large to be stored. The numbers below are
stored: they never change their meaning.
"""

from __future__ import annotations

import functools
import sys
import threading
import typing
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from neverstale.errors import EncodingError
from neverstale.fidelity import what_is_lost
from neverstale.shapes import is_model

__all__ = [
    "JSON",
    "PLAIN",
    "RESPONSE",
    "TEXT",
    "TEXT_CODEC",
    "ZLIB",
    "ZSTD",
    "Codec",
    "Payload",
    "Undecodable",
    "json_codec",
    "pack",
    "settle",
    "unpack",
]

T = TypeVar("T")

TEXT: Final = 0
"""Codec: text as UTF-8."""
JSON: Final = 1
"""Codec: JSON, written and read by msgspec."""
RESPONSE: Final = 3
"""Codec: an answer over HTTP, see `neverstale.responses.stored`."""

PLAIN: Final = 0
"""Compression: none."""
ZLIB: Final = 1
"""Compression: a zlib stream (RFC 1950)."""
ZSTD: Final = 2
"""Compression: one Zstandard frame (RFC 8878) that declares its size."""

# Level 1 takes half the time of the default 6 for 6 % more bytes (24 KB of JSON): the loader's caller waits.
_ZLIB_LEVEL: Final = 1
# A payload that shrinks by less costs more time at each hit than it saves on the wire.
_WORTH_IT: Final = 0.9
# Codecs are few (one for each type an application caches); the bound only matters for types made at run time.
_CODECS_KEPT: Final = 1024


# A Zstandard decompressor may not be shared by threads, and takes ten times as long to make as to use.
_of_this_thread: Final = threading.local()


class Undecodable(Exception):
    """These bytes are not a value of this type: a miss. Private to the package, never seen by a caller."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What an entry holds behind its header.

    Attributes:
        codec: `TEXT` or `JSON`.
        compression: `PLAIN`, `ZLIB` or `ZSTD`.
        data: the encoded and perhaps compressed value.
    """

    codec: int
    compression: int
    data: bytes | memoryview


def pack(codec: int, body: bytes, compress_above: int) -> Payload:
    """Make the payload of an encoded value, compressed where that pays.

    Arguments:
        codec: how `body` was encoded.
        body: the encoded value.
        compress_above: bytes; a body that is longer is compressed if it becomes at least a tenth smaller.
    """
    if len(body) > compress_above:
        compression, smaller = _compress(body)
        if len(smaller) <= len(body) * _WORTH_IT:
            return Payload(codec, compression, smaller)
    return Payload(codec, PLAIN, body)


def unpack(compression: int, data: bytes | memoryview, max_value_bytes: int) -> bytes | memoryview:
    """Undo the compression of a payload; `PLAIN` data are handed back as they are, uncopied.

    Arguments:
        compression: as the entry's header says.
        data: the payload.
        max_value_bytes: the largest value that is made; whatever would become larger is refused before it
            does.

    Raises:
        Undecodable: the data are cut off, damaged, too large, or of a compression that is not known here.
    """
    if compression == PLAIN:
        return data
    if compression == ZLIB:
        return _unzip(data, max_value_bytes)
    if compression == ZSTD:
        return _unzstd(data, max_value_bytes)
    raise Undecodable(f"compression {compression} is not known")


def _compress(body: bytes) -> tuple[int, bytes]:
    zstandard = _zstandard()
    if zstandard is None:
        return ZLIB, zlib.compress(body, _ZLIB_LEVEL)
    compressed: bytes = zstandard.ZstdCompressor().compress(body)
    return ZSTD, compressed


def _unzip(data: bytes | memoryview, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data, most + 1)
    except (zlib.error, MemoryError) as error:
        raise Undecodable("damaged zlib data") from error
    if len(body) > most:
        raise Undecodable(f"larger than {most} bytes")
    if not stream.eof or stream.unused_data:
        raise Undecodable("zlib data cut off, or with something behind them")
    return body


def _unzstd(data: bytes | memoryview, most: int) -> bytes:
    zstandard = _zstandard()
    if zstandard is None:
        raise Undecodable("zstandard is not installed")
    try:
        # The size that a frame declares is allocated at once, so it is looked at first. Ours all declare it.
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= most:
            raise Undecodable(f"declares no size, or one above {most} bytes")
        decompressor = getattr(_of_this_thread, "decompressor", None)
        if decompressor is None:
            decompressor = _of_this_thread.decompressor = zstandard.ZstdDecompressor()
        body: bytes = decompressor.decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError, MemoryError) as error:
        raise Undecodable("damaged Zstandard data") from error
    if len(body) != size:
        raise Undecodable("not of the size that it declares")
    return body


@functools.cache
def _zstandard() -> Any:
    """Import zstandard at its first use; None where it is not installed."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


class Codec(ABC, Generic[T]):
    """A way to write values of one type as bytes.

    Attributes:
        ident: what the entry's header says about the payload: `TEXT` or `JSON`.
        name: the type, as messages call it.
    """

    __slots__ = ("ident", "name")

    ident: int
    name: str

    @abstractmethod
    def encode(self, value: T) -> bytes:
        """Write a value.

        Raises:
            EncodingError: it is not of a kind that can be written.
        """

    @abstractmethod
    def decode(self, data: bytes | memoryview) -> T:
        """Read a value.

        Raises:
            Undecodable: the bytes are not a value of this type; never anything else, whatever the bytes are.
        """

    @abstractmethod
    def settle(self, value: T) -> tuple[T, bytes]:
        """Do what `settle` says."""


def settle(codec: Codec[T], value: T) -> tuple[T, bytes]:
    """Encode a value and give it as a hit would: decoded again, so that a miss and a hit give the same.

    Raises:
        EncodingError: it does not fit the codec's type, or would not come back as it is.
    """
    return codec.settle(value)


class _TextCodec(Codec[str]):
    """Text as UTF-8. A subclass of `str` is stored, and comes back, as plain text."""

    __slots__ = ()

    def __init__(self) -> None:
        self.ident = TEXT
        self.name = "str"

    def encode(self, value: str) -> bytes:
        if not isinstance(value, str):
            raise EncodingError(
                f"only text can be stored here, not {_named(value)}: use set_json, or give the text of it"
            )
        try:
            return str.encode(value, "utf-8")
        except UnicodeEncodeError as error:
            raise EncodingError(
                f"text with a lone surrogate at position {error.start} cannot be stored as UTF-8"
            ) from error

    def decode(self, data: bytes | memoryview) -> str:
        try:
            return str(data, "utf-8")
        except (UnicodeDecodeError, MemoryError) as error:
            raise Undecodable("not UTF-8") from error

    def settle(self, value: str) -> tuple[str, bytes]:
        body = self.encode(value)
        return str.__str__(value), body


TEXT_CODEC: Final[Codec[str]] = _TextCodec()


class _JsonCodec(Codec[T]):
    """JSON of one type. `exact`: nothing is known about the type, so what comes back must be all that was given."""

    __slots__ = ("_decode", "_encode", "_exact")

    def __init__(self, kind: Any) -> None:
        self.ident = JSON
        self.name = kind.__qualname__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        self._exact = kind is Any or kind is object
        try:
            self._decode = msgspec.json.Decoder(Any if self._exact else kind, dec_hook=_from_json).decode
        except (TypeError, NameError) as error:
            raise EncodingError(f"values of type {self.name} cannot be stored: {error}") from error
        self._encode = msgspec.json.Encoder(enc_hook=_to_json).encode

    def encode(self, value: T) -> bytes:
        try:
            return self._encode(value)
        except UnicodeEncodeError as error:
            raise EncodingError(f"text with a lone surrogate cannot be stored ({self.name})") from error
        except RecursionError as error:
            raise EncodingError(f"{_named(value)} holds itself, or is nested too deeply") from error
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise EncodingError(f"{_named(value)} cannot be stored as {self._wanted()}: {error}") from error

    def decode(self, data: bytes | memoryview) -> T:
        try:
            return self._decode(data)  # type: ignore[no-any-return]
        except Exception as error:
            # Everything, on purpose: the type's own __post_init__ and validators run in there, on any bytes.
            raise Undecodable(str(error)) from error

    def settle(self, value: T) -> tuple[T, bytes]:
        body = self.encode(value)
        try:
            settled = self.decode(body)
        except Undecodable as error:
            raise EncodingError(f"{_named(value)} does not fit {self._wanted()}: {error}") from error
        try:
            lost = what_is_lost(value, settled, exact=self._exact)
        except RecursionError as error:
            raise EncodingError(f"{_named(value)} is nested too deeply") from error
        if lost is not None:
            hint = "; give type=, the type of what is cached" if self._exact else ""
            raise EncodingError(f"{_named(value)} would not come back as it is: {lost}{hint}")
        return settled, body

    def _wanted(self) -> str:
        return "plain JSON (give type=, the type of what is cached)" if self._exact else self.name


@typing.overload
def json_codec(kind: type[T]) -> Codec[T]: ...
@typing.overload
def json_codec(kind: Any) -> Codec[Any]: ...
def json_codec(kind: Any) -> Codec[Any]:
    """Give the codec of a type, the same one each time.

    Arguments:
        kind: what msgspec can read (dataclasses, Structs, TypedDicts, NamedTuples, enums, dates, `Decimal`,
            `UUID`, bytes, sets, unions, generics of them), a pydantic model, or either inside of the other.
            `Any`: whatever comes back from JSON exactly as it was.

    Raises:
        EncodingError: msgspec cannot read values of this type.
    """
    if isinstance(kind, Hashable):
        try:
            return _kept_codec(kind)
        except TypeError:  # a hash that looks possible and is not: Annotated[int, []]
            pass
    return _JsonCodec(kind)


@functools.lru_cache(_CODECS_KEPT)
def _kept_codec(kind: Any) -> Codec[Any]:
    return _JsonCodec(kind)


# pydantic ---------------------------------------------------------------------------------------------------
# It is never imported here: a value or a type can only be one of its models if somebody else has imported it.


def _to_json(value: Any) -> Any:
    """Do for msgspec's encoder what it cannot: pydantic models, by the names of their fields."""
    if is_model(type(value)):
        return value.model_dump(mode="json", round_trip=True, by_alias=_by_alias())
    raise TypeError(f"JSON has nothing for objects of type {type(value).__qualname__}")


def _from_json(kind: type, value: Any) -> Any:
    """Do for msgspec's decoder what it cannot: pydantic models."""
    if not (isinstance(kind, type) and is_model(kind)):
        raise TypeError(f"nothing in JSON is an object of type {kind!r}")
    model: Any = kind
    names = {} if _by_alias() else {"by_alias": False, "by_name": True}
    try:
        return model.model_validate(value, **names)
    except ValueError:
        # A strict model takes a date from JSON text, but not from a Python str.
        return model.model_validate_json(msgspec.json.encode(value), **names)


@functools.cache
def _by_alias() -> bool:
    """Whether fields must go by their aliases: pydantic can read them by their own names since 2.11."""
    major, minor = sys.modules["pydantic"].VERSION.split(".")[:2]
    return (int(major), int(minor)) < (2, 11)


def _named(value: object) -> str:
    return f"a value of type {type(value).__qualname__}"
