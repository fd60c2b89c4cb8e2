"""What of an answer may be stored, and how long it lives: RFC 9111 sections 3 and 4.2, as a cache of the origin.

Either by the headers of the answer alone (`by_headers`), or by a rule of the application (`by_rule`). Both give a
`Keep`, or None for what may not be stored. Nothing is stored that sets a cookie, whatever else it says: a session of
one must never become that of another.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from neverstale.lifetime import DAY_MS, Lifetime

from .fields import Directives, Headers, age_of, date_of, directives, joined, members, seconds
from .requests import Request, selected
from .rules import Options
from .stored import Flag, Stored

__all__ = [
    "FAILURES",
    "HeaderPolicy",
    "Keep",
    "by_headers",
    "by_rule",
    "is_whole",
    "make",
    "merge",
    "tags_in",
]

#: Answers that say that the handler has failed: what stale-if-error is for (RFC 5861 section 4).
FAILURES: Final = frozenset((500, 502, 503, 504))
#: Status codes whose meaning for caches is known here (RFC 9110 section 15, RFC 6585, 7538, 7725, 8297).
_UNDERSTOOD: Final = frozenset(
    (
        *(200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 408, 409, 410, 411),
        *(413, 414, 415, 416, 417, 421, 422, 426, 429, 431, 451, 500, 501, 502, 503, 504, 505),
    )
)
#: RFC 9110 section 15.1.
_HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
#: The usual part of the time since the last modification (RFC 9111 section 4.2.2).
_HEURISTIC_PART: Final = 0.1
#: Of one connection, or of the hop before (RFC 9111 section 3.1, RFC 9110 section 7.6.1); `Warning` is obsolete, and
#: what `Cache-Tag` says is for this cache alone.
_NEVER_STORED: Final = frozenset(
    (
        b"age",
        b"cache-tag",
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"warning",
    )
)
#: Media types of answers that go on for as long as their client stays.
_ENDLESS: Final = (b"text/event-stream", b"multipart/x-mixed-replace")
#: What a 304 does not change, because the stored body is not its own (RFC 9111 section 3.2).
_OF_THE_BODY: Final = frozenset((b"content-encoding", b"content-length", b"content-range", b"content-type"))
#: One member of a dictionary (RFC 8941 section 3.2); what counts seconds is a number, and no text.
_TARGETED = re.compile(
    r"(?!(?:max-age|s-maxage|stale-while-revalidate|stale-if-error)(?!=\d))"
    r'[a-z*][a-z0-9_.*-]*(?:=(?:-?\d+|[A-Za-z*][^\s",;()]*|"(?:[^"\\]|\\.)*"))?(?:;.*)?\Z'
)


@dataclass(frozen=True, slots=True)
class HeaderPolicy:
    """How answers are read where no rule says anything.

    Attributes:
        heuristics: whether an answer without any word about it is fresh for a tenth of its age.
        keep_ms: how long past its time an answer is kept that can be validated.
        error_ms: stale-if-error where the answer says nothing of it.
        targeted: header fields that stand above `Cache-Control` (RFC 9213), the strongest first.
    """

    heuristics: bool = False
    keep_ms: int = 0
    error_ms: int = 0
    targeted: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """An answer may be stored: how, and how long.

    Attributes:
        life: in Redis.
        flags, born_ms, fresh_ms, stale_ms, error_ms, vary: as in `Stored`.
        without: names of headers that are not stored.
    """

    life: Lifetime
    flags: int
    born_ms: int
    fresh_ms: int
    stale_ms: int
    error_ms: int
    vary: tuple[bytes, ...]
    without: frozenset[bytes]


def by_headers(
    status: int, headers: Headers, request: Request, policy: HeaderPolicy, asked_ms: int, now_ms: int
) -> Keep | None:
    """Judge an answer by its own headers.

    Args:
        status, headers: of the answer.
        request: which it answers.
        policy: see there.
        asked_ms, now_ms: when the handler was asked, and now; milliseconds since 1970.
    """
    targeted = _targeted(headers, policy.targeted)
    control = directives(joined(headers, b"cache-control")) if targeted is None else targeted
    vary = _storable(status, headers, control)
    if vary is None:
        return None
    # RFC 9111 section 3.5 would take must-revalidate for such a word, too; but who writes it on the page of a user
    # means no such thing.
    for_all = "public" in control or "s-maxage" in control
    if (request.session or request.authorized) and not for_all:
        return None
    flags: int = Flag.FOR_ALL if for_all else Flag.NONE
    validate = "no-cache" in control and control["no-cache"] is None
    if validate:
        flags |= Flag.VALIDATE
    if not {"must-revalidate", "proxy-revalidate", "s-maxage"}.isdisjoint(control):
        flags |= Flag.STRICT
    date = date_of(joined(headers, b"date"))
    fresh = _fresh(status, headers, control, date, now_ms, policy.heuristics, targeted is None)
    validators = any(name in (b"etag", b"last-modified") for name, _ in headers)
    if fresh is None:
        if not (validators and (validate or "public" in control)):
            return None
        fresh = 0
    born_ms = asked_ms - age_of(headers) * 1000
    if date is not None and now_ms // 1000 > date:
        born_ms = min(born_ms, now_ms - (now_ms // 1000 - date) * 1000)
    strictly = validate or "must-revalidate" in control or "proxy-revalidate" in control
    stale = 0 if strictly else seconds(control.get("stale-while-revalidate")) or 0
    error_ms = 0 if flags & Flag.STRICT else policy.error_ms
    if not strictly and "stale-if-error" in control:
        error_ms = (seconds(control["stale-if-error"]) or 0) * 1000
    return _keep(
        flags,
        born_ms,
        now_ms,
        Lifetime(
            min(fresh * 1000, DAY_MS),
            min(stale * 1000, DAY_MS),
            min(max(0, error_ms - stale * 1000), DAY_MS),
        ),
        vary,
        _without(headers, control),
        policy.keep_ms if validators else 0,
        useless=validate and not validators,
    )


def by_rule(status: int, headers: Headers, options: Options, asked_ms: int, now_ms: int) -> Keep | None:
    """Judge an answer by the application's rule; whether the request may have a shared answer was asked before."""
    life = options.lifetime
    if life is None or status not in options.statuses:
        return None
    control = directives(joined(headers, b"cache-control"))
    vary = _storable(status, headers, control)
    if vary is None or ("no-cache" in control and control["no-cache"] is None):
        return None
    if "s-maxage" in control:
        most = (seconds(control["s-maxage"]) or 0) * 1000
        fresh = min(life.fresh_ms, most)
        life = Lifetime(fresh, min(life.stale_ms, most - fresh), life.kept_ms)
    flags = Flag.FOR_ALL if options.public else Flag.NONE
    vary = tuple(sorted({*vary, *options.vary_names}))
    born_ms = asked_ms - age_of(headers) * 1000
    return _keep(flags, born_ms, now_ms, life, vary, _without(headers, control), 0, useless=False)


def make(
    ident: str,
    status: int,
    headers: Headers,
    body: bytes,
    keep: Keep,
    request: Request,
    now_ms: int,
    *,
    owner: bytes = b"",
    validators: bool = True,
    before: Stored | None = None,
) -> Stored:
    """Make what is stored of a whole answer.

    Args:
        ident: id of the base entry.
        status, headers, body: of the answer.
        keep: what `by_headers` or `by_rule` said of it.
        request: that it answers.
        now_ms: milliseconds since 1970.
        owner: digest of the user whose it is.
        validators: whether `ETag` and `Last-Modified` are made where there is none.
        before: the answer whose place it takes: while the body stays the same, so does the date that was made.
    """
    kept = tuple((name, value) for name, value in headers if name not in keep.without)
    flags = keep.flags
    etag = next((value for name, value in kept if name == b"etag"), b"")
    modified = date_of(
        next((value for name, value in kept if name == b"last-modified"), b"").decode("latin-1")
    )
    if validators and status == 200:
        if not etag:
            etag, flags = made_etag(body), flags | Flag.MADE_ETAG
            kept += ((b"etag", etag),)
        # With a date alone, browsers take an answer that says nothing for fresh by a heuristic of their own.
        if modified is None and _says_how_long(kept):
            modified, flags = now_ms // 1000, flags | Flag.MADE_DATE
            if before is not None and before.flags & Flag.MADE_DATE and before.body == body:
                modified = before.modified
    return Stored(
        ident,
        flags,
        status,
        kept,
        body,
        keep.born_ms,
        keep.fresh_ms,
        keep.stale_ms,
        keep.error_ms,
        keep.vary,
        selected(request.headers, keep.vary),
        owner,
        etag,
        modified or 0,
    )


def made_etag(body: bytes) -> bytes:
    """Return an entity tag for a body: its digest, the same in every worker.

    Weak: a middleware outside that compresses makes other bytes of the same answer under the same tag.
    """
    return b'W/"%s"' % hashlib.blake2b(body, digest_size=16).hexdigest().encode()


def _says_how_long(headers: Headers) -> bool:
    control = directives(joined(headers, b"cache-control"))
    return "max-age" in control or "no-cache" in control or any(name == b"expires" for name, _ in headers)


def merge(stored: Stored, headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of a stored answer that a 304 has confirmed: its fields take the place of the old ones."""
    leave_out = _without(headers, {}) | _OF_THE_BODY
    new = [(name, value) for name, value in headers if name not in leave_out]
    names = {name for name, _ in new}
    made = b"etag" if stored.flags & Flag.MADE_ETAG else b""
    return [(name, value) for name, value in stored.headers if name not in names and name != made] + new


def is_whole(headers: Headers, size: int) -> bool:
    """Return whether an answer with a body of `size` bytes is as long as it says (RFC 9111 section 3.3)."""
    return all(value.isdigit() and int(value) == size for name, value in headers if name == b"content-length")


def tags_in(headers: Headers) -> tuple[str, ...]:
    """Return the tags that a handler names in `Cache-Tag`: a list with commas."""
    return tuple(dict.fromkeys(members(joined(headers, b"cache-tag"))))


def _storable(status: int, headers: Headers, control: Directives) -> tuple[bytes, ...] | None:
    """Return what an answer varies by, or None if nothing of it may be stored."""
    if status < 200 or status in (206, 304):
        return None
    if "must-understand" in control:
        if status not in _UNDERSTOOD:
            return None
    elif "no-store" in control:
        return None
    if "private" in control:  # also with names of fields: not to store it at all is allowed
        return None
    names: set[bytes] = set()
    for name, value in headers:
        if name == b"set-cookie" or (name == b"content-type" and value.lower().startswith(_ENDLESS)):
            return None
        if name == b"vary":
            names.update(member.lower().encode("latin-1") for member in members(value.decode("latin-1")))
    return None if b"*" in names else tuple(sorted(names))


def _fresh(
    status: int,
    headers: Headers,
    control: Directives,
    date: int | None,
    now_ms: int,
    heuristics: bool,
    expires: bool,
) -> int | None:
    """Return for how many seconds an answer is fresh; None if nothing says so (RFC 9111 section 4.2.1)."""
    for name in ("s-maxage", "max-age"):
        if name in control:
            return seconds(control[name]) or 0  # what is no number is stale
    lines = [value for name, value in headers if name == b"expires"] if expires else []
    now = now_ms // 1000
    if lines:
        ends = date_of(lines[0].decode("latin-1")) if len(lines) == 1 else None
        return 0 if ends is None else max(0, ends - (now if date is None else date))
    if heuristics and (status in _HEURISTIC or "public" in control):
        changed = date_of(joined(headers, b"last-modified"))
        if changed is not None:
            return max(0, round(((now if date is None else date) - changed) * _HEURISTIC_PART))
    return None


def _keep(
    flags: int,
    born_ms: int,
    now_ms: int,
    spans: Lifetime,
    vary: tuple[bytes, ...],
    without: frozenset[bytes],
    keep_ms: int,
    *,
    useless: bool,
) -> Keep | None:
    left = spans.fresh_ms - (now_ms - born_ms)
    served = left + spans.stale_ms
    ends = max(served, served + spans.kept_ms, left + keep_ms)
    if useless or ends <= 0:
        return None
    # In Redis, what is stale on arrival is stale after a millisecond: `serving` looks at the exact times.
    fresh, served = max(left, 1), max(served, 1)
    life = Lifetime(
        min(fresh, DAY_MS),
        min(max(served - fresh, 0), DAY_MS),
        min(max(ends - max(served, fresh), 0), DAY_MS),
    )
    error_ms = spans.stale_ms + spans.kept_ms if spans.kept_ms else 0
    return Keep(life, flags, born_ms, spans.fresh_ms, spans.stale_ms, error_ms, vary, without)


def _without(headers: Headers, control: Directives) -> frozenset[bytes]:
    """Return the names of what is not stored: of the connection, and what may not be used without being validated."""
    named = members(joined(headers, b"connection")) + members(control.get("no-cache") or "")
    return _NEVER_STORED.union(member.lower().encode("latin-1") for member in named)


def _targeted(headers: Headers, names: tuple[bytes, ...]) -> Directives | None:
    """Read the strongest targeted field that is there and well formed (RFC 9213 section 2.2)."""
    for name in names:
        text = joined(headers, name)
        parts = members(text)
        if parts and all(_TARGETED.match(part) for part in parts):
            return directives(", ".join(part.partition(";")[0] for part in parts))
    return None
