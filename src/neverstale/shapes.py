"""Which fields a class has declared: Structs, dataclasses, attrs classes and pydantic models.

Nothing is imported for this: an object can only be of such a class if somebody else has imported the library.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import msgspec

__all__ = ["field_names", "is_model"]


def is_model(kind: type) -> bool:
    """Tell whether a class is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def field_names(kind: Any) -> tuple[str, ...] | None:
    """Name the fields of a class in the order of their declaration; None for a class that declares none."""
    names: tuple[str, ...] | None = None
    if issubclass(kind, msgspec.Struct):
        names = kind.__struct_fields__
    elif dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
    elif hasattr(kind, "__attrs_attrs__"):
        names = tuple(field.name for field in kind.__attrs_attrs__)
    elif is_model(kind):
        names = tuple(kind.model_fields)
    return names
