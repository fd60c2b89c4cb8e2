"""Commands as they are sent, and signals that come meanwhile."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from neverstale.drive.calls import pack
from neverstale.testing.servers import RedisServer

# A handler that raises, a few thousand times, while commands with numbers are packed and nothing else is done.
INTERRUPTED = """
    import signal, sys, time
    from neverstale import Settings
    from neverstale.drive.calls import pack
    from neverstale.drive.clients import shared

    def interrupted(*_):
        raise KeyboardInterrupt

    connections = shared(Settings.from_url(sys.argv[1]))
    connection = connections.patient.connection_pool.get_connection()
    command = ("GETRANGE", "k", 0, 1023, 0.5)
    work = {
        "ours": lambda: pack(command),
        "redis-py's": lambda: connection.pack_command(*command),
        "a pipeline": lambda: connection.pack_commands([command] * 10),
    }[sys.argv[2]]
    signal.signal(signal.SIGALRM, interrupted)
    count, end = 0, time.monotonic() + 2
    while time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)
            while True:
                work()
        except KeyboardInterrupt:
            count += 1
    print(count)
"""


@pytest.mark.parametrize("way", ["ours", "redis-py's", "a pipeline"])
def test_a_signal_ends_no_process(redis_server: RedisServer, way: str) -> None:
    """A signal's handler may raise while a command is packed: Ctrl-C, or a time limit of gunicorn or Celery."""
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), redis_server.url, way],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert int(said.stdout) > 50


def test_numbers_are_sent_as_text() -> None:
    """What is sent is what hiredis would send."""
    assert pack(("SET", b"k", "ü", "PX", 60_000, 0.25)) == (
        b"*6\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xc3\xbc\r\n$2\r\nPX\r\n$5\r\n60000\r\n$4\r\n0.25\r\n"
    )
