"""The key of a request: method, path and query in one normal form.

`GET:/api/products?category=3&page=2`. Two requests share a key only if they differ in nothing but this:

- Percent-encoding: `%41` is `A`, `%2f` is `%2F`, a `%` that begins no encoding is `%25`. Only an encoded slash in the
  path stays apart from a slash.
- The order of parameters of different names. Those of one name keep theirs: `a=1&a=2` is not `a=2&a=1`.
- In the query: `+` is `%20`; `a` is `a=`; an empty parameter (`a=1&&b=2`) is none; an empty query is no query. So do
  all ASGI frameworks read it.
- HEAD is GET. Parameters that were named to be ignored, or were not named where all that count are, are left out.

Bytes that are no UTF-8 stay what they are. Nothing that is encoded in a key needs to be escaped in a pattern.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes, urlsplit

from neverstale.errors import UsageError

__all__ = ["Ignored", "answer_key", "origin_of", "request_key", "variant_key", "without"]

#: Left as they are: unreserved characters, and those that are easier to read so. No `%`, `#`, `|` (they separate
#: parts of keys), none that a glob knows.
_PATH_SAFE: Final = "!$&'()+,:;=@~-._"
_QUERY_SAFE: Final = "!$'(),/:;@~-._"
_USUAL_PORTS: Final = {"http": b":80", "https": b":443"}
#: So many keys are remembered, each made of at most so many bytes: at worst 2 MB, and most of the traffic.
_KEPT: Final = 4096
_LONGEST_KEPT: Final = 256


@dataclass(frozen=True, slots=True)
class Ignored:
    """Names of parameters that mean nothing to the application, like `utm_*`; or of all that mean something.

    Attributes:
        names, beginnings: of parameters.
        others: whether it is all the others that mean nothing.
    """

    names: frozenset[bytes] = frozenset()
    beginnings: tuple[bytes, ...] = ()
    others: bool = False

    @classmethod
    def of(cls, ignore: Iterable[str], query: Iterable[str] | None = None) -> Ignored:
        """Read names; one that ends in `*` stands for all that begin so.

        Args:
            ignore: what means nothing.
            query: what means something, instead.

        Raises:
            UsageError: a `*` stands elsewhere, something is no text, or both are given.
        """
        if query is None:
            return cls(*_patterns("ignore", ignore))
        if isinstance(ignore, str) or tuple(ignore):
            raise UsageError("query names all parameters that count: with it there is nothing left to ignore")
        return cls(*_patterns("query", query), True)

    def __contains__(self, name: bytes) -> bool:
        return (name in self.names or name.startswith(self.beginnings)) is not self.others


def _patterns(what: str, patterns: Iterable[str]) -> tuple[frozenset[bytes], tuple[bytes, ...]]:
    if isinstance(patterns, str):
        raise UsageError(f"{what} is a list of names, not one string: write {what}=[{patterns!r}]")
    names, beginnings = set(), []
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern or "*" in pattern[:-1]:
            raise UsageError(f"{what} has names of parameters, with a * at the end or none: not {pattern!r}")
        if pattern.endswith("*"):
            beginnings.append(pattern[:-1].encode())
        else:
            names.add(pattern.encode())
    return frozenset(names), tuple(beginnings)


NOTHING: Final = Ignored()


def request_key(
    path: str,
    query: bytes,
    *,
    raw_path: bytes | None = None,
    root_path: str = "",
    origin: str = "",
    ignore: Ignored = NOTHING,
) -> str:
    """Return the key of a GET or HEAD.

    Args:
        path: as ASGI has it: decoded, with the root path in front.
        query: as it was sent.
        raw_path: as it was sent, where the server says so.
        root_path: where the application is mounted; it goes in front where a server does not say it in the path.
        origin: scheme and host, where these make a difference; else empty.
        ignore: parameters that are left out.
    """
    if len(path) + len(query) > _LONGEST_KEPT:
        return _request_key(path, query, raw_path, root_path, origin, ignore)
    return _kept(path, query, raw_path, root_path, origin, ignore)


def answer_key(url: str, *, ignore: Iterable[str] = (), query: Iterable[str] | None = None) -> str:
    """Return the key under which the answer to GET `url` is stored, for `invalidate_key` of the view `api:`.

    Args:
        url: `/api/products?page=2`, or with scheme and host if the keys have them in front (without rules they do).
        ignore, query: as in the rule.

    Raises:
        UsageError: it has no path.
    """
    parts = urlsplit(url)
    origin = origin_of(parts.scheme, parts.netloc.encode()) if parts.netloc else ""
    path = parts.path or ("/" if origin else "")
    if not path.startswith("/"):
        raise UsageError(f"a URL begins with a scheme or a slash: {url!r}")
    raw = path.encode()
    decoded = unquote_to_bytes(raw).decode(errors="replace")
    return request_key(
        decoded, parts.query.encode(), raw_path=raw, origin=origin, ignore=Ignored.of(ignore, query)
    )


def origin_of(scheme: str, host: bytes) -> str:
    """Return scheme and host as they stand in keys: without the port if it is the usual one."""
    host = host.removesuffix(_USUAL_PORTS.get(scheme, b""))
    return f"{scheme}://{quote_from_bytes(host.lower(), '[]:.-_')}"


def variant_key(base: str, ident: str, what: bytes) -> str:
    """Return the key of another answer to the same request, reachable only through the base entry with this id.

    Args:
        base: key of the request.
        ident: random id of the base entry: whatever deletes that makes all its variants unreachable.
        what: tells variants apart: what was selected by, or for whom.
    """
    return f"{base}#{ident}.{hashlib.blake2b(what, digest_size=16).hexdigest()}"


def _request_key(
    path: str, query: bytes, raw_path: bytes | None, root_path: str, origin: str, ignore: Ignored
) -> str:
    key = f"GET:{origin}{_path(path, raw_path)}"
    if root_path and not path.startswith(root_path):
        key = f"GET:{origin}{quote(root_path, _PATH_SAFE + '/')}|{key[len(origin) + 4 :]}"
    text = _query(query, ignore) if query else ""
    return f"{key}?{text}" if text else key


_kept = lru_cache(_KEPT)(_request_key)


def _path(path: str, raw_path: bytes | None) -> str:
    if raw_path is not None:
        raw = raw_path.partition(b"?")[0]
        segments = [unquote_to_bytes(segment) for segment in raw.split(b"/")]
        if b"/".join(segments).decode(errors="replace") == path:
            return "/".join(quote_from_bytes(segment, _PATH_SAFE) for segment in segments)
        # Something has rewritten the path: what the application will see is what counts.
        return "/".join(quote(segment, _PATH_SAFE, errors="surrogateescape") for segment in path.split("/"))
    return quote(path, _PATH_SAFE + "/", errors="surrogateescape")


def _query(query: bytes, ignore: Ignored) -> str:
    pairs: list[tuple[bytes, bytes]] = []
    for piece in query.split(b"&"):
        if piece:
            name, _, value = piece.partition(b"=")
            pairs.append((_decoded(name), _decoded(value)))
    if ignore is not NOTHING:
        pairs = [pair for pair in pairs if pair[0] not in ignore]
    return "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in _sorted(pairs))


def without(query: bytes, ignore: Ignored) -> bytes:
    """Return a query as it was sent, but for what is ignored."""
    if ignore == NOTHING or not query:
        return query
    return b"&".join(
        piece for piece in query.split(b"&") if not piece or _decoded(piece.partition(b"=")[0]) not in ignore
    )


def _sorted(pairs: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Sort by name only: sorting is stable, so the values of one name keep their order."""
    return sorted(pairs, key=lambda pair: pair[0])


def _decoded(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def _encoded(text: bytes) -> str:
    return quote_from_bytes(text, _QUERY_SAFE)
