"""Write a value as text that is the same in every process, and that no other value has.

| value | text | |
|---|---|---|
| None, bool, int, float, bytes | `None` `True` `1` `1.0` `b'x'` | `0.0` and `-0.0` differ; all NaNs are one |
| str | `"en"` | quoted as in JSON: no text can look like anything else |
| list, tuple, set, dict | `[1]` `(1,)` `set(1)` `dict("a":1)` | they differ; sets and dicts have no order |
| Decimal, UUID, dates, times | `Decimal(1.0)` | as written: `1.0` and `1.00` differ, and two zones at one instant |
| others that are known | `shop.models.Money(amount=5)` | the full name of the class, then the fields: `_described` |

Everything that is written has an end of its own: quotes cannot be forged, brackets are balanced, a class has a
dot in its name and the words above have none. So a text can be read in one way only, and two texts are equal
only for equal values of equal types.

Subclasses of str, int, float and bytes (an IntEnum, a `Markup`, a numpy float) are written with the name of
their class, so they are never taken for the plain value. The one exception is UUID, where drivers return
subclasses that must find the keys of plain ones. Subclasses of list, dict and set, and tuples other than
NamedTuples, may hold more than is seen and are refused, as is every object that has nothing but an address.

Not known here: functions and parameters.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import pathlib
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring
from typing import Any, Final

import msgspec

from neverstale.shapes import field_names, is_model

__all__ = ["SCALARS", "NoStableText", "class_title", "module_name", "stable_text"]


class NoStableText(Exception):
    """An object has no text that is the same in every process."""

    def __init__(self, kind: type, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


def stable_text(value: Any) -> str:
    """Write a value so that only an equal value of an equal type is written alike."""
    kind: Any = type(value)
    writer = _WRITERS.get(kind)
    return writer(value) if writer is not None else _described(kind)(value)


def _str(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # Lone surrogates cannot be sent to Redis. Their \\ud800 is not in any other quoted text: a
            # backslash of the value itself has been doubled.
            return encode_basestring(value).encode("utf-8", "backslashreplace").decode()
    return encode_basestring(value)


def _int(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # more digits than Python is set to write in decimal; hexadecimal has no such limit
        return hex(value)


def _list(value: Iterable[Any]) -> str:
    return f"[{','.join([stable_text(each) for each in value])}]"


def _tuple(value: tuple[Any, ...]) -> str:
    return (
        f"({stable_text(value[0])},)"
        if len(value) == 1
        else f"({','.join([stable_text(each) for each in value])})"
    )


def _unordered(value: Iterable[Any]) -> str:
    return ",".join(sorted([stable_text(each) for each in value]))


def _dict(value: dict[Any, Any]) -> str:
    return f"dict({','.join(sorted([f'{stable_text(key)}:{stable_text(each)}' for key, each in value.items()]))})"


def _moment(value: dt.datetime | dt.time) -> str:
    """Write the wall clock, the offset, and whatever else the time zone knows that the offset does not tell."""
    fold = ",fold=1" if value.fold else ""
    return f"({value.isoformat()}{fold}{_zone(value.tzinfo)})"


def _zone(zone: dt.tzinfo | None) -> str:
    if zone is None or zone is dt.UTC:
        return ""
    if isinstance(zone, zoneinfo.ZoneInfo):
        if zone.key is not None:
            return f",{_str(zone.key)}"
    elif isinstance(name := getattr(zone, "zone", None), str):  # pytz
        return f",{_str(name)}"
    offset = zone.utcoffset(None)
    if offset is None:
        raise NoStableText(
            type(zone), "is a time zone without a name: use zoneinfo.ZoneInfo or datetime.timezone"
        )
    # A zone of one offset, which stands behind the time already: ours, or one of pydantic, dateutil, a driver.
    title = zone.tzname(None) if type(zone) is dt.timezone else None
    return "" if title is None or title == dt.timezone(offset).tzname(None) else f",{_str(title)}"


def _timedelta(value: dt.timedelta) -> str:
    return f"timedelta({value.days},{value.seconds},{value.microseconds})"


_WRITERS: Final[dict[type, Callable[[Any], str]]] = {
    type(None): repr,
    bool: repr,
    int: _int,
    float: repr,
    complex: repr,
    str: _str,
    bytes: repr,
    bytearray: repr,
    list: _list,
    tuple: _tuple,
    set: lambda value: f"set({_unordered(value)})",
    frozenset: lambda value: f"frozenset({_unordered(value)})",
    dict: _dict,
    decimal.Decimal: lambda value: f"Decimal({value})",
    uuid.UUID: lambda value: f"UUID({value})",
    dt.datetime: lambda value: f"datetime{_moment(value)}",
    dt.time: lambda value: f"time{_moment(value)}",
    dt.date: lambda value: f"date({value.isoformat()})",
    dt.timedelta: _timedelta,
    type(msgspec.UNSET): repr,
}

# What a default may be to be written only once.
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, decimal.Decimal, uuid.UUID, dt.date})

# Classes whose objects may hold more than is seen of them here.
_CONTAINERS: Final = (list, tuple, dict, set, frozenset, bytearray)
_PLAIN: Final[dict[type, Callable[[Any], str]]] = {
    str: lambda value: _str(str.__str__(value)),
    int: lambda value: _int(int.__int__(value)),
    float: lambda value: float.__repr__(value),
    bytes: lambda value: repr(bytes(memoryview(value))),
}


@functools.lru_cache(1024)
def _described(kind: Any) -> Callable[[Any], str]:
    """Give the writer for objects of a class that is not written by its own rule: the first line that fits."""
    if issubclass(kind, type):
        return lambda value: f"type({_class_name(value)})"
    if issubclass(kind, uuid.UUID):  # what database drivers return equals a plain one, and must find its key
        return _WRITERS[uuid.UUID]
    name = _class_name(kind)
    if getattr(kind, "__cache_key__", None) is not None:
        return lambda value: f"{name}({stable_text(value.__cache_key__())})"
    if issubclass(kind, enum.Enum):
        return lambda value: _member(name, value)
    if issubclass(kind, pathlib.PurePath):
        return lambda value: f"{name}({_str(str(value))})"
    if issubclass(kind, dt.datetime | dt.time):
        return lambda value: f"{name}{_moment(value)}"
    if issubclass(kind, dt.date):
        return lambda value: f"{name}({value.isoformat()})"
    for plain, writer in _PLAIN.items():
        if issubclass(kind, plain):
            if any(vars(base).get("__slots__") for base in kind.__mro__):
                raise NoStableText(kind, "has attributes that its text does not show")
            return lambda value: f"{name}({writer(_own(value))})"
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return lambda value: _with_fields(name, _own(value)._fields, value)
    if issubclass(kind, _CONTAINERS):
        raise NoStableText(
            kind, "is a container with more to it than a plain one: pass a list, tuple, dict or set"
        )
    names = field_names(kind)
    if names is None:
        raise NoStableText(kind, "has nothing that tells it from another object in every process")
    if is_model(kind):
        return lambda value: _model(name, names, value)
    if (
        not issubclass(kind, msgspec.Struct)
        and not {"__dataclass_fields__", "__attrs_attrs__"} & vars(kind).keys()
    ):
        raise NoStableText(
            kind, "inherits its fields and may hold more than these: decorate the class itself"
        )
    return lambda value: _with_fields(name, names, value)


@functools.lru_cache(1024)
def _class_name(kind: Any) -> str:
    if "<" in kind.__qualname__:
        raise NoStableText(
            kind, "is of a class made inside of a function: another class may have the same name"
        )
    module = "pathlib" if kind.__module__.startswith("pathlib.") else module_name(kind.__module__)
    return f"{module}.{kind.__qualname__}"


def _own(value: Any) -> Any:
    """Give back an object that carries nothing beside what it inherits from a plain type."""
    if getattr(value, "__dict__", None):
        raise NoStableText(type(value), "has attributes that its text does not show")
    return value


def _member(name: str, value: enum.Enum) -> str:
    member: str | None = value.name
    if member is None:  # a combination of flags that has no name
        return f"{name}({stable_text(value.value)})"
    return f"{name}.{member}" if member.isidentifier() else f"{name}[{_str(member)}]"


def _with_fields(name: str, names: Iterable[str], value: Any) -> str:
    try:
        return f"{name}({','.join([f'{each}={stable_text(getattr(value, each))}' for each in names])})"
    except AttributeError as error:
        raise NoStableText(type(value), f"has fields that were never set ({error})") from error


def _model(name: str, names: tuple[str, ...], value: Any) -> str:
    """Write a pydantic model: its fields, and what this object has beside them."""
    text = _with_fields(name, names, value)
    if value.__pydantic_extra__:
        text += f"+extra={stable_text(value.__pydantic_extra__)}"
    if value.__pydantic_private__:
        text += f"+private={stable_text(value.__pydantic_private__)}"
    return text


def class_title(kind: type) -> str:
    """Give the name of a class as messages show it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def module_name(module: str) -> str:
    """Give the name under which a module is imported, also where it is the program that runs.

    `python -m shop.report` and a worker that imports `shop.report` share their keys; two programs do not
    share `__main__`.
    """
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return pathlib.PurePath(file).stem if file else module
