"""The command line on real servers: in this process where that is enough, as a process of its own where it is not."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neverstale import Cache
from neverstale.cli.app import run
from neverstale.testing.servers import RedisCluster, RedisServer
from tests.caches import MakeCache
from tests.caches import make_cache as make_cache

#: A busy machine takes its time to start a process.
LIMIT = 60.0


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def listens(pid: int) -> bool:
    """Tell whether a process waits for something, as one does that reads from a terminal.

    Ctrl-C between `input`'s prompt and its reading is noted by Python, and looked at when something was read.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # not on Linux
        return True
    return state == "S"


class Command:
    """Runs `neverstale` on one server.

    Called, it runs in this process, with its output captured. `process` is a process; `terminal` is one with a
    terminal of its own.
    """

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.environ = {"REDIS_URL": url, "NEVERSTALE_NAMESPACE": "shop", "NO_COLOR": ""}
        self._capsys = capsys
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", "120")

    def __call__(self, *arguments: str) -> Ran:
        self._capsys.readouterr()
        status = run(list(arguments))
        said = self._capsys.readouterr()
        return Ran(status, said.out, said.err)

    def process(self, *arguments: str, cwd: Any = None, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "neverstale", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=cwd,
            env={**os.environ, **self.environ},
            **options,
        )

    def terminal(self, *arguments: str, say: Sequence[tuple[str, str]] = (), columns: int = 80) -> Ran:
        """Run it in a terminal, saying each text once its prompt was seen since the last one; what is seen is `out`."""
        pid, number = pty.fork()
        if pid == 0:
            os.environ.update(self.environ, TERM="xterm-256color")
            os.environ.pop("COLUMNS", None)
            os.execv(sys.executable, [sys.executable, "-m", "neverstale", *arguments])
        fcntl.ioctl(number, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        seen, said, waiting, end = b"", 0, list(say), time.monotonic() + LIMIT
        while time.monotonic() < end:
            ready, _, _ = select.select([number], [], [], 0.2)
            if ready:
                try:
                    read = os.read(number, 65536)
                except OSError:  # what Linux says at the end of a terminal
                    break
                if not read:
                    break
                seen += read
            if waiting and waiting[0][0].encode() in seen[said:] and listens(pid):
                said = len(seen)
                os.write(number, waiting.pop(0)[1].encode())
        else:
            os.kill(pid, 9)
        os.close(number)
        _, status = os.waitpid(pid, 0)
        return Ran(os.waitstatus_to_exitcode(status), seen.decode(errors="replace"), "")


def visible(text: str) -> str:
    """Return what is to be read of a terminal's output."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n")


@pytest.fixture
def command(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(redis_server.url, capsys, monkeypatch)


@pytest.fixture
def cluster_command(
    redis_cluster: RedisCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(redis_cluster.url, capsys, monkeypatch)


@pytest.fixture
def cache(redis_server: RedisServer, make_cache: MakeCache) -> Cache:
    return make_cache(redis_server.url)
