"""Read header fields: lists, directives, dates, seconds. What is malformed is read as the RFCs ask, on the safe side.

Header names are lower-case bytes, as ASGI has them. Field lines of one name are one list (RFC 9110 section 5.3).
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from time import gmtime
from typing import Final, TypeAlias

__all__ = [
    "MAX_DELTA",
    "Directives",
    "Headers",
    "age_of",
    "cookie_names",
    "date_of",
    "directives",
    "http_date",
    "joined",
    "members",
]

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
#: Directives by name; None without a value.
Directives: TypeAlias = Mapping[str, str | None]

#: "At least 2^31 seconds" is how a cache reads what is larger than it can hold (RFC 9111 section 1.2.2).
MAX_DELTA: Final = 2**31

#: An application sends a few, and clients may send anything: so many are remembered, none of them long.
_KEPT: Final = 512
_LONGEST_KEPT: Final = 200

_MEMBER = re.compile(r'((?:[^",]|"(?:[^"\\]|\\.)*"?)*)(?:,|$)', re.DOTALL)
_DIRECTIVE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(.*))?\Z", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_MONTHS = {
    name: number + 1
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
    )
}
_DAY, _MONTH, _TIME = "(?:mon|tue|wed|thu|fri|sat|sun)", f"({'|'.join(_MONTHS)})", r"(\d\d):(\d\d):(\d\d)"
#: RFC 9110 section 5.6.7: the preferred form and the two old ones; case does not matter to the reader.
_FIXED = re.compile(rf"{_DAY}, (\d\d) {_MONTH} (\d{{4}}) {_TIME} gmt\Z", re.IGNORECASE)
_RFC850 = re.compile(
    rf"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (\d\d)-{_MONTH}-(\d\d) {_TIME} gmt\Z", re.IGNORECASE
)
_ASCTIME = re.compile(rf"{_DAY} {_MONTH} ((?:\d| )\d) {_TIME} (\d{{4}})\Z", re.IGNORECASE)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def joined(headers: Headers, name: bytes) -> str:
    """Return all lines of a field as one list; empty if there is none."""
    return ", ".join(value.decode("latin-1") for key, value in headers if key == name)


def members(text: str) -> list[str]:
    """Split a list at its commas, those in quoted strings apart, without empty members."""
    if '"' not in text:
        return [member for part in text.split(",") if (member := part.strip(" \t"))]
    return [member for part in _MEMBER.findall(text) if (member := part.strip(" \t"))]


def directives(text: str) -> Directives:
    """Read `Cache-Control` (RFC 9111 section 5.2).

    Of a directive that is there twice, the smaller number of seconds counts (section 4.2.1: the more restrictive); a
    value may be a token or a quoted string. What is no directive is left out; names are lower-case.
    """
    return _kept(text) if len(text) <= _LONGEST_KEPT else _read(text)


def _read(text: str) -> Directives:
    found: dict[str, str | None] = {}
    for member in members(text):
        parsed = _DIRECTIVE.match(member)
        if parsed is None:
            continue
        name, value = parsed[1].lower(), parsed[2]
        if value is not None and len(value) > 1 and value[0] == value[-1] == '"':
            value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
        if name in found:
            before = found[name]
            if before is None or value is None:
                value = None
            elif name in ("private", "no-cache"):
                value = f"{before}, {value}"
            elif (seconds(before) or 0) < (seconds(value) or 0):
                value = before
        found[name] = value
    return found


_kept = lru_cache(_KEPT)(_read)


def seconds(value: str | None) -> int | None:
    """Read a number of seconds; None for what is none (RFC 9111 section 1.2.2)."""
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return min(int(value[-20:]) if len(value) <= 20 else MAX_DELTA, MAX_DELTA)


def date_of(text: str) -> int | None:
    """Read a date, in seconds since 1970; None for what is none (RFC 9110 section 5.6.7)."""
    if match := _FIXED.match(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.match(text):
        day, month, year, *clock = match.groups()
        # Two digits more than 50 years ahead are of the past century; only coarsely: no clock is asked here.
        year = f"{19 if int(year) > 75 else 20}{year}"
    elif match := _ASCTIME.match(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    hour, minute, second = map(int, clock)
    if not (1 <= int(day) <= 31 and hour < 24 and minute < 60 and second <= 60):
        return None
    return timegm((int(year), _MONTHS[month.lower()], int(day), hour, minute, second))


@lru_cache(256)
def http_date(moment: int) -> bytes:
    """Write seconds since 1970 as a date (IMF-fixdate)."""
    at = gmtime(moment)
    month = list(_MONTHS)[at.tm_mon - 1].capitalize()
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {month} {at.tm_year:04} {clock} GMT".encode()


def age_of(headers: Headers) -> int:
    """Return what `Age` says: its first member, if that is a number; else 0 (RFC 9111 section 5.1)."""
    for member in members(joined(headers, b"age")):
        return seconds(member) or 0
    return 0


def cookie_names(lines: Iterable[bytes]) -> set[bytes]:
    """Return the names of the cookies that a request carries.

    Frameworks strip around them whatever text calls space (U+00A0 also), so this does.
    """
    return {
        name.encode("latin-1")
        for line in lines
        for pair in line.decode("latin-1").split(";")
        if (name := pair.partition("=")[0].strip())
    }
