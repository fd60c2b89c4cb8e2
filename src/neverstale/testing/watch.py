"""Watch every write to a server, and tell which keys were without a TTL.

A look at the keys after a test misses what was written without a TTL and deleted again. So the server is asked
to publish what happens to its keys (keyspace notifications, Redis 7), and for each key the events are read in
their order:

- `new`, or anything that may take a TTL away (`set`, `rename_to`, `restore`, ...), leaves the key in doubt;
- `expire` settles it;
- the end of the key, or of the watch, with a `new` key still in doubt is a finding; so is `persist`.

A key that was not new is in doubt only because `SET ... KEEPTTL` looks like `SET`: there the server is asked.

What it does not see: that the TTL came in the same atomic step as the key. A crash in between leaves a key in
doubt; the exploration of schedules, with crashes, is what finds that. It watches the nodes that are primaries
when the watch begins, and loses what happens on a node from the moment that node is killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from redis.client import PubSub
from redis.exceptions import RedisError

from neverstale.testing.node import RedisServer
from neverstale.testing.servers import Server

# E: by event, A: every class of events but these, n: new keys.
NOTIFICATIONS = "EAn"
_GONE = frozenset({b"del", b"expired", b"evicted", b"rename_from", b"move_from"})
_REPLACED = frozenset(
    {b"set", b"rename_to", b"restore", b"copy_to", b"getset", b"sunionstore", b"sinterstore", b"sdiffstore"}
)


class TTLWatch:
    """Every key that a server held without a TTL since the watch began.

    Use it as a context manager around what is to be watched, then ask `findings()`.
    """

    def __init__(self, server: Server) -> None:
        self._nodes = [_NodeWatch(node) for node in server.primaries()]

    def __enter__(self) -> TTLWatch:
        return self

    def __exit__(self, *exc: object) -> None:
        for node in self._nodes:
            node.close()

    def findings(self, spare: Iterable[str] = ()) -> list[str]:
        """Return a line for each key that was without a TTL.

        Args:
            spare: globs of keys that may be.
        """
        found = {key: why for node in self._nodes for key, why in node.findings().items()}
        shown = {key.decode(errors="backslashreplace"): why for key, why in found.items()}
        return [
            f"{key}: {why}"
            for key, why in sorted(shown.items())
            if not any(fnmatchcase(key, glob) for glob in spare)
        ]


class _NodeWatch:
    def __init__(self, node: RedisServer) -> None:
        self._node = node
        client = node.client()
        if client.config_get("notify-keyspace-events").get("notify-keyspace-events") != NOTIFICATIONS:
            client.config_set("notify-keyspace-events", NOTIFICATIONS)
        # Its output waits in the server until it is read: a test of a watcher must not lose its connection.
        client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
        self._listener: PubSub = client.pubsub()
        self._listener.psubscribe("__keyevent@*__:*")
        self._listener.get_message(timeout=5)
        self._new: set[bytes] = set()
        self._doubtful: set[bytes] = set()
        self._found: dict[bytes, str] = {}

    def close(self) -> None:
        self._listener.close()

    def findings(self) -> dict[bytes, str]:
        self._drain()
        found = dict(self._found)
        found.update(dict.fromkeys(self._new, "made without a TTL"))
        try:
            for key in sorted(self._doubtful) + self._node.keys():
                if self._node.client().pttl(key) == -1:
                    found.setdefault(key, "has no TTL")
        except RedisError:
            pass  # killed by the test, with all that it held
        return found

    def _drain(self) -> None:
        """Read what was published until now: a PING's answer comes after it."""
        try:
            self._listener.ping("watched")
            while True:
                message: dict[str, Any] | None = self._listener.get_message(timeout=5)
                if message is None or message["type"] == "pong":
                    return
                if message["type"] == "pmessage":
                    self._note(message["channel"].partition(b":")[2], message["data"])
        except (RedisError, OSError):
            return  # killed by the test: what it had said is noted

    def _note(self, event: bytes, key: bytes) -> None:
        if event == b"new":
            self._new.add(key)
        elif event == b"expire":
            self._new.discard(key)
            self._doubtful.discard(key)
        elif event == b"persist":
            self._found[key] = "lost its TTL by PERSIST"
        elif event in _GONE:
            if key in self._new:
                self._found[key] = "made without a TTL, then deleted"
            self._new.discard(key)
            self._doubtful.discard(key)
        elif event in _REPLACED:
            self._doubtful.add(key)
