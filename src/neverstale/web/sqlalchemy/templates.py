"""Names of tags and keys with columns in them: `category:{category_id}`, `product:{order.product_id}`.

A placeholder is the name of a mapped column, or a path over relationships that ends in one. It is written as an
f-string writes the value, with a format (`{day:%Y-%m}`) where one is given; so `None` is `None`, as it is where the
reader says `f"category:{product.category_id}"`.

This module knows names only, no database.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

from neverstale.errors import UsageError

__all__ = ["Name", "Template", "names_of", "parse"]

#: What a model is given: a template, or a function of the row that returns a name or several.
Name: TypeAlias = "str | Callable[[Any], str | Iterable[str]]"


@dataclass(frozen=True)
class Template:
    """A name with placeholders, ready to be filled in.

    Attributes:
        text: as it was written.
        columns: names of the columns of the row itself that it needs.
        path: the relationships to follow, if there is one.
        target: the columns that it needs at the path's end.
    """

    text: str
    pieces: tuple[tuple[str, str | None, str], ...]
    columns: tuple[str, ...]
    path: tuple[str, ...]
    target: tuple[str, ...]

    def render(self, values: Mapping[str, Any]) -> str:
        """Fill in; columns at a path's end are under their whole name."""
        written = []
        for literal, field, spec in self.pieces:
            written.append(literal)
            if field is not None:
                value = values[field]
                written.append("None" if value is None else format(value, spec))
        return "".join(written)


def parse(text: str) -> Template:
    """Read a template.

    Raises:
        UsageError: it is no template, or one that goes by more than one path.
    """
    if not text:
        raise UsageError("a tag or key has at least one character")
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UsageError(f"{text!r} is no template: {error}; a brace that stays is doubled") from error
    pieces, columns, ends, paths = [], [], [], set()
    for literal, field, spec, conversion in parsed:
        pieces.append((literal, field, spec or ""))
        if field is None:
            continue
        if conversion or "{" in (spec or "") or not all(part.isidentifier() for part in field.split(".")):
            raise UsageError(
                f"{text!r}: a placeholder is a column's name or a path to one, like {{id}} or {{order.user_id}}"
            )
        *path, column = field.split(".")
        if path:
            paths.add(tuple(path))
            ends.append(column)
        else:
            columns.append(column)
    if len(paths) > 1:
        raise UsageError(f"{text!r} goes by more than one path: write a function")
    return Template(
        text,
        tuple(pieces),
        tuple(dict.fromkeys(columns)),
        next(iter(paths), ()),
        tuple(dict.fromkeys(ends)),
    )


class _Row(SimpleNamespace):
    """The columns of a row, by name, for functions."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the row that a function of `invalidates` is given has no {name!r}, only columns that are "
            f"not deferred: {', '.join(sorted(vars(self)))}"
        )


def names_of(function: Callable[[Any], str | Iterable[str]], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a function names for a row.

    Raises:
        UsageError: it returned something else than names.
    """
    given = function(_Row(**values))
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"{function!r} returned {name!r}: a function names tags or keys, as strings")
    return names
