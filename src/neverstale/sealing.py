"""Between values and entries: encode, compress, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from neverstale.codecs import JSON, Codec, Payload, Undecodable, pack, settle, unpack
from neverstale.core.entry import Entry
from neverstale.core.plan import Sealed
from neverstale.errors import EncodingError
from neverstale.fidelity import what_is_not_finite

__all__ = ["SealedValue", "ValueSealer"]


class SealedValue:
    """A value as a hit will give it, with its payload; compressed only if somebody stores it."""

    __slots__ = ("_body", "_codec", "_compress_above", "_packed", "value")

    def __init__(self, value: Any, codec: int, body: bytes, compress_above: int) -> None:
        self.value = value
        self._codec = codec
        self._body = body
        self._compress_above = compress_above
        self._packed: Payload | None = None

    def _pack(self) -> Payload:
        if self._packed is None:
            self._packed = pack(self._codec, self._body, self._compress_above)
        return self._packed

    @property
    def body(self) -> bytes:
        """The encoded value, not compressed."""
        return self._body

    @property
    def size(self) -> int:
        """Bytes before compression."""
        return len(self._body)

    @property
    def codec(self) -> int:
        """Id of the codec."""
        return self._codec

    @property
    def compression(self) -> int:
        """Id of the compression."""
        return self._pack().compression

    @property
    def payload(self) -> bytes | memoryview:
        """The bytes that are stored."""
        return self._pack().data


@dataclass(frozen=True)
class ValueSealer:
    """Encodes and decodes the values of one type.

    Attributes:
        codec: of the type.
        compress_above: bytes above which a value is compressed.
        max_value_bytes: above which one is neither stored nor unpacked.
    """

    codec: Codec[Any]
    compress_above: int
    max_value_bytes: int

    @cached_property
    def _decode(self) -> Any:
        return self.codec.decode

    def seal(self, value: Any) -> SealedValue:
        """Encode a value; see `neverstale.codecs.settle` for what is refused."""
        settled, body = settle(self.codec, value)
        return SealedValue(settled, self.codec.ident, body, self.compress_above)

    def write(self, value: Any) -> SealedValue:
        """Encode a value that nobody is given back."""
        body = self.codec.encode(value)
        if b"null" in body and (wrong := what_is_not_finite(value)) is not None:
            raise EncodingError(f"a value of type {type(value).__qualname__} cannot be stored: {wrong}")
        return SealedValue(value, self.codec.ident, body, self.compress_above)

    def share(self, sealed: Sealed) -> Any:
        """Decode what another has sealed, so that no two readers get the same object; raises `Undecodable`."""
        return self._decode(sealed.body)

    def open(self, entry: Entry) -> Any:
        """Decode what an entry holds; raises `Undecodable`.

        Text is read from JSON as it stands there, and JSON from text that is JSON.
        """
        if entry.codec > JSON:
            raise Undecodable(f"codec {entry.codec} is not known")
        if not entry.compression:
            return self._decode(entry.payload)
        return self._decode(unpack(entry.compression, entry.payload, self.max_value_bytes))
