"""Tell of invalidations: in this process by events, to others by what is to be published."""

from __future__ import annotations

import os
import socket
import uuid

from neverstale.events import Events, InvalidationEvent
from neverstale.receipt import Receipt

__all__ = ["Announcer"]


class Announcer:
    """Makes events of receipts, and knows which of those that come from Redis are this process's own.

    Args:
        events: of the cache.
        channel: where other processes listen.
    """

    def __init__(self, events: Events, channel: str) -> None:
        self.events = events
        self.channel = channel
        self._origin = (0, "")

    @property
    def origin(self) -> str:
        """A name of this process, `<host>/<pid>-<random>`: another one after a fork."""
        pid = os.getpid()
        if self._origin[0] != pid:
            self._origin = (pid, f"{socket.gethostname()}/{pid}-{uuid.uuid4().hex[:12]}")
        return self._origin[1]

    def tell(self, receipt: Receipt, prefix: str, reason: str) -> tuple[str, bytes]:
        """Tell subscribers in this process; return the channel and the message for the others."""
        event = InvalidationEvent(
            kind=receipt.kind,
            names=receipt.names,
            removed=receipt.removed,
            status=receipt.status,
            duration=receipt.duration,
            origin=self.origin,
            prefix=prefix,
            reason=reason or None,
            soft=receipt.soft,
        )
        self.events.emit(event)
        return self.channel, event.encode()

    def hear(self, message: bytes) -> None:
        """Tell subscribers in this process what another has done."""
        event = InvalidationEvent.decode(message)
        if event is not None and event.origin != self.origin:
            self.events.emit(event, remote=True)
