"""Whether a stored answer may be given to a request, and what is sent then: RFC 9111 sections 4 and 5.2.1."""

from __future__ import annotations

import enum
from typing import Final

from .fields import date_of, http_date, members, seconds
from .requests import Request, selected
from .stored import Flag, Stored

__all__ = [
    "Use",
    "falls_back",
    "given_headers",
    "judge",
    "left",
    "not_modified",
    "of_304",
    "said",
    "selects",
    "validators",
]

#: So old an answer must be before it is given the `Last-Modified` that was made for it, in milliseconds. A date tells
#: answers apart only by the second and by the clock of the worker that loaded them: whoever was given one may be sure
#: that no other answer has the same, as long as the clocks of two workers differ by less than half of this.
SETTLED_MS: Final = 5000
_MAX: Final = 2**63


class Use(enum.Enum):
    """What may be done with a stored answer."""

    HIT = "hit"
    STALE = "stale"  # served, and renewed in the background
    VALIDATE = "validate"  # to be renewed first: its time is over
    RELOAD = "reload"  # the same: the client wants it so
    CLOSED = "closed"  # not for this request: it has a session or credentials, or is of another user


def selects(stored: Stored, request: Request) -> bool:
    """Return whether a request has the headers that an answer was selected by (RFC 9111 section 4.1)."""
    return not stored.vary or selected(request.headers, stored.vary) == stored.selected


def judge(stored: Stored, request: Request, now_ms: int, *, obey: bool, owner: bytes = b"") -> Use:
    """Decide what may be done with a stored answer that was selected for a request.

    Args:
        stored: the answer.
        request: which it may answer.
        now_ms: milliseconds since 1970.
        obey: whether the client may ask for a newer answer.
        owner: digest of the user who asks.
    """
    flags = stored.flags
    if stored.owner != owner:
        return Use.CLOSED
    if (request.session or request.authorized) and not owner and not flags & Flag.FOR_ALL:
        return Use.CLOSED
    if flags & Flag.VALIDATE:
        return Use.VALIDATE
    age_ms = max(0, now_ms - stored.born_ms)
    left = stored.fresh_ms - age_ms
    control = request.control
    if not control:
        return Use.HIT if left > 0 else Use.STALE if left + stored.stale_ms > 0 else Use.VALIDATE
    if obey:
        if "no-cache" in control:
            return Use.RELOAD
        most = seconds(control.get("max-age"))
        if most is not None and (not most or age_ms > most * 1000):
            return Use.RELOAD
        least = seconds(control.get("min-fresh"))
        if least is not None and left < least * 1000:
            return Use.RELOAD
    if left > 0:
        return Use.HIT
    if "max-stale" in control and not flags & Flag.STRICT:
        value = control["max-stale"]
        accepted = _MAX if value is None else (seconds(value) or 0) * 1000
        if left + accepted >= 0:
            return Use.HIT
    return Use.STALE if left + stored.stale_ms > 0 else Use.VALIDATE


def falls_back(stored: Stored, now_ms: int) -> bool:
    """Return whether a stale answer may be given because the handler failed (RFC 5861 section 4)."""
    if not stored.error_ms or stored.flags & Flag.VALIDATE:
        return False
    return now_ms - stored.born_ms < stored.fresh_ms + stored.error_ms


def validators(stored: Stored) -> list[tuple[bytes, bytes]]:
    """Return the conditions that ask the handler whether an answer still holds; none that it does not know."""
    conditions = []
    if stored.etag and not stored.flags & Flag.MADE_ETAG:
        conditions.append((b"if-none-match", stored.etag))
    if stored.modified and not stored.flags & Flag.MADE_DATE:
        # As it was sent: the handler may compare texts.
        sent = next(value for name, value in stored.headers if name == b"last-modified")
        conditions.append((b"if-modified-since", sent))
    return conditions


def not_modified(request: Request, stored: Stored) -> bool:
    """Return whether the client has this answer already (RFC 9110 section 13.2.2, RFC 9111 section 4.3.2)."""
    if stored.status != 200:
        return False
    if request.none_match is not None:
        wanted = request.none_match
        if wanted.strip() == "*":
            return True
        mine = _opaque(stored.etag.decode("latin-1"))
        return bool(mine) and any(_opaque(each) == mine for each in members(wanted))
    if request.modified_since is not None and stored.modified:
        since = date_of(request.modified_since)
        if since is None:
            return False
        # A made date says which answer it was, not since when it has been true.
        return since == stored.modified if stored.flags & Flag.MADE_DATE else stored.modified <= since
    return False


def _opaque(tag: str) -> str:
    return tag[2:] if tag.startswith("W/") else tag


def of_304(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers that a 304 has: not those that describe a body (RFC 9110 section 15.4.5)."""
    return [
        (name, value)
        for name, value in headers
        if not name.startswith(b"content-") or name in (b"content-location", b"content-security-policy")
    ]


def given_headers(stored: Stored, now_ms: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of a stored answer as they are sent."""
    age_ms = max(0, now_ms - stored.born_ms)
    headers = [*stored.headers, (b"age", b"%d" % (age_ms // 1000))]
    if stored.flags & Flag.MADE_DATE and now_ms - stored.modified * 1000 >= SETTLED_MS:
        headers.append((b"last-modified", http_date(stored.modified)))
    return headers


def left(stored: Stored, now: int) -> int:
    """Return the seconds for which an answer is still fresh; negative if it is not."""
    return (stored.fresh_ms - (now - stored.born_ms)) // 1000


def said(name: str, *what: str) -> tuple[bytes, bytes]:
    """Return `Cache-Status` (RFC 9211 section 2): `neverstale; fwd=uri-miss; fwd-status=200; stored`."""
    return b"cache-status", "; ".join((name, *what)).encode()
