"""Rules: what an application says about its own routes, instead of the headers of their answers.

A rule says how long answers live here, by which tags they are invalidated, and to whom they may be given. What only
the handler can know wins over it: `no-store`, `private`, `no-cache`, `Set-Cookie`, `Vary: *` are never stored.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeAlias

from neverstale.core.keys import MAX_TAG_BYTES, check_tags
from neverstale.errors import UsageError
from neverstale.lifetime import DAY_MS, Lifetime

from .keys import Ignored

__all__ = ["Options", "PerUser", "Rule", "RuleBook", "Span"]

Span: TypeAlias = "int | float | timedelta"
#: A user of a request: their id, or None for a request of nobody; called with the ASGI scope, perhaps awaited.
_Id: TypeAlias = "str | int | uuid.UUID | None"
PerUser: TypeAlias = Callable[[MutableMapping[str, Any]], "_Id | Awaitable[_Id]"]

_PART = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::(path|str|int|uuid))?\}")
_UUID: Final = "[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_KINDS: Final = {
    None: "([^/]+)",
    "str": "([^/]+)",
    "int": "([0-9]{1,18})",
    "uuid": f"({_UUID})",
    "path": "(.*)",
}
#: Texts that a handler may take for the same number or UUID as another text.
_NUMBER = re.compile(r"\s*[+-]?[\d_]+(?:\.0*)?\s*")
_PLAIN_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_LIKE_UUID = re.compile(rf"\{{?(?:urn:uuid:)?{_UUID}\}}?", re.IGNORECASE)
#: So many paths are remembered with their rule, none longer than this (at worst 1 MB); more are looked for anew.
_KEPT: Final = 4096
_LONGEST_KEPT: Final = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What a rule or a decorated endpoint says; all spans in seconds.

    Args:
        ttl: how long an answer may be served; at most a day. Stronger than `max-age`, which is meant for clients; a
            shorter `s-maxage` of an answer is stronger than this.
        soft_ttl: from then on it is served, and renewed in the background.
        stale_if_error: so long after `ttl` it is served if the handler fails: raises, or answers 500, 502, 503 or
            504.
        tags: invalidating one of them invalidates the answer; `{id}` stands for what the path says there. For a
            number write the path as `{id:int}`, for a UUID `{id:uuid}`: `/7` and `/007` then have the same tag.
            Where the path says `{id}` only, an odd way to write a number or UUID passes by the cache; `{id:str}`
            takes every text as it is.
        public: an answer is the same for everybody: also for requests with cookies or `Authorization`.
        per_user: a function of the ASGI scope that says whose the answer is; nobody else is given it. A request of
            nobody (None) passes by the cache.
        vary: names of request headers that make a difference, beside what the answers' own `Vary` says.
        ignore: names of parameters that make none: `utm_*`. Handlers are not told them either: what is not in a key
            must not be in an answer.
        query: instead, the names of all parameters that make one: others, which clients may make up without end, are
            ignored. `query=()`: none does.
        statuses: which answers are stored.
    """

    ttl: Span | None = None
    soft_ttl: Span | None = None
    stale_if_error: Span = 0
    tags: Iterable[str] = ()
    public: bool = False
    per_user: PerUser | None = None
    vary: Iterable[str] = ()
    ignore: Iterable[str] = ()
    query: Iterable[str] | None = None
    # Errors are not: one 404 of a moment would hide for minutes that something is there.
    statuses: Iterable[int] = (200,)

    lifetime: Lifetime | None = field(init=False)
    tag_parts: tuple[str, ...] = field(init=False)
    vary_names: tuple[bytes, ...] = field(init=False)
    ignored: Ignored = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.public and self.per_user is not None:
            raise UsageError("an answer is either public or per_user, not both")
        if self.per_user is not None and not callable(self.per_user):
            raise UsageError("per_user is a function of the ASGI scope that returns the user's id, or None")
        put(self, "lifetime", self._lifetime())
        put(self, "tag_parts", check_tags(self.tags))
        put(self, "vary_names", _header_names(self.vary))
        put(self, "ignored", Ignored.of(self.ignore, self.query))
        statuses = frozenset(self.statuses)
        if any(not isinstance(each, int) or not 200 <= each < 600 or each in (206, 304) for each in statuses):
            raise UsageError(f"statuses are final ones, from 200, without 206 and 304: {sorted(statuses)}")
        put(self, "statuses", statuses)

    def _lifetime(self) -> Lifetime | None:
        kept = _milliseconds("stale_if_error", self.stale_if_error, least=0)
        if self.ttl is None:
            if self.soft_ttl is not None or kept:
                raise UsageError("soft_ttl and stale_if_error go with a ttl")
            return None
        ttl = _milliseconds("ttl", self.ttl)
        soft = ttl if self.soft_ttl is None else min(_milliseconds("soft_ttl", self.soft_ttl), ttl)
        return Lifetime(soft, ttl - soft, kept)

    def tags_for(self, params: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the tags of an answer, with what the path says put in; None if they cannot be known by it."""
        return filled(self.tag_parts, params)

    def check_params(self, names: Iterable[str], where: str) -> None:
        """Raise `UsageError` if a tag names what the path does not have."""
        _check_params(self.tag_parts, names, where)


class Rule(Options):
    """What is cached of a path, or invalidated by it.

    Args:
        path: `/api/products/{id}`: `{id}` is one part (`{id:int}`, `{id:uuid}`, `{id:str}`), `{rest:path}` all that
            is left.
        invalidates: tags that are invalidated when a request that changes something (POST, PUT, PATCH, DELETE, ...)
            has succeeded here, before its client hears of it.
        invalidates_target: so is what is stored of the very URL that the request went to.
        ttl, soft_ttl, stale_if_error, tags, public, per_user, vary, ignore, query, statuses: as `Options`. Without a
            `ttl` nothing is stored.

    Raises:
        UsageError: something is wrong or would do nothing.
    """

    path: str
    invalidate_parts: tuple[str, ...]
    invalidates_target: bool
    _regex: re.Pattern[str]
    _params: tuple[tuple[str, str | None], ...]

    def __init__(
        self,
        path: str,
        *,
        ttl: Span | None = None,
        soft_ttl: Span | None = None,
        stale_if_error: Span = 0,
        tags: Iterable[str] = (),
        public: bool = False,
        per_user: PerUser | None = None,
        vary: Iterable[str] = (),
        ignore: Iterable[str] = (),
        query: Iterable[str] | None = None,
        statuses: Iterable[int] = (200,),
        invalidates: Iterable[str] = (),
        invalidates_target: bool = False,
    ) -> None:
        super().__init__(
            ttl=ttl,
            soft_ttl=soft_ttl,
            stale_if_error=stale_if_error,
            tags=tags,
            public=public,
            per_user=per_user,
            vary=vary,
            ignore=ignore,
            query=query,
            statuses=statuses,
        )
        put = object.__setattr__
        if not isinstance(path, str) or not path.startswith("/"):
            raise UsageError(f"a rule is for a path that begins with a slash: {path!r}")
        pattern, at, names, kinds = "", 0, [], []
        for part in _PART.finditer(path):
            pattern += re.escape(path[at : part.start()]) + _KINDS[part[2]]
            names.append(part[1])
            kinds.append(part[2])
            at = part.end()
        rest = path[at:]
        plain = _PART.sub("", path)
        if "{" in plain or "}" in plain or len(set(names)) < len(names):
            raise UsageError(
                f"parts of a path are {{name}} or {{name:int|uuid|str|path}}, each once: {path!r}"
            )
        put(self, "path", path)
        put(self, "_params", tuple(zip(names, kinds, strict=True)))
        put(self, "_regex", re.compile(pattern + re.escape(rest), re.DOTALL))
        put(self, "invalidate_parts", check_tags(invalidates))
        put(self, "invalidates_target", bool(invalidates_target))
        self.check_params(names, path)
        _check_params(self.invalidate_parts, names, path)
        if self.lifetime is None and not self.invalidate_parts and not invalidates_target:
            raise UsageError(f"the rule for {path} has no ttl and invalidates nothing: it would do nothing")

    def __repr__(self) -> str:
        return f"<Rule {self.path}>"

    def match(self, path: str) -> dict[str, Any] | None:
        """Return what a path says for the parts, or None if it does not fit."""
        found = self._regex.fullmatch(path)
        if found is None:
            return None
        return {
            name: _TYPES[kind](text) for (name, kind), text in zip(self._params, found.groups(), strict=True)
        }


class RuleBook:
    """Finds the rule of a path: the first one that fits.

    Raises:
        UsageError: something is no rule, or a path is there twice.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        for rule in self._rules:
            if not isinstance(rule, Rule):
                raise UsageError(f"rules is a list of Rule(path, ...), not of {type(rule).__name__}")
        paths = [rule.path for rule in self._rules]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise UsageError(f"two rules for {', '.join(twice)}: the second would never be used")
        self._kept: dict[str, tuple[Rule, dict[str, Any]] | None] = {}

    def __len__(self) -> int:
        return len(self._rules)

    def find(self, path: str) -> tuple[Rule, dict[str, Any]] | None:
        """Return the rule of a path and what the path says for its parts."""
        try:
            return self._kept[path]
        except KeyError:
            found = self._find(path)
        if len(path) > _LONGEST_KEPT:
            return found
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[path] = found
        return found

    def _find(self, path: str) -> tuple[Rule, dict[str, Any]] | None:
        for rule in self._rules:
            params = rule.match(path)
            if params is not None:
                return rule, params
        return None


class _Exactly(str):
    """A text that stands for nothing but itself."""

    __slots__ = ()


_TYPES: Final[dict[str | None, Callable[[str], Any]]] = {
    None: str,
    "str": _Exactly,
    "path": _Exactly,
    "int": int,
    "uuid": uuid.UUID,
}


def filled(
    parts: tuple[str, ...], params: Mapping[str, Any], *, canonical: bool = False
) -> tuple[str, ...] | None:
    """Put what the path says into tags; None if it may say the same thing in another way, or makes no tag.

    Args:
        parts: tags, with `{name}` in them.
        params: what the path says.
        canonical: take an odd way to write a number or UUID for the usual one instead: for what is to be invalidated.
    """
    if not params:
        return parts
    tags = []
    for part in parts:
        tag = part
        if "{" in part:
            values = {name: params[name] for name, _ in _PART.findall(part)}
            for name, value in values.items():
                if type(value) is str and (usual := _usual(value)) != value:
                    if not canonical:
                        return None
                    values[name] = usual
            tag = _fill(part, values)
            if not _is_utf8(tag) or not 0 < len(tag.encode()) <= MAX_TAG_BYTES:
                return None
        tags.append(tag)
    return tuple(tags)


def _fill(part: str, values: Mapping[str, Any]) -> str:
    return _PART.sub(lambda found: str(values[found[1]]), part)


def _usual(text: str) -> str:
    """Return the usual way to write a number or UUID that a handler may understand; any other text as it is."""
    if _NUMBER.fullmatch(text) and not _PLAIN_NUMBER.fullmatch(text):
        digits = text.strip().partition(".")[0].replace("_", "")
        return str(int(digits)) if digits.lstrip("+-") and len(digits) < 1000 else ""
    if _LIKE_UUID.fullmatch(text):
        return str(uuid.UUID(text))
    return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_params(parts: tuple[str, ...], names: Iterable[str], where: str) -> None:
    known = set(names)
    for part in parts:
        for found in _PART.finditer(part):
            if found[1] not in known:
                raise UsageError(f"the tag {part!r} names {{{found[1]}}}, which is no part of {where}")


def _header_names(names: Iterable[str]) -> tuple[bytes, ...]:
    if isinstance(names, str):
        raise UsageError(f"vary is a list of header names, not one string: write vary=[{names!r}]")
    lower = []
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'+.^_`|~0-9A-Za-z-]+", name):
            raise UsageError(f"vary has names of request headers: not {name!r}")
        lower.append(name.lower().encode())
    return tuple(sorted(set(lower)))


def _milliseconds(name: str, value: object, least: int = 1) -> int:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < 1e9:
        raise UsageError(f"{name} is a number of seconds or a timedelta: {value!r}")
    result = min(round(number * 1000), DAY_MS)
    if result < least:
        raise UsageError(f"{name} must be above 0, not {value!r}")
    return result
