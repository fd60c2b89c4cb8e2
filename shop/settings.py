"""What the operator sets, read from the environment once and then passed on as one frozen object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DEFAULT_DATABASE", "Settings", "SettingsError"]

DEFAULT_DATABASE = "sqlite:///.demo/shop.db"
DEFAULT_REDIS = "redis://localhost:6379"
_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off"}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(ValueError):
    """A variable has a value that is not allowed; the message names it and says what is."""


@dataclass(frozen=True)
class Settings:
    """The shop's settings; see `from_env` for the variables.

    Secrets stay out of the repr, so that an object in a traceback or a log gives nothing away.
    """

    database_url: str = field(default=DEFAULT_DATABASE, repr=False)
    redis_url: str = field(default=DEFAULT_REDIS, repr=False)
    cache_enabled: bool = True
    admin_password: str | None = field(default=None, repr=False)
    namespace: str | None = None
    version: int | None = None
    cache_token: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    log_level: str = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables, each of which may be missing.

        `DATABASE_URL`, `REDIS_URL`, `CACHE_ENABLED`; `SHOP_ADMIN_PASSWORD`; `NEVERSTALE_NAMESPACE` and
        `NEVERSTALE_VERSION` instead of the database's and the code's own; `SHOP_CACHE_TOKEN` and
        `SHOP_METRICS_TOKEN` (operating.py says what they open); `SHOP_LOG_LEVEL` (with INFO, which it is, every
        invalidation has its line).

        An empty variable counts as one that is not set. Raises `SettingsError` for a value that is not allowed.
        """
        return cls(
            database_url=environ.get("DATABASE_URL") or DEFAULT_DATABASE,
            redis_url=environ.get("REDIS_URL") or DEFAULT_REDIS,
            cache_enabled=_flag("CACHE_ENABLED", environ.get("CACHE_ENABLED") or "1"),
            admin_password=_password(environ.get("SHOP_ADMIN_PASSWORD") or None),
            namespace=environ.get("NEVERSTALE_NAMESPACE") or None,
            version=_number("NEVERSTALE_VERSION", environ.get("NEVERSTALE_VERSION") or None),
            cache_token=_token("SHOP_CACHE_TOKEN", environ.get("SHOP_CACHE_TOKEN") or None),
            metrics_token=_token("SHOP_METRICS_TOKEN", environ.get("SHOP_METRICS_TOKEN") or None),
            log_level=_level("SHOP_LOG_LEVEL", environ.get("SHOP_LOG_LEVEL") or "INFO"),
        )


def _flag(name: str, value: str) -> bool:
    word = value.strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise SettingsError(f"{name} is {value!r}; allowed are 1, true, yes, on and 0, false, no, off")


def _number(name: str, value: str | None) -> int | None:
    if value is not None and not (value.isdecimal() and 1 <= int(value) <= 999_999):
        raise SettingsError(f"{name} is {value!r}; allowed are 1 to 999999")
    return None if value is None else int(value)


def _token(name: str, value: str | None) -> str | None:
    # The dashboard's own bound: what cannot be guessed.
    if value is not None and len(value) < 16:
        raise SettingsError(f"{name} has {len(value)} characters; allowed are 16 or more")
    return value


def _level(name: str, value: str) -> str:
    if value.upper() not in _LEVELS:
        raise SettingsError(f"{name} is {value!r}; allowed are {', '.join(_LEVELS)}")
    return value.upper()


def _password(value: str | None) -> str | None:
    # The same bounds as for everyone else's (accounts.py): a shorter one would be refused when changed.
    if value is not None and not 8 <= len(value) <= 128:
        raise SettingsError(f"SHOP_ADMIN_PASSWORD has {len(value)} characters; allowed are 8 to 128")
    return value
