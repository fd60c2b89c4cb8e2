"""Where Redis is and how the cache behaves: one frozen object, checked when it is made.

Rules:
- A wrong value is a `SettingsError` that names the environment variable, or the option where the value came
  as one, and says what is allowed. Nothing is guessed or put right silently, except that a TTL above the
  longest allowed one is cut to it.
- The password leaves this object only through `password`. `url`, `repr` and every error show `***` or no
  part of the URL: a URL that cannot be understood may have its password anywhere, so errors about it quote
  nothing of it.

This module opens no connection and reads no environment at import.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qsl, quote, unquote

from neverstale.errors import SettingsError

__all__ = ["Settings"]

Mode = Literal["single", "cluster", "sentinel", "unix"]

DAY: Final = 86400.0
# Redis refuses strings above this (proto-max-bulk-len).
LARGEST_STRING: Final = 512 * 1024 * 1024

_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS: Final = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_ENCODE: Final = "special characters in a user name or password are written percent-encoded"


class _Url(str):
    """A URL whose text has its password masked; copies of the settings are made from `raw`, as it was given."""

    __slots__ = ("raw",)
    raw: str

    def __new__(cls, masked: str, raw: str) -> Self:
        url = super().__new__(cls, masked)
        url.raw = raw
        return url

    def __reduce__(self) -> tuple[type[_Url], tuple[str, str]]:
        return (type(self), (str(self), self.raw))


class _Secret:
    """A password that is not shown, also not where an object is taken apart for showing."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Secret) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@dataclass(frozen=True)
class _Address:
    """What a URL says, taken apart."""

    mode: Mode
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    username: str | None
    password: _Secret | None
    db: int
    service: str | None
    path: str | None
    tls_options: tuple[tuple[str, str | bool], ...]

    def masked(self) -> str:
        """The same URL, made again from its parts, so that nothing of the original slips through."""
        login = ""
        if self.username is not None or self.password is not None:
            login = quote(self.username or "", safe="")
            login += ":***@" if self.password is not None else "@"
        query = [
            f"{name}={quote(str(value), safe='/')}".replace("=True", "=true")
            for name, value in self.tls_options
        ]
        if self.mode == "unix":
            query.insert(0, f"db={self.db}")
            return f"unix://{login}{quote(self.path or '')}?{'&'.join(query)}"
        if self.mode == "cluster":
            query.insert(0, "cluster=true")
        scheme = ("rediss" if self.tls else "redis") + ("+sentinel" if self.mode == "sentinel" else "")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        path = f"/{quote(self.service or '', safe='')}" if self.mode == "sentinel" else ""
        if self.mode != "cluster" and self.db:
            path += f"/{self.db}"
        return f"{scheme}://{login}{hosts}{path}" + (f"?{'&'.join(query)}" if query else "")


def _parse_url(label: str, value: object) -> _Address:
    if not isinstance(value, str) or "://" not in value:
        raise SettingsError(
            label, f"must be a URL that starts with {_listed(f'{scheme}://' for scheme in _SCHEMES)}"
        )
    scheme, _, rest = (value.raw if isinstance(value, _Url) else value).strip().partition("://")
    if scheme not in _SCHEMES:
        raise SettingsError(label, f"must start with {_listed(f'{name}://' for name in _SCHEMES)}")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    if "#" in value or "@" in path:
        raise SettingsError(label, f"has a '#' or '@' in a wrong place; {_ENCODE}")
    username, colon, password = login.partition(":") if at else ("", "", "")
    mode: Mode = "unix" if scheme == "unix" else "sentinel" if scheme.endswith("+sentinel") else "single"
    tls = scheme.startswith("rediss")
    options = _parse_query(label, query, mode, tls)
    if options.pop("cluster", False):
        mode = "cluster"
    db, service = options.pop("db", None), None
    nodes: tuple[tuple[str, int], ...] = ()
    if mode == "unix":
        path = unquote(hosts + slash + path)
        if not path:
            raise SettingsError(label, "must name the socket's path, like unix:///run/redis/redis.sock?db=0")
    else:
        nodes = _parse_nodes(label, hosts, _SENTINEL_PORT if mode == "sentinel" else _REDIS_PORT)
        if mode == "sentinel":
            named, _, path = path.partition("/")
            service = unquote(named)
            if not service:
                raise SettingsError(
                    label, "must name the service, like redis+sentinel://host:26379/service/0"
                )
        elif mode == "single" and len(nodes) > 1:
            raise SettingsError(label, "has several nodes: add ?cluster=true, or use redis+sentinel://")
        if path and db is not None:
            raise SettingsError(label, "gives the database twice: by its path and by db=")
        if path:
            db = _parse_db(label, path)
    if mode == "cluster" and db:
        raise SettingsError(label, "must not choose a database: a cluster has only database 0")
    return _Address(
        mode=mode,
        tls=tls,
        nodes=nodes,
        username=unquote(username) or None,
        password=_Secret(unquote(password)) if colon and password else None,
        db=int(db or 0),
        service=service,
        path=path if mode == "unix" else None,
        tls_options=tuple(sorted((name, given) for name, given in options.items())),
    )


def _parse_nodes(label: str, hosts: str, default_port: int) -> tuple[tuple[str, int], ...]:
    nodes = []
    for part in hosts.split(","):
        # Not int() or urlsplit().port: their errors quote the text, which may be half of a password.
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]]*))(?::([0-9]{1,5}))?", part, re.ASCII)
        if found is None or (found[3] and not 1 <= int(found[3]) <= 65535):
            raise SettingsError(
                label, f"must name each node as host:port, the port from 1 to 65535; {_ENCODE}"
            )
        host = found[1] or found[2] or ("" if len(hosts.split(",")) > 1 else "localhost")
        if not host:
            raise SettingsError(label, "has a node without a host")
        nodes.append((host, int(found[3] or default_port)))
    return tuple(nodes)


def _parse_query(label: str, query: str, mode: Mode, tls: bool) -> dict[str, Any]:
    known = {"unix": ("db",), "sentinel": ("db",)}.get(mode, ("cluster", "db")) + (
        _TLS_OPTIONS if tls else ()
    )
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            # The name is not quoted: what stands behind a '?' may be the rest of a password.
            raise SettingsError(
                label, f"has an unknown query parameter; known here: {', '.join(known)}; {_ENCODE}"
            )
        if name in options:
            raise SettingsError(label, f"gives the query parameter {name} twice")
        if name == "db":
            options[name] = _parse_db(label, value)
        elif name in ("cluster", "ssl_check_hostname"):
            if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
                raise SettingsError(label, f"the query parameter {name} must be true or false")
            options[name] = value.lower() in ("true", "1", "yes")
        elif name == "ssl_cert_reqs":
            if value.lower() not in ("required", "optional", "none"):
                raise SettingsError(
                    label, "the query parameter ssl_cert_reqs must be required, optional or none"
                )
            options[name] = value.lower()
        else:
            options[name] = value
    return options


def _parse_db(label: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text):
        raise SettingsError(label, f"the database must be a number from 0 to 99999; {_ENCODE}")
    return int(text)


def _listed(words: Any) -> str:
    first = list(words)
    return f"{', '.join(first[:-1])} or {first[-1]}"


def _seconds(low: float, high: float) -> Callable[[str, object], float]:
    def check(label: str, value: object) -> float:
        allowed = f"must be a number of seconds from {low:g} to {high:g}"
        if isinstance(value, str):
            text = value
            try:
                value = float(text)
            except ValueError:
                raise SettingsError(label, f"{allowed}, not {text[:40]!r}") from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SettingsError(label, f"{allowed}, not {type(value).__name__}")
        if not math.isfinite(value) or not low <= value <= high:
            raise SettingsError(label, f"{allowed}, not {value:g}")
        return float(value)

    return check


def _default_ttl(label: str, value: object) -> float:
    # Any length is allowed, and cut to max_ttl: "at most a day" is the cache's promise, not the caller's
    # mistake.
    return min(_seconds(0.001, 1e9)(label, value), DAY)


def _integer(low: int, high: int) -> Callable[[str, object], int]:
    def check(label: str, value: object) -> int:
        allowed = f"must be a whole number from {low} to {high}"
        if isinstance(value, str):
            if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value, re.ASCII):
                raise SettingsError(label, f"{allowed}, not {value[:40]!r}")
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise SettingsError(label, f"{allowed}, not {type(value).__name__}")
        if not low <= value <= high:
            raise SettingsError(label, f"{allowed}, not {value}")
        return value

    return check


def _namespace(label: str, value: object) -> str:
    allowed = "must be at most 64 of the characters A-Z a-z 0-9 _ . -"
    if not isinstance(value, str):
        raise SettingsError(label, f"{allowed}, not {type(value).__name__}")
    if not re.fullmatch("[A-Za-z0-9_.-]{0,64}", value):
        raise SettingsError(label, f"{allowed}, not {value[:80]!r}")
    # Keys without a namespace start with "cache:" (tags) and "v3:" (entries).
    if value == "cache" or re.fullmatch("v[0-9]+", value):
        raise SettingsError(
            label, f"must not be 'cache', nor 'v' and a number, not {value!r}: other keys start like that"
        )
    return value


_CHECKS: Final[dict[str, Callable[[str, object], Any]]] = {
    "namespace": _namespace,
    "version": _integer(1, 999999),
    "ttl": _default_ttl,
    "max_ttl": _seconds(0.001, DAY),
    "timeout": _seconds(0.001, 60),
    "patient_timeout": _seconds(0.001, 600),
    "lease_ttl": _seconds(0.1, 3600),
    "wait_limit": _seconds(0, 3600),
    "pool_size": _integer(1, 10000),
    "compress_above": _integer(0, LARGEST_STRING),
    "max_value_bytes": _integer(1, LARGEST_STRING),
}


@dataclass(frozen=True)
class Settings:
    """Say where Redis is and how the cache behaves.

    All times are seconds. Frozen, hashable, and checked: an instance that exists is valid.
    Change one with `dataclasses.replace`.

    Raises:
        SettingsError: a value is not allowed; says which one and what is.
    """

    # Redis's own default address, so that a laptop needs no configuration. The password is shown as ***.
    url: str = field(default="redis://localhost:6379", compare=False)
    # Empty: a Redis that one application has for itself needs no prefix.
    namespace: str = ""
    # Raise it when what is cached changes its shape: every older entry is out of reach at once.
    version: int = 1
    # One hour: long enough to save most loads, short enough that a forgotten invalidation heals the same
    # morning.
    ttl: float = 3600.0
    # One day, the longest that anything may live; it may be lowered, not raised.
    max_ttl: float = DAY
    # 50 ms: a hundred times a round trip inside a data centre, and still unnoticed when Redis hangs and it
    # is waited out.
    timeout: float = 0.05
    # 2 s: invalidations and scans must arrive; this outlasts a slow script, a fork for a snapshot, a lost
    # packet or two.
    patient_timeout: float = 2.0
    # 10 s: longer than a web request's load takes, for what takes longer is not stored; and how long a key stays
    # unfilled after its loader's process died.
    lease_ttl: float = 10.0
    # 5 s: below the 30 s after which proxies commonly give up, with time left for loading oneself.
    wait_limit: float = 5.0
    # 64 connections for each kind of use, made as they are needed: as many as servers commonly have threads (AnyIO has
    # 40). An event loop needs few, for its reads travel together.
    pool_size: int = 64
    # 4 KiB: below it, compressing costs more time than the bytes saved on the wire.
    compress_above: int = 4096
    # 4 MiB: what a gigabit link carries within the 50 ms of `timeout`; larger values would always be late.
    max_value_bytes: int = 4 * 1024 * 1024
    _address: _Address = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        object.__setattr__(self, "ttl", min(self.ttl, self.max_ttl))
        address = _parse_url("url", self.url)
        raw = self.url.raw if isinstance(self.url, _Url) else self.url
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "url", _Url(address.masked(), raw))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read `REDIS_URL` and the `NEVERSTALE_*` variables.

        A variable that is not set, or is empty, leaves the default.

        Args:
            environ: read instead of `os.environ`.
            overrides: options by name; each wins over its variable.

        Raises:
            SettingsError: names the variable, or the option, and says what is allowed.
        """
        environ = os.environ if environ is None else environ
        _refuse_unknown(overrides)
        options: dict[str, Any] = {}
        for name in _options():
            variable = "REDIS_URL" if name == "url" else f"NEVERSTALE_{name.upper()}"
            text = environ.get(variable, "").strip()
            if text and name not in overrides:
                # Checked here as well, because only here is it known that a variable is to blame.
                if name == "url":
                    _parse_url(variable, text)
                    options[name] = text
                else:
                    options[name] = _CHECKS[name](variable, text)
        return cls(**options, **overrides)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Settings:
        """Take Redis's address from a URL and everything else from options; the environment is not read.

        Args:
            url: `redis://` or `rediss://` `[user:password@]host:port/db`; `unix:///path?db=0`;
                `redis://host:port,host:port?cluster=true`; `redis+sentinel://host:port,host:port/service/db`.
                With `rediss` also the parameters `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`,
                `ssl_cert_reqs`, `ssl_check_hostname`.
            options: the fields of `Settings` by name.

        Raises:
            SettingsError: names the option and says what is allowed.
        """
        _refuse_unknown(options)
        return cls(**{**options, "url": url})

    @property
    def mode(self) -> Mode:
        """`single`, `cluster`, `sentinel` or `unix`."""
        return self._address.mode

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Each host and port of the URL: of Redis, of some of the cluster's nodes, or of the Sentinels."""
        return self._address.nodes

    @property
    def host(self) -> str | None:
        """The first node's host; `None` for a Unix socket."""
        return self.nodes[0][0] if self.nodes else None

    @property
    def port(self) -> int | None:
        """The first node's port; `None` for a Unix socket."""
        return self.nodes[0][1] if self.nodes else None

    @property
    def username(self) -> str | None:
        """The user of the URL."""
        return self._address.username

    @property
    def password(self) -> str | None:
        """The password of the URL, as it is: keep it out of logs."""
        return None if self._address.password is None else self._address.password.text

    @property
    def db(self) -> int:
        """The number of the database; 0 on a cluster."""
        return self._address.db

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted (`rediss`)."""
        return self._address.tls

    @property
    def tls_options(self) -> dict[str, str | bool]:
        """What the URL says about certificates, under redis-py's names."""
        return dict(self._address.tls_options)

    @property
    def service(self) -> str | None:
        """The name of the service that the Sentinels watch."""
        return self._address.service

    @property
    def path(self) -> str | None:
        """The path of the Unix socket."""
        return self._address.path


def _options() -> tuple[str, ...]:
    return tuple(item.name for item in fields(Settings) if item.init)


def _refuse_unknown(options: Mapping[str, object]) -> None:
    for name in options:
        if name not in _options():
            raise SettingsError(name, f"unknown option; known: {', '.join(_options())}")
