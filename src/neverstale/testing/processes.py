"""Start processes that do not outlive us, and wait until they are ready.

- A process dies with the one that started it: by its owner's `stop()`, at exit, and, where the kernel can do it
  (Linux, `PR_SET_PDEATHSIG`), also when that one is killed. The kernel ties a process to the *thread* that
  started it: start servers in a thread that outlives them, such as the main one.
- It leads a session of its own, so a Ctrl-C in the terminal reaches the program and not its servers.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neverstale.errors import NeverstaleError

LOOPBACK = "127.0.0.1"
# An idle machine needs 20 ms for a server and 3 s for a cluster; a busy one with two cores ten times that.
START_LIMIT = 30.0
PORT_TRIES = 5
# The path of a unix socket ends at 107 bytes (sun_path in unix(7)).
SOCKET_PATH_LIMIT = 100

# Run by a fresh interpreter that then becomes the server. A `preexec_fn` would do the same, but forking
# under threads is deprecated since Python 3.12. Arguments: the parent's pid, a user name or "", a signal,
# the command.
_LAUNCHER = """
import ctypes, os, pwd, sys  # now: the other user may not be able to read the interpreter's files
parent, user, number, command = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
if user:
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG; after setuid, which clears it
    if os.getppid() != parent:
        os._exit(1)
os.execv(command[0], command)
"""


class ServerError(NeverstaleError):
    """A server could not be found, started, or did not become ready in time."""


def free_port() -> int:
    """Ask the kernel for a port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, limit: float = START_LIMIT) -> None:
    """Wait until a condition of another process holds.

    Args:
        condition: asked again and again, with pauses from 2 to 50 ms.
        what: named in the error.
        limit: seconds.

    Raises:
        ServerError: it did not hold within the limit.
    """
    end = time.monotonic() + limit
    pause = 0.002
    while not condition():
        if time.monotonic() > end:
            raise ServerError(f"{what}: not within {limit:g} seconds")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def make_directory(owner: str = "") -> Path:
    """Make a temporary directory with a path that is short enough for a unix socket, for us or for a user."""
    # Another user has to be able to get there.
    base = tempfile.gettempdir()
    if owner or len(os.fsencode(base)) > SOCKET_PATH_LIMIT - 30:
        base = "/tmp"
    path = Path(tempfile.mkdtemp(prefix="neverstale-", dir=base))
    if owner:
        shutil.chown(path, owner)
    return path


def spawn(
    command: Sequence[str],
    log: Path | None = None,
    *,
    user: str = "",
    death: signal.Signals = signal.SIGKILL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one.

    Args:
        command: its program, as an absolute path, and arguments.
        log: the file for what it says, in the directory where it runs; None for our own output and directory.
        user: who it shall run as; "" for ourselves.
        death: the signal that it gets when we die.
        env: its environment; None for ours.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), user, str(int(death))]
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        return subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if log is None else subprocess.STDOUT,
            cwd=None if log is None else log.parent,
            env=env,
            start_new_session=True,
        )


def last_words(log: Path) -> str:
    """Return the last lines of a log, as one."""
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])
    return ""


def stop_at_exit(stop: Callable[[], None]) -> Callable[[], None]:
    """Have a server stopped when this process ends, but not when a fork of it does.

    Returns:
        The function to unregister from `atexit`.
    """
    owner = os.getpid()

    def leave() -> None:
        if os.getpid() == owner:
            stop()

    atexit.register(leave)
    return leave
