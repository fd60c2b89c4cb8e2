"""Names of everything that is stored in Redis, and what may stand in them.

Rules:
- An entry is `<namespace>:v<version>:<prefix><key>`; a tag's SET is `<namespace>:cache:tag:{<tag>}`, its stamp
  the same with `:stamp`. Tags carry no version: while old and new processes run side by side, a write in either
  reaches the entries of both.
- Input never forms a Redis Cluster hash tag, so nobody can pile keys up in one slot: `{` is stored as the control
  character 1 and `(`, that character itself as it and `.`, so that no two keys ever share a name. All else is stored
  as it is: the beginning of a key is the beginning of its name, wherever it is cut.
- An entry key of more than 512 bytes keeps a readable head and ends in a digest of the whole key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from neverstale.errors import UsageError

__all__ = ["Keys", "check_tag", "check_tags", "escape_glob"]

#: Redis takes keys up to 512 MB, but compares and sends them whole with every command; names that people
#: can read end long before this.
MAX_KEY_BYTES: Final = 512
_DIGEST_BYTES: Final = 65  # "~" and 64 hexadecimal digits
#: Below this a key of ASCII needs no further look: it cannot be too long, nor end in something like a digest
#: *and* have the length of a shortened key.
_SHORT: Final = MAX_KEY_BYTES - _DIGEST_BYTES
MAX_TAG_BYTES: Final = 256
#: Every read of an entry compares the stamps of all its tags.
MAX_TAGS: Final = 1000

#: Of the version above the highest of the settings, 999999.
_VERSION_DIGITS: Final = 7

_GLOB = re.compile(r"([*?\[\]\\])")


def _tame(text: str) -> str:
    """Write `{` so that Redis does not take it for the start of a hash tag; injective."""
    return text.replace("\x01", "\x01.").replace("{", "\x01(")


def escape_glob(text: str) -> str:
    """Return `text` with asterisk, question mark, brackets and backslash escaped, to be put as it is into a pattern.

    Use it for whatever comes from outside: `cache.invalidate_pattern(f"user:{escape_glob(name)}:*")`.
    """
    return _GLOB.sub(r"\\\1", text)


def check_tag(tag: str) -> str:
    """Return `tag` if it may name a tag: a string of 1 to 256 bytes of UTF-8.

    Raises:
        UsageError: it may not.
    """
    if not isinstance(tag, str):
        raise UsageError(f"a tag is a string, not {type(tag).__name__}: {tag!r}")
    if tag.isascii() and 0 < len(tag) <= MAX_TAG_BYTES:
        return tag  # the common one, on the way of every hit
    if not tag or len(_utf8(tag, "tag")) > MAX_TAG_BYTES:
        raise UsageError(f"a tag has 1 to {MAX_TAG_BYTES} bytes: {tag[:80]!r}")
    return tag


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct `tags` in their order.

    Raises:
        UsageError: one of them may not name a tag, or a single string was given where several are expected.
    """
    if not tags:
        return ()
    if isinstance(tags, str):
        raise UsageError(f"tags is a list of strings, not one string: write tags=[{tags!r}]")
    try:
        distinct = tuple(dict.fromkeys(map(check_tag, tags)))
    except TypeError as error:
        raise UsageError(f"tags is a list of strings, not {type(tags).__name__}: {tags!r}") from error
    if len(distinct) > MAX_TAGS:
        raise UsageError(f"an entry has at most {MAX_TAGS} tags, not {len(distinct)}")
    return distinct


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a {what} is text that can be written as UTF-8: {text[:80]!a}") from error


class Keys:
    """The names of one namespace, version and prefix."""

    __slots__ = (
        "_beside",
        "_long",
        "_of_entries",
        "_space",
        "_tags",
        "channel",
        "head",
        "namespace",
        "prefix",
        "version",
    )

    def __init__(self, namespace: str, version: int, prefix: str) -> None:
        if not isinstance(prefix, str):
            raise UsageError(f"a prefix is a string, not {type(prefix).__name__}")
        space = f"{namespace}:" if namespace else ""
        self.namespace = namespace
        self.version = version
        self.prefix = prefix
        #: In front of every entry key.
        self.head = f"{space}v{version}:{_tame(prefix)}"
        #: Where invalidations are announced to other processes.
        self.channel = f"{space}cache:invalidate"
        self._tags = f"{space}cache:tag:{{"
        self._beside: tuple[Keys, ...] | None = None
        self._space = space
        self._of_entries = re.compile(rf"{re.escape(space)}v[0-9]+:".encode())
        self._long = _SHORT - len(_utf8(self.head, "prefix"))
        # Whatever the version: a write concerns the neighbouring ones, too, and one of them may have a digit more.
        if self._long + len(f"{version}") - _VERSION_DIGITS < MAX_KEY_BYTES // 4:
            raise UsageError(f"namespace and prefix are too long together: {self.head[:80]!r}")

    def __repr__(self) -> str:
        return f"Keys({self.head!r})"

    @property
    def beside(self) -> tuple[Keys, ...]:
        """The names of the neighbouring versions, which run side by side with this one during a deploy."""
        if self._beside is None:
            self._beside = tuple(
                Keys(self.namespace, version, self.prefix)
                for version in (self.version - 1, self.version + 1)
                if version > 0
            )
        return self._beside

    def entry(self, key: str) -> str:
        """Return the Redis key of an entry.

        Raises:
            UsageError: `key` is not a string, is empty, or cannot be written as UTF-8.
        """
        try:
            # The common key needs no more than this; it is on the way of every hit.
            if key.isascii() and "{" not in key and "\x01" not in key and 0 < len(key) <= self._long:
                return self.head + key
        except (AttributeError, TypeError):
            pass  # said below
        return self._entry(key)

    def _entry(self, key: str) -> str:
        if not isinstance(key, str):
            raise UsageError(f"a key is a string, not {type(key).__name__}: {key!r}")
        if not key:
            raise UsageError("a key has at least one character")
        name = self.head + _tame(key)
        raw = _utf8(name, "key")
        # A short key that looks like a shortened one is shortened too: nobody can name another's digest.
        if len(raw) <= _SHORT or (
            len(raw) <= MAX_KEY_BYTES and raw[-_DIGEST_BYTES : 1 - _DIGEST_BYTES] != b"~"
        ):
            return name
        digest = hashlib.sha256(raw).hexdigest()
        return raw[:_SHORT].decode(errors="ignore") + "~" + digest

    def patterns(self, pattern: str) -> tuple[str, ...]:
        """Return the globs that find the entries of this prefix whose keys match `pattern` (Redis' glob).

        Those of this version and of its neighbours; no entry is found by two of them. A `{` in a key is two characters
        in Redis: `*` matches it, `?` does not. Of a key above 512 bytes only the head can be matched.

        Raises:
            UsageError: `pattern` is not a string, or is empty.
        """
        if not isinstance(pattern, str):
            raise UsageError(f"a pattern is a string, not {type(pattern).__name__}: {pattern!r}")
        if not pattern:
            raise UsageError("a pattern has at least one character; '*' is everything under this prefix")
        _ = _utf8(pattern, "pattern")
        # Each glob is a scan of its own, so versions that differ in their last digit alone share one: v1[789].
        last: dict[str, str] = {}
        for version in sorted({self.version, *(other.version for other in self.beside)}):
            digits = str(version)
            last[digits[:-1]] = last.get(digits[:-1], "") + digits[-1]
        tail = f":{escape_glob(_tame(self.prefix))}{_tame(pattern)}"
        versions = (f"{first}[{rest}]" if len(rest) > 1 else first + rest for first, rest in last.items())
        return tuple(f"{escape_glob(self._space)}v{each}{tail}" for each in versions)

    @property
    def everything(self) -> str:
        """The glob that finds all entries of the namespace, of all prefixes and versions; see `is_entry`."""
        return f"{escape_glob(self._space)}v[0-9]*:*"

    def is_entry(self, name: bytes) -> bool:
        """Return whether a Redis key is an entry of the namespace."""
        return self._of_entries.match(name) is not None

    def members(self, tag: str) -> str:
        """Return the key of the SET of the keys that carry `tag`."""
        return f"{self._tags}{self._tag(tag)}}}"

    def stamp(self, tag: str) -> str:
        """Return the key of the stamp of `tag`."""
        return f"{self._tags}{self._tag(tag)}}}:stamp"

    @staticmethod
    def _tag(tag: str) -> str:
        # "}" too: it would end the hash tag early, or make it empty, and part the stamp from its SET.
        if "%" in tag or "{" in tag or "}" in tag:
            return tag.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return tag
