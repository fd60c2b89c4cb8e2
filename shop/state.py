"""The running shop: its settings, database and cache in one object that requests share."""

from __future__ import annotations

from dataclasses import dataclass

from neverstale.dashboard import Dashboard

from .caching import CachedCatalog
from .db import Database
from .sessions import ShopSessions
from .settings import Settings

__all__ = ["Shop"]


@dataclass(frozen=True)
class Shop:
    """What every request needs."""

    settings: Settings
    db: Database
    catalog: CachedCatalog
    sessions: ShopSessions
    dashboard: Dashboard | None = None
