"""Sessions encrypted at rest: AES-256-GCM (NIST SP 800-38D), by the `cryptography` package.

| bytes | what |
|---|---|
| 0-3 | which key: the beginning of the SHA-256 of `neverstale session key` and the key |
| 4-15 | nonce: 96 random bits, new for every write |
| 16- | ciphertext and tag |

The name of the entry is authenticated with it: a ciphertext that is copied to another session does not open there.
With random nonces one key may encrypt 2**32 times (SP 800-38D section 8.3): rotate keys before that. What is encrypted
is not compressed: its length would tell about its contents. What does not authenticate, also what is not encrypted, is
a miss.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from neverstale.codecs import Undecodable
from neverstale.core.entry import Entry
from neverstale.errors import MissingDependency, UsageError
from neverstale.sealing import SealedValue, ValueSealer

__all__ = ["SECRET", "Keyring", "SecretSealer"]

#: In the codec's place of an entry's header: none of the codecs, so whoever has no key cannot take it for text.
SECRET: Final = 0xAE
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12
_HEAD: Final = _ID_BYTES + _NONCE_BYTES


class Keyring:
    """Keys for AES-256-GCM: the first one encrypts, all of them decrypt.

    Args:
        keys: of 32 bytes each, from `secrets.token_bytes(32)`. To rotate, first add the new one at the end in every
            process, then put it in front, and remove the old one a day later: what is in Redis lives no longer.

    Raises:
        MissingDependency: `cryptography` is not installed.
        UsageError: a key is not 32 bytes long.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise MissingDependency(
                "encrypted sessions need the package cryptography: pip install 'neverstale[crypto]'"
            ) from error
        if not keys or any(not isinstance(key, bytes) or len(key) != _KEY_BYTES for key in keys):
            raise UsageError("keys is a list of keys of 32 bytes each, from secrets.token_bytes(32)")
        named = [(_id_of(key), key) for key in keys]
        self._invalid: type[Exception] = InvalidTag
        self._first = named[0][0]
        self._ciphers = {name: AESGCM(key) for name, key in reversed(named)}

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._ciphers)}>"

    def encrypt(self, body: bytes, name: bytes) -> bytes:
        """Encrypt what is stored under a name."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._first + nonce + self._ciphers[self._first].encrypt(nonce, body, name)

    def decrypt(self, payload: bytes | memoryview, name: bytes) -> bytes:
        """Decrypt what is stored under a name; raises `Undecodable` for what was not encrypted for it."""
        raw = bytes(payload)
        cipher = self._ciphers.get(raw[:_ID_BYTES])
        if cipher is None or len(raw) < _HEAD:
            raise Undecodable("encrypted with another key")
        try:
            return cipher.decrypt(raw[_ID_BYTES:_HEAD], raw[_HEAD:], name)
        except self._invalid as error:
            raise Undecodable("not authentic") from error


class _Encrypted(SealedValue):
    """A value whose payload is encrypted, when somebody stores it."""

    __slots__ = ("_made", "_name", "_ring")

    def __init__(self, plain: SealedValue, ring: Keyring, name: bytes) -> None:
        super().__init__(plain.value, SECRET, plain.body, 1 << 62)
        self._ring = ring
        self._name = name
        self._made: bytes | None = None

    @property
    def compression(self) -> int:
        """None."""
        return 0

    @property
    def payload(self) -> bytes:
        """The encrypted bytes."""
        if self._made is None:
            self._made = self._ring.encrypt(self.body, self._name)
        return self._made


@dataclass(frozen=True)
class SecretSealer(ValueSealer):
    """Encrypts and decrypts the one entry that is called `name`."""

    ring: Keyring = field(kw_only=True)
    name: bytes = field(kw_only=True)

    def seal(self, value: Any) -> SealedValue:
        """Encode, then encrypt."""
        return _Encrypted(super().seal(value), self.ring, self.name)

    def write(self, value: Any) -> SealedValue:
        """Encode, then encrypt, a value that nobody is given back."""
        return _Encrypted(super().write(value), self.ring, self.name)

    def open(self, entry: Entry) -> Any:
        """Decrypt, then decode; raises `Undecodable`."""
        if entry.codec != SECRET:
            raise Undecodable("not encrypted")
        return self.codec.decode(self.ring.decrypt(entry.payload, self.name))


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"neverstale session key" + key).digest()[:_ID_BYTES]
