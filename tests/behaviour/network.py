"""A network between a client and a real server that delivers late, as one does that loses packets and sends them again.

What a client has sent may arrive after the client has given up, closed the connection, and done other things on other
connections: TCP goes on delivering what was sent before the close.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

from neverstale.testing.processes import LOOPBACK


class Network:
    """Carries connections to a server, while its `with` block runs.

    Attributes:
        port: where to connect to instead of to the server.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._marker: bytes | None = None
        self._caught, self._free, self._arrived = threading.Event(), threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    def hold(self, marker: bytes) -> None:
        """Keep back the next thing sent that has these bytes in it, and what its connection sends after it."""
        for event in (self._caught, self._free, self._arrived):
            event.clear()
        self._marker = marker

    def holds(self) -> bool:
        """Whether something is kept back."""
        return self._caught.is_set()

    def deliver(self) -> None:
        """Send on what was kept back."""
        self._free.set()
        assert self._arrived.wait(10)

    def __enter__(self) -> Network:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):  # not connected any more
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((LOOPBACK, self._to))
                self._sockets += [client, server]
                self._start(self._carry, client, server, True)
                self._start(self._carry, server, client, False)

    def _carry(self, source: socket.socket, target: socket.socket, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                late = to_server and self._marker is not None and self._marker in data
                if late:
                    self._marker = None
                    self._caught.set()
                    self._free.wait()
                target.sendall(data)
                if late:
                    self._arrived.set()
            target.shutdown(socket.SHUT_WR)
