"""Invalidation that follows every write of SQLAlchemy's sessions.

A model says once which tags and keys its rows belong to (`invalidates`); sessions are attached with one call
(`follow_writes`); what cannot be seen is said by hand (`touch`). See docs/sqlalchemy.md.
"""

from __future__ import annotations

from neverstale.errors import MissingDependency

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - only whether it is there
except ImportError as error:
    raise MissingDependency(
        "following writes needs the package SQLAlchemy: pip install 'neverstale[sqlalchemy]'"
    ) from error

from .follow import Following, follow_writes, touch
from .rules import invalidates

__all__ = ["Following", "follow_writes", "invalidates", "touch"]
