"""Make the keys of function calls: readable, the same everywhere, never shared by two calls that differ.

A key looks like `shop.catalog.product(id=5,lang="en")`: the function's full name, then every parameter with
its value, defaults included, so `f(1)`, `f(x=1)` and `f(1, y=<its default>)` share a key.

How a value is written:

| value | text | |
|---|---|---|
| None, bool, int, float, bytes | `None` `True` `1` `1.0` `b'x'` | they differ, `0.0` and `-0.0` too; all NaNs are one |
| str | `"en"` | quoted as in JSON, so that no text can look like something else |
| list, tuple, set, dict | `[1]` `(1,)` `set(1)` `dict("a":1)` | they differ; the order of sets and dicts does not count |
| Decimal, UUID, dates, times | `Decimal(1.0)` | as written: `1.0` and `1.00` differ, and two zones at one instant |
| others that are known | `shop.models.Money(amount=5)` | the full name of the class, then the fields: see `_described` |

Everything that is written is delimited by itself: quotes cannot be forged, brackets are balanced, names of
classes have a dot and those above have none. So the text can be read back in one way only, and two texts are
equal only for equal values of equal types.

Subclasses of str, int, float and bytes (an IntEnum, a `Markup`, a numpy float) are written with the name of
their class, so they do not share a key with the plain value. Subclasses of list, dict, set, and tuples other
than NamedTuples, may hold more than is seen, and are refused, as is every object that has nothing but an
address.

Not known here: prefixes, the length that Redis keys should have, and which calls are worth caching.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import inspect
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

import msgspec

from neverstale.errors import KeyingError
from neverstale.shapes import field_names, is_model

__all__ = ["CallKey", "function_name"]


def function_name(func: Callable[..., Any]) -> str:
    """Give the name that stands for a function in keys: its module and its qualified name.

    Raises:
        KeyingError: the name is not its own: a lambda, a function made inside of another one, a
            `functools.partial`.
    """
    func = inspect.unwrap(func)
    func = getattr(func, "__func__", func)
    name = getattr(func, "__qualname__", None)
    if name is None:
        raise KeyingError(f"{func!r} has no name that is the same in every process: pass key=")
    if "<" in name:
        raise KeyingError(
            f"{name} is a lambda or is made inside of another function: two of them can share this name and still do "
            "different things (each holds its own variables), so they would share their cached results. "
            "Move it to the top of its module, or pass key="
        )
    return f"{_module_name(func.__module__)}.{name}"


def _module_name(module: str) -> str:
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


class CallKey:
    """Makes the keys of calls of one function; prepared once, then called at each look-up.

    Arguments:
        func: the function; its signature decides how arguments are bound, as in a call.
        skip_first: leave the first parameter out of the key (it is still given).
        name: stands for the function instead of its own name.

    Raises:
        KeyingError: `name` is not given and the function has no name of its own, see `function_name`.
    """

    __slots__ = ("_by_bind", "_func", "_head", "_parameters", "_room", "_signature", "_skip", "name")

    def __init__(
        self, func: Callable[..., Any], *, skip_first: bool = False, name: str | None = None
    ) -> None:
        self.name = function_name(func) if name is None else name
        self._func = func
        self._skip = int(skip_first)
        self._head = self.name + "("
        self._signature = inspect.signature(func)
        parameters = list(self._signature.parameters.values())
        kinds = [parameter.kind for parameter in parameters]
        self._by_bind = inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.VAR_KEYWORD in kinds
        self._room = sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)
        self._parameters = [
            _Parameter(parameter, first=not i) for i, parameter in enumerate(parameters[self._skip :])
        ]

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key of one call.

        Raises:
            KeyingError: an argument has no text that is the same in every process.
            TypeError: the function cannot be called like this; it is what the function would say itself.
        """
        given = len(args)
        if self._by_bind or not self._skip <= given <= self._room:
            return self._bound(args, kwargs)
        # The same as Signature.bind for a function without * and **, in a tenth of its time.
        if self._skip:
            args, given = args[1:], given - 1
        parts = [self._head]
        named = 0
        try:
            for parameter, value in zip(self._parameters, args, strict=False):
                parts.append(parameter.label)
                parts.append(_text(value))
            for parameter in self._parameters[given:]:
                if parameter.keyword in kwargs:
                    named += 1
                    parts.append(parameter.label)
                    parts.append(_text(kwargs[parameter.name]))
                elif parameter.default_text is not None:
                    parts.append(parameter.default_text)
                elif parameter.default is _REQUIRED:
                    named = -1
                    break
                else:
                    parts.append(parameter.label)
                    parts.append(_text(parameter.default))
        except (_NoText, RecursionError):
            named = -1
        if named != len(kwargs):
            return self._bound(args, kwargs)
        parts.append(")")
        return "".join(parts)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key by Signature.bind: for the calls that are not plain, and to say what is wrong."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            self._refuse(args, kwargs)
        bound.apply_defaults()
        parts = []
        for parameter in self._parameters:
            value = bound.arguments[parameter.name]
            if parameter.stars and not value:
                continue
            try:
                parts.append(parameter.text(value))
            except RecursionError as error:
                raise KeyingError(
                    f"{self.name}: the argument {parameter.name!r} holds itself, or is nested too deeply, and so has no "
                    "key: pass key="
                ) from error
            except _NoText as error:
                raise KeyingError(self._explained(parameter, value, error)) from error
        return f"{self._head}{','.join(parts)})"

    def _refuse(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NoReturn:
        """Raise what the function says to arguments that it cannot take."""
        if type(self._func) is types.FunctionType and not hasattr(self._func, "__wrapped__"):
            # Python binds before it runs the body, so the body does not run.
            self._func(*args, **kwargs)
        self._signature.bind(*args, **kwargs)
        raise TypeError(f"{self.name}: these arguments do not fit")

    def _explained(self, parameter: _Parameter, value: object, error: _NoText) -> str:
        inside = "" if type(value) is error.kind else f" holds a {_shown(error.kind)}, which"
        said = (
            f"{self.name}: the argument {parameter.name!r}, a {_shown(type(value))},{inside} {error.reason}."
        )
        if parameter.name == "self":
            said += (
                " self is part of a method's key, because another object may give another result:"
                " let its class be a dataclass,"
            )
        return f"{said} Give the class a method __cache_key__() that returns what tells its objects apart, or pass key="

    def __repr__(self) -> str:
        return f"CallKey({self.name})"


class _Required:
    """Stands for "has no default"."""


_REQUIRED: Final = _Required()


_STARS: Final[dict[object, str]] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


class _Parameter:
    """One parameter, prepared: what stands in front of its value, and the text of its default."""

    __slots__ = ("default", "default_text", "keyword", "label", "name", "plain_label", "stars")

    def __init__(self, parameter: inspect.Parameter, first: bool) -> None:
        self.name = parameter.name
        self.stars = _STARS.get(parameter.kind, "")
        self.plain_label = f"{self.stars}{self.name}="
        self.label = self.plain_label if first else f",{self.plain_label}"
        # A positional-only parameter is not given by keyword: a name that no keyword has.
        self.keyword: object = None if parameter.kind is parameter.POSITIONAL_ONLY else parameter.name
        self.default: Any = _REQUIRED if parameter.default is parameter.empty else parameter.default
        # Written once, unless it can change. A default without a stable text (a sentinel made by `object()`)
        # is still the same default in every process: it is written as a bare word, which no value looks like.
        self.default_text: str | None = None
        if self.default is not _REQUIRED:
            try:
                text = _text(self.default)
            except (_NoText, RecursionError):
                text = "default"
            if text == "default" or type(self.default) in _SCALARS:
                self.default_text = self.label + text

    def text(self, value: Any) -> str:
        if value is self.default and self.default_text is not None:
            return self.default_text.removeprefix(",")
        return self.plain_label + _text(value)


# values -----------------------------------------------------------------------------------------------------


class _NoText(Exception):
    """An object has no text that is the same in every process."""

    def __init__(self, kind: type, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason


def _text(value: Any) -> str:
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
    return f"[{','.join([_text(each) for each in value])}]"


def _tuple(value: tuple[Any, ...]) -> str:
    return f"({_text(value[0])},)" if len(value) == 1 else f"({','.join([_text(each) for each in value])})"


def _unordered(value: Iterable[Any]) -> str:
    return ",".join(sorted([_text(each) for each in value]))


def _dict(value: dict[Any, Any]) -> str:
    return f"dict({','.join(sorted([f'{_text(key)}:{_text(each)}' for key, each in value.items()]))})"


def _moment(value: dt.datetime | dt.time) -> str:
    """Write the wall clock, the offset, and whatever else the time zone knows that the offset does not tell."""
    fold = ",fold=1" if value.fold else ""
    return f"({value.isoformat()}{fold}{_zone(value.tzinfo)})"


def _zone(zone: dt.tzinfo | None) -> str:
    if (
        zone is None
        or zone is dt.UTC
        or (type(zone) is dt.timezone and zone == dt.timezone(zone.utcoffset(None)))
    ):
        name = None
        if type(zone) is dt.timezone and zone is not dt.UTC:
            name = zone.tzname(None)
            name = None if name.startswith("UTC") else name
        return "" if name is None else f",{_str(name)}"
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key is not None:
        return f",{_str(zone.key)}"
    kind = type(zone)
    if kind.__module__.startswith("pydantic_core"):  # a plain offset, as FastAPI reads it from a request
        return ""
    if isinstance(name := getattr(zone, "zone", None), str):  # pytz
        return f",{_str(name)}"
    raise _NoText(
        kind, "is a time zone without a name that could stand in a key: use zoneinfo or datetime.timezone"
    )


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
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, decimal.Decimal, uuid.UUID, dt.date})

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
        return lambda value: f"{name}({_text(value.__cache_key__())})"
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
            return lambda value: f"{name}({_alone(writer, value)})"
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return lambda value: _with_fields(name, _own(value)._fields, value)
    names = field_names(kind)
    if names is None or issubclass(kind, _CONTAINERS):
        raise _NoText(kind, "has nothing that tells it from another object in every process")
    if is_model(kind):
        return lambda value: _model(name, names, value)
    if not issubclass(kind, msgspec.Struct) and not {"__dataclass_fields__", "__attrs_attrs__"} & set(
        vars(kind)
    ):
        raise _NoText(kind, "inherits its fields, and may hold more than these: decorate the class itself")
    return lambda value: _with_fields(name, names, value)


@functools.lru_cache(1024)
def _class_name(kind: Any) -> str:
    if "<" in kind.__qualname__:
        raise _NoText(
            kind, "is of a class made inside of a function, and another class may have the same name"
        )
    module = "pathlib" if kind.__module__.startswith("pathlib.") else _module_name(kind.__module__)
    return f"{module}.{kind.__qualname__}"


def _alone(writer: Callable[[Any], str], value: Any) -> str:
    return writer(_own(value))


def _own(value: Any) -> Any:
    """Give back an object that carries nothing beside what it inherits from a plain type."""
    if getattr(value, "__dict__", None):
        raise _NoText(type(value), "carries attributes that its text does not show")
    return value


def _member(name: str, value: enum.Enum) -> str:
    member: str | None = value.name
    if member is None:  # a combination of flags that has no name
        return f"{name}({_text(value.value)})"
    return f"{name}.{member}" if member.isidentifier() else f"{name}[{_str(member)}]"


def _with_fields(name: str, names: Iterable[str], value: Any) -> str:
    return f"{name}({','.join([f'{each}={_text(getattr(value, each))}' for each in names])})"


def _model(name: str, names: tuple[str, ...], value: Any) -> str:
    """Write a pydantic model: its fields, and what only this object has (extra and private ones)."""
    more = [_text(each) for each in (value.__pydantic_extra__, value.__pydantic_private__) if each]
    return "".join([_with_fields(name, names, value), *more])


def _shown(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
