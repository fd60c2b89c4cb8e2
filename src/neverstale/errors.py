"""Every error that Neverstale raises, split by who can act on it.

```
NeverstaleError
├── UsageError             the caller: a wrong argument (also a ValueError)
│   ├── SettingsError      the operator: a wrong variable or option; says which, and what is allowed
│   ├── KeyingError        the caller: these arguments have no stable cache key
│   └── EncodingError      the caller: this value cannot be cached as the given type
├── RedisUnavailable       the operator of Redis: not reachable, too slow, or refusing
│   └── InvalidationError  the same, while invalidating: what was cached may still be served
├── HeldOff                the loader: a load failed a moment ago and is not repeated yet
├── LoadTimeout            the loader: a load takes longer than its caller waits (also a TimeoutError)
└── MissingDependency      the operator: an extra is not installed; says the install line
```

A loader's own exception is never wrapped: it reaches the caller as it is.
"""

from __future__ import annotations

__all__ = [
    "EncodingError",
    "HeldOff",
    "InvalidationError",
    "KeyingError",
    "LoadTimeout",
    "MissingDependency",
    "NeverstaleError",
    "RedisUnavailable",
    "SettingsError",
    "UsageError",
]


class NeverstaleError(Exception):
    """Base of everything that Neverstale raises by itself."""


class UsageError(NeverstaleError, ValueError):
    """A wrong argument: the message says which, and what is allowed."""


class SettingsError(UsageError):
    """A setting has a value that is not allowed.

    Attributes:
        variable: the environment variable or option that is wrong.
    """

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(variable, problem)
        self.variable = variable
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.variable}: {self.problem}"


class KeyingError(UsageError):
    """The arguments of a cached call have no key that is the same in every process."""


class EncodingError(UsageError):
    """A value cannot be stored as the type that was given for it."""


class RedisUnavailable(NeverstaleError):
    """Redis did not answer in time, refused, or could not be reached."""


class InvalidationError(RedisUnavailable):
    """An invalidation could not be completed: what was cached may still be served. Call it again.

    Attributes:
        kind: `key`, `pattern` or `tag`.
        names: what was to be invalidated.
    """

    def __init__(self, kind: str, names: tuple[str, ...], problem: str) -> None:
        super().__init__(kind, names, problem)
        self.kind = kind
        self.names = names
        self.problem = problem

    def __str__(self) -> str:
        shown = ", ".join(repr(name) for name in self.names[:5])
        more = f" and {len(self.names) - 5} more" if len(self.names) > 5 else ""
        return f"{self.kind} {shown}{more} not invalidated: {self.problem}"


class HeldOff(NeverstaleError):
    """Renewing an entry failed less than a second ago, and is not tried again yet; for callers with a fallback.

    Attributes:
        entry: the entry's key in Redis.
    """

    def __init__(self, entry: str) -> None:
        super().__init__(entry)
        self.entry = entry

    def __str__(self) -> str:
        return f"the last load of {self.entry!r} failed a moment ago"


class LoadTimeout(NeverstaleError, TimeoutError):
    """A load was not done in the time that its caller waits, and there is no older value to serve.

    The load goes on, unless all threads for loads were taken; what it gives is stored.

    Attributes:
        entry: the entry's key in Redis.
        seconds: the limit.
    """

    def __init__(self, entry: str, seconds: float) -> None:
        super().__init__(entry, seconds)
        self.entry = entry
        self.seconds = seconds

    def __str__(self) -> str:
        return f"{self.entry!r} was not loaded within {self.seconds:g} s"


class MissingDependency(NeverstaleError):
    """An optional dependency is not installed; the message gives the install line."""
