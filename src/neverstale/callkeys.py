"""Make the keys of function calls: readable, the same everywhere, never shared by two calls that differ.

A key looks like `shop.catalog.product(id=5,lang="en")`: the function's full name, then every parameter with
its value, defaults included, so `f(1)`, `f(x=1)` and `f(1, y=<its default>)` share a key. How a value is
written, and why no two are written alike, is in `stabletext`.

Arguments are bound as Python binds them, but prepared once for each function, because this is on the way of
every hit: a key by `inspect.Signature.bind` takes three times as long (3 instead of 1 µs). It is asked where that
way ends: for functions with `*args` or `**kwargs`, and to say what is wrong with a call.

Not known here: prefixes, the length that Redis keys should have, and which calls are worth caching.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from neverstale.errors import KeyingError
from neverstale.stabletext import SCALARS, NoStableText, class_title, module_name, stable_text

__all__ = ["CallKey", "function_name"]


def function_name(func: Callable[..., Any]) -> str:
    """Give the name that stands for a function in keys: its module and its qualified name.

    Raises:
        KeyingError: the name is not its own: a lambda, a function made inside of another one, a
            `functools.partial`.
    """
    name = getattr(func, "__qualname__", None)
    if name is None or func.__module__ is None:
        raise KeyingError(f"{func!r} has no name that is the same in every process: pass key=")
    if "<" in name:
        raise KeyingError(
            f"{name} is a lambda, or is made inside of another function: two of them can have this name and do "
            "different things (each holds its own variables), and would share their results. Move it to the top "
            "of its module, or pass key="
        )
    return f"{module_name(func.__module__)}.{name}"


class CallKey:
    """Makes the keys of calls of one function; prepared once, then called at each look-up.

    Arguments:
        func: the function; its signature decides how arguments are bound, as in a call.
        skip_first: leave the first parameter out of the key (it is still given).
        name: stands for the function instead of its own name.

    Raises:
        KeyingError: `name` is not given and the function has no name of its own, see `function_name`.
    """

    __slots__ = (
        "_by_bind",
        "_func",
        "_head",
        "_object",
        "_parameters",
        "_room",
        "_signature",
        "_skip",
        "name",
    )

    def __init__(
        self, func: Callable[..., Any], *, skip_first: bool = False, name: str | None = None
    ) -> None:
        self.name = function_name(func) if name is None else name
        # Of a bound method, the object is the first argument: two objects may give two results.
        self._object: tuple[Any, ...] = (func.__self__,) if inspect.ismethod(func) else ()
        self._func = func.__func__ if inspect.ismethod(func) else func
        self._skip = int(skip_first)
        self._head = self.name + "("
        self._signature = inspect.signature(self._func)
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
        if self._object:
            args = (*self._object, *args)
        given = len(args)
        if self._by_bind or not self._skip <= given <= self._room:
            return self._bound(args, kwargs)
        written = args[1:] if self._skip else args
        parts = [self._head]
        missing = len(kwargs)
        try:
            for parameter, value in zip(self._parameters, written, strict=False):
                parts.append(parameter.label)
                parts.append(stable_text(value))
            for parameter in self._parameters[len(written) :]:
                if parameter.keyword in kwargs:
                    missing -= 1
                    parts.append(parameter.label)
                    parts.append(stable_text(kwargs[parameter.name]))
                elif parameter.default_text is not None:
                    parts.append(parameter.default_text)
                elif parameter.default is _REQUIRED:
                    return self._bound(args, kwargs)
                else:
                    parts.append(parameter.label)
                    parts.append(stable_text(parameter.default))
        except (NoStableText, RecursionError):
            return self._bound(args, kwargs)
        if missing:
            return self._bound(args, kwargs)
        parts.append(")")
        return "".join(parts)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key by Signature.bind: for the calls that are not plain, and to say what is wrong."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            self._refuse(args, kwargs, error)
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
                    f"{self.name}: the argument {parameter.name!r} holds itself, or is nested too deeply: pass key="
                ) from error
            except NoStableText as error:
                raise KeyingError(self._explained(parameter, value, error)) from error
        return f"{self._head}{','.join(parts)})"

    def _refuse(self, args: Sequence[Any], kwargs: Mapping[str, Any], error: TypeError) -> NoReturn:
        """Raise what the function says to arguments that it cannot take."""
        func = self._func
        if (
            type(func) is types.FunctionType
            and not hasattr(func, "__wrapped__")
            and not hasattr(func, "__signature__")
        ):
            func(*args, **kwargs)  # Python binds before it runs the body: the body does not run.
        raise error

    def _explained(self, parameter: _Parameter, value: object, error: NoStableText) -> str:
        inside = (
            "" if type(value) is error.kind else f" holds a value of type {class_title(error.kind)}, which"
        )
        title = class_title(type(value))
        said = f"{self.name}: the argument {parameter.name!r} of type {title}{inside} {error.reason}."
        if parameter.name == "self":
            said += " self is in the key of a method, because another object may give another result."
        return (
            f"{said} Make the class a dataclass, or give it a method __cache_key__() that returns what tells its "
            "objects apart, or pass key="
        )

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
                text = stable_text(self.default)
            except (NoStableText, RecursionError):
                text = "default"
            if text == "default" or type(self.default) in SCALARS:
                self.default_text = self.label + text

    def text(self, value: Any) -> str:
        if value is self.default and self.default_text is not None:
            return self.default_text.removeprefix(",")
        return self.plain_label + stable_text(value)
