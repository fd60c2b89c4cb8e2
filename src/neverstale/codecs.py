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
import math
import sys
import typing
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from neverstale.errors import EncodingError
from neverstale.shapes import field_names, is_model

__all__ = [
    "JSON",
    "PLAIN",
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

PLAIN: Final = 0
"""Compression: none."""
ZLIB: Final = 1
"""Compression: a zlib stream (RFC 1950)."""
ZSTD: Final = 2
"""Compression: one Zstandard frame (RFC 8878) that declares its size."""

# Level 1 is three times faster than the default 6 and loses a tenth of the gain: the loader's caller waits
# for it.
_ZLIB_LEVEL: Final = 1
# A payload that shrinks by less costs more time at each hit than it saves on the wire.
_WORTH_IT: Final = 0.9
# Codecs are few (one for each type an application caches); the bound only matters for types made at run time.
_CODECS_KEPT: Final = 1024


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
    try:
        import zstandard
    except ImportError:
        return ZLIB, zlib.compress(body, _ZLIB_LEVEL)
    # One compressor a call: they may not be shared by threads.
    return ZSTD, zstandard.ZstdCompressor().compress(body)


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
    try:
        import zstandard
    except ImportError as error:
        raise Undecodable("zstandard is not installed") from error
    try:
        # The size that a frame declares is allocated at once, so it is looked at first. Ours always declare
        # it.
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= most:
            raise Undecodable(f"declares no size, or one above {most} bytes")
        body = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError, MemoryError) as error:
        raise Undecodable("damaged Zstandard data") from error
    if len(body) != size:
        raise Undecodable("not of the size that it declares")
    return body


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
            # Equal values of a known type are enough, and compared in C. Of an unknown type they are not: 1
            # == True.
            lost = None if not self._exact and settled == value else _lost(value, settled, "$", self._exact)
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
    raise NotImplementedError(f"objects of type {_name(type(value))} are not supported")


def _from_json(kind: type, value: Any) -> Any:
    """Do for msgspec's decoder what it cannot: pydantic models."""
    if not (isinstance(kind, type) and is_model(kind)):
        raise NotImplementedError(f"objects of type {kind!r} are not supported")
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


# what would come back different -----------------------------------------------------------------------------

_NATIVE: Final = frozenset({type(None), bool, int, float, str, list, dict})
_SAID: Final = 80  # characters of a value that a message shows


def _lost(value: Any, settled: Any, where: str, exact: bool) -> str | None:
    """Say what of a value is not in what came back; None if nothing.

    Of an unknown type (`exact`), everything must be equal and of the same type. Of a known one, msgspec may
    convert to what the type asks for (a dict to a dataclass, an int to a float), but nothing may silently
    become something plainer (a date to text, a NaN to None, an int key to text).
    """
    given, got = type(value), type(settled)
    if given is float and not math.isfinite(value) and (got is not float or exact):
        return f"{where} is {value!r}, which JSON cannot hold"
    if given is not got:
        plainer = (
            got in _NATIVE and not isinstance(value, got) and not (got is float and isinstance(value, int))
        )
        if exact or plainer:
            return f"{where} is {_name(given)} {_short(value)} and would come back as {_name(got)} {_short(settled)}"
    if isinstance(value, dict) and isinstance(settled, dict):
        return _lost_in_dict(value, settled, where, exact)
    if isinstance(value, list | tuple) and isinstance(settled, list | tuple):
        pairs: Iterator[tuple[str, Any, Any]] = (
            (f"{where}[{i}]", one, other) for i, (one, other) in enumerate(zip(value, settled, strict=False))
        )
    elif given is got and given not in _NATIVE:
        pairs = (
            (f"{where}.{name}", getattr(value, name, None), getattr(settled, name, None))
            for name in field_names(given) or ()
        )
    elif exact and value != settled:
        return f"{where} is {_short(value)} and would come back as {_short(settled)}"
    else:
        return _not_finite(value, where) if given is not got else None
    return next(
        (lost for at, one, other in pairs if (lost := _lost(one, other, at, exact)) is not None), None
    )


def _lost_in_dict(value: dict[Any, Any], settled: dict[Any, Any], where: str, exact: bool) -> str | None:
    if len(value) != len(settled):
        return f"{where} has {len(value)} keys, of which {len(settled)} would come back"
    # JSON keeps the order, so the same place is the same key, of whatever type.
    for (key, one), (other_key, other) in zip(value.items(), settled.items(), strict=True):
        lost = _lost(key, other_key, f"key of {where}", exact) or _lost(
            one, other, f"{where}[{key!r}]", exact
        )
        if lost is not None:
            return lost
    return None


def _not_finite(value: Any, where: str) -> str | None:
    """Look for a NaN or an infinity in what was converted to another type: they are written as null."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value!r}, which JSON cannot hold"
    inside: Iterator[tuple[str, Any]]
    if isinstance(value, dict):
        inside = ((f"{where}[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        inside = ((f"{where}[{i}]", each) for i, each in enumerate(value))
    else:
        inside = ((f"{where}.{name}", getattr(value, name, None)) for name in field_names(type(value)) or ())
    return next((lost for at, each in inside if (lost := _not_finite(each, at)) is not None), None)


def _name(kind: type) -> str:
    return kind.__qualname__


def _named(value: object) -> str:
    return f"a value of type {_name(type(value))}"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SAID else shown[:_SAID] + "…"
