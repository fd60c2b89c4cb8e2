"""What a read is to do, in the protocol's terms, and what it needs to know of values: nothing but how to seal them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from neverstale.lifetime import Lifetime

from .entry import Entry
from .keys import Keys

__all__ = ["MARGIN", "Plan", "Sealed", "Sealer"]

#: A stamp that was set less than this before a load began, in seconds, is taken for one that was set during it: clocks
#: of two machines agree on the length of a second, but only about so well while one of them is being set right.
MARGIN: Final = 1.0


class Sealed(Protocol):
    """A value as a hit would give it; encoded (`body`, of `size` bytes); and as it is stored (`payload`)."""

    @property
    def value(self) -> Any: ...
    @property
    def codec(self) -> int: ...
    @property
    def compression(self) -> int: ...
    @property
    def payload(self) -> bytes | memoryview: ...
    @property
    def body(self) -> bytes: ...
    @property
    def size(self) -> int: ...


class Sealer(Protocol):
    """Turns values of one type into payloads and back."""

    def seal(self, value: Any) -> Sealed:
        """Encode; raises `EncodingError`."""
        ...

    def open(self, entry: Entry) -> Any:
        """Decode; raises `Undecodable`."""
        ...

    def share(self, sealed: Sealed) -> Any:
        """Decode what another has sealed, perhaps as another type; raises `Undecodable`."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """One read with all its options, in Redis' terms.

    Attributes:
        lease_ms: milliseconds that a lease lives.
        wait_limit: seconds that a reader waits for the load of another; 0: it loads for itself at once.
        fallback: whether the caller has an older value to serve, should the load fail.
        margin: see `MARGIN`.
    """

    entry: str
    keys: Keys
    tags: tuple[str, ...]
    life: Lifetime
    lease_ms: int
    wait_limit: float
    max_bytes: int
    sealer: Sealer
    loader: Callable[[], Any]
    fallback: bool = False
    margin: float = MARGIN
