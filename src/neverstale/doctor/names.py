"""What a key in Redis is, by its name: the reverse of `neverstale.core.keys`."""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from neverstale.core.keys import escape_glob

__all__ = ["Kind", "Name", "Names", "namespace_of"]

_TAG = re.compile(r"cache:tag:\{([^{}]*)\}(:stamp)?")
_ENTRY = re.compile(r"v([0-9]{1,6}):(.*)", re.DOTALL)
_SPACE = re.compile("[A-Za-z0-9_.-]{1,64}")  # as the settings allow it
_CODED = {"%25": "%", "%7B": "{", "%7D": "}"}


class Kind(enum.Enum):
    """Whose a key is."""

    ENTRY = "entry"
    TAG = "tag"  # the SET of a tag's members
    STAMP = "stamp"
    OWN = "own"  # figures and notes of Neverstale's own
    FOREIGN = "foreign"  # in the namespace, and none of the above
    OUTSIDE = "outside"  # not in the namespace


class Name(NamedTuple):
    """A key, understood.

    Attributes:
        kind: what it is.
        text: of an entry the key behind the version, of a tag and its stamp the tag.
        version: of an entry, else 0.
        prefix: of an entry, up to and with its first colon: where a view's prefix ends is not written in a key.
    """

    kind: Kind
    text: str
    version: int = 0
    prefix: str = ""


class Names:
    """The names of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._space = f"{namespace}:" if namespace else ""

    @property
    def pattern(self) -> str:
        """The glob that finds every key of the namespace."""
        return f"{escape_glob(self._space)}*"

    def of(self, raw: bytes) -> Name:
        """Say what a key is."""
        text = raw.decode(errors="backslashreplace")
        if not text.startswith(self._space):
            return Name(Kind.OUTSIDE, text)
        own = text[len(self._space) :]
        if tag := _TAG.fullmatch(own):
            plain = re.sub("%25|%7B|%7D", lambda found: _CODED[found[0]], tag[1])
            return Name(Kind.STAMP if tag[2] else Kind.TAG, plain)
        if own.startswith("cache:"):
            return Name(Kind.OWN, own)
        if entry := _ENTRY.fullmatch(own):
            # As `core.keys` writes `{` and the character 1.
            key = re.sub("\x01([(.])", lambda found: "{" if found[1] == "(" else "\x01", entry[2])
            head, colon, _ = key.partition(":")
            return Name(Kind.ENTRY, key, int(entry[1]), f"{head}:" if colon else "")
        # Without a namespace everything else belongs to whoever shares the database.
        return Name(Kind.FOREIGN if self._space else Kind.OUTSIDE, text)


def namespace_of(raw: bytes) -> str | None:
    """Return the namespace of what looks like an entry or a tag of any cache, "" for none; None for anything else."""
    text = raw.decode(errors="backslashreplace")
    space, _, rest = text.partition(":")
    for namespace, own in (("", text), (space, rest)):
        if _TAG.fullmatch(own) or _ENTRY.fullmatch(own):
            return namespace if not namespace or _SPACE.fullmatch(namespace) else None
    return None
