"""Which keys were pressed, in a terminal that hands them over one by one.

Rules:
- What is read is bytes of the descriptor itself: a buffer in between would keep keys back that `select` then knows
  nothing of.
- An arrow key, the wheel of a mouse or a key with Alt is a sequence of bytes that begins with Escape (ECMA-48 section
  5.4; xterm's control sequences). Over a slow line it may come in two reads; a lone Escape is one
  that nothing follows.
"""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["means_end", "watched"]

#: q, Escape, and what Ctrl-C and Ctrl-D are where they are no signals.
_ENDS: Final = frozenset(b"qQ\x1b\x03\x04")
#: A mouse's report (xterm: three bytes of any value follow), a control sequence, a function key, a key with Alt.
_SEQUENCE: Final = re.compile(rb"\x1b+(?:\[M.{3}|\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\[O\x1bqQ\x03\x04])", re.DOTALL)
#: One that was not read to its end.
_TORN: Final = re.compile(rb"\x1b(?:\[(?:M.{0,2}|[0-?]*[ -/]*)|O)\Z", re.DOTALL)
#: Seconds that the rest of a sequence may take, as vim's `ttimeoutlen`: no line is so slow, no finger so quick.
_REST: Final = 0.1


def means_end(read: bytes) -> bool:
    """Return whether one of the keys that were pressed is to end the watching."""
    return not _ENDS.isdisjoint(_SEQUENCE.sub(b"", _TORN.sub(b"", read)))


@contextmanager
def watched() -> Iterator[Callable[[float], bool]]:
    """Let keys be read as they are pressed.

    Gives a function that waits so many seconds, and returns at once, and true, when one that ends it was pressed.
    """
    if not sys.stdin.isatty():
        yield _nothing_pressed
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield lambda seconds: _pressed(number, seconds)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _pressed(number: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if _is_ready(number, left) and means_end(_read(number)):
            return True
    return False


def _read(number: int) -> bytes:
    """Return what is there, with the rest of a sequence that is on its way."""
    read = os.read(number, 1024)
    while (read.endswith(b"\x1b") or _TORN.search(read)) and _is_ready(number, _REST):
        read += os.read(number, 1024)
    # Nothing at all is the end of the terminal.
    return read or b"\x04"


def _is_ready(number: int, seconds: float) -> bool:
    return bool(select.select([number], [], [], seconds)[0])


def _nothing_pressed(seconds: float) -> bool:
    time.sleep(seconds)
    return False
