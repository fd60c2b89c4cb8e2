"""`request.session`: a dict that knows what a request has changed in it, so that only that is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["Changes", "SessionDict"]

_NULL: Final = b"null"


class Changes(NamedTuple):
    """The fields that a request has set, and the names of those that it has taken out."""

    put: dict[str, Any]
    taken: list[str]

    def __bool__(self) -> bool:
        return bool(self.put or self.taken)

    def apply(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return these data with the changes made."""
        return {name: value for name, value in data.items() if name not in self.taken} | self.put


class SessionDict(dict[str, Any]):
    """`request.session`: a dict that knows whether it was looked at, and what was changed.

    What was changed is found by comparing, so changes inside of a value (`session["cart"].append(5)`) count as well.
    What it was before is noted at the first look: a request that does not look at it pays nothing.

    Attributes:
        accessed: it was looked at or changed.
        cleared: `clear` was called.
    """

    # In the class, for copies and pickles: they set fields before attributes.
    accessed = False
    cleared = False
    _before: dict[str, bytes] = {}  # noqa: RUF012 - replaced, never changed

    def begin(self, data: Any) -> None:
        """Hold these data, unchanged."""
        dict.clear(self)
        dict.update(self, data or {})
        self.cleared = False
        if self.accessed:
            self._before = _written(self)

    def rebase(self, data: Any) -> None:
        """Hold these data, with the changes that were made so far."""
        changes, cleared = self.changes(), self.cleared
        self.begin(data)
        if changes:
            dict.clear(self)
            dict.update(self, changes.apply(data))
        self.cleared = cleared

    def mark_accessed(self) -> None:
        """Note that it is looked at; Starlette's `request.session` calls this."""
        if not self.accessed:
            self.accessed = True
            self._before = _written(self)

    def clear(self) -> None:
        """Empty it: the session ends with this request; what is put there afterwards begins another one."""
        self.mark_accessed()
        self.cleared = True
        super().clear()

    def changes(self) -> Changes:
        """Return what was changed since it began."""
        if not self.accessed:
            return Changes({}, [])
        now, plain = _written(self), self.plain()
        put = {name: plain[name] for name, text in now.items() if self._before.get(name) != text}
        return Changes(put, [name for name in self._before if name not in now])

    def lost(self, names: Iterable[str]) -> bool:
        """Return whether one of these fields was something before, and is not there or None now."""
        return any(self._before.get(name, _NULL) != _NULL and dict.get(self, name) is None for name in names)

    def plain(self) -> dict[str, Any]:
        """Return a copy that is a dict and nothing else."""
        return dict(dict.items(self))


def _written(data: dict[str, Any]) -> dict[str, bytes]:
    return {name: msgspec.json.encode(value) for name, value in dict.items(data)}


def _noting(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def noting(self: SessionDict, /, *args: Any, **kwargs: Any) -> Any:
        self.mark_accessed()
        return method(self, *args, **kwargs)

    noting.__name__, noting.__doc__ = name, method.__doc__
    return noting


# For who takes it from the scope, or from a Starlette whose `request.session` does not say that it is looked at.
for _name in (
    *("__contains__", "__eq__", "__getitem__", "__iter__", "__len__", "__ne__", "__or__", "__repr__"),
    *("__reversed__", "__ror__", "copy", "get", "items", "keys", "values"),
    *("__delitem__", "__ior__", "__setitem__", "pop", "popitem", "setdefault", "update"),
):
    setattr(SessionDict, _name, _noting(_name))
