"""Say what of a value would be lost on its way through JSON and back.

JSON is plainer than Python: it has no tuples, dates, NaNs or keys that are numbers, and what it does not have is
written as something that it has. Where the type of the value is known, that is undone by decoding. Where it is
not, or is known in part (`dict[str, Any]`), a cache would return something else than the function that it stands
in front of. Here that is found before anything is stored.

Not known here: bytes, and what the type is. Only the value and what came back are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from neverstale.shapes import field_names

__all__ = ["what_is_lost", "what_is_not_finite"]

_Found = tuple[str, str] | None  # where below this value, and what is said about it

_NATIVE: Final = frozenset({type(None), bool, int, float, str, list, dict})
_LEAVES: Final = frozenset({type(None), bool, int, str})
_SHOWN: Final = 80  # characters of a value in a message: enough to recognise it, little enough for a log line


def what_is_lost(value: object, settled: object, *, exact: bool) -> str | None:
    """Give a sentence about the first difference that matters; None if there is none.

    Arguments:
        value: what was encoded.
        settled: what was decoded from it.
        exact: nothing is known of the type, so everything must be equal, and of the same type. Otherwise msgspec
            may have converted to what the type asks for (a dict to a dataclass, an int to a float), and only what
            became plainer counts: a date that is text now, a NaN that is None, an int that is a text key.
    """
    # Equal is enough for a known type, and is found in C. (For an unknown one it is not: 1 == True.)
    if not exact and value == settled:
        return None
    found = _not_the_same(value, settled) if exact else _plainer(value, settled)
    return None if found is None else f"${found[0]} {found[1]}"


def _not_the_same(value: Any, settled: Any) -> _Found:
    kind = type(value)
    if kind is not type(settled):
        return _differs(value, settled)
    if kind is list:
        for i, each in enumerate(value):
            if (found := _not_the_same(each, settled[i])) is not None:
                return f"[{i}]{found[0]}", found[1]
        return None
    if kind is dict:
        return _in_dict(value, settled, exact=True)
    return None if value == settled else _differs(value, settled)


def _plainer(value: Any, settled: Any) -> _Found:
    given, got = type(value), type(settled)
    if given is got and given in _LEAVES:
        return None if value == settled else _differs(value, settled)
    if given is float and not math.isfinite(value):
        return "", f"is {value!r}, which JSON cannot hold"
    if got in _NATIVE and not isinstance(value, got) and not (got is float and isinstance(value, int)):
        return _differs(value, settled)
    if isinstance(value, dict) and isinstance(settled, dict):
        return _in_dict(value, settled, exact=False)
    if isinstance(value, list | tuple) and isinstance(settled, list | tuple):
        if len(value) != len(settled):
            return _differs(value, settled)
        return _in_pairs((f"[{i}]", each, settled[i]) for i, each in enumerate(value))
    if given is got and (names := field_names(given)) is not None:
        return _in_pairs(
            (f".{name}", getattr(value, name, None), getattr(settled, name, None)) for name in names
        )
    return _not_finite(value)


def _in_pairs(pairs: Iterable[tuple[str, Any, Any]]) -> _Found:
    for step, value, settled in pairs:
        if (found := _plainer(value, settled)) is not None:
            return step + found[0], found[1]
    return None


def _in_dict(value: dict[Any, Any], settled: dict[Any, Any], *, exact: bool) -> _Found:
    if len(value) != len(settled):
        return "", f"has {len(value)} keys, of which {len(settled)} would come back"
    compare = _not_the_same if exact else _plainer
    # JSON keeps the order: the same place is the same key, of whatever type.
    for (key, each), (settled_key, settled_each) in zip(value.items(), settled.items(), strict=True):
        if (found := compare(key, settled_key)) is not None:
            return f" key{found[0]}", found[1]
        if (found := compare(each, settled_each)) is not None:
            return f"[{key!r}]{found[0]}", found[1]
    return None


def what_is_not_finite(value: object) -> str | None:
    """Give a sentence about the first NaN or infinity in a value: JSON has null for them; None if there is none."""
    found = _not_finite(value)
    return None if found is None else f"${found[0]} {found[1]}"


def _not_finite(value: Any) -> _Found:
    """Look for a NaN or an infinity in what became an object of another type: JSON has null for them."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ("", f"is {value!r}, which JSON cannot hold")
    inside: Iterable[tuple[str, Any]]
    if isinstance(value, dict):
        inside = ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        inside = ((f"[{i}]", each) for i, each in enumerate(value))
    else:
        inside = ((f".{name}", getattr(value, name, None)) for name in field_names(type(value)) or ())
    for step, each in inside:
        if (found := _not_finite(each)) is not None:
            return step + found[0], found[1]
    return None


def _differs(value: object, settled: object) -> _Found:
    return "", f"is {_shown(value)} and would come back as {_shown(settled)}"


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__qualname__} {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"
