"""Who may see the dashboard, and who may act: pure decisions about a request.

Rules:
- Without a token: only who comes straight from this machine, and only to look. A request with any header of a proxy has
  come from elsewhere, whatever address it says. Nor may its `Host` be another name than this machine's: a page
  elsewhere may let its own name point here (DNS rebinding), and would be read by the browser as that page.
- No page of another origin reads it, also where the application around it lets them read (CORS).
- With a token: whoever has logged in, from wherever. The cookie is made of the token, so every worker process knows it,
  but does not tell it; another token ends all of them. It is compared in constant time.
- What changes something must come from the dashboard's own page: by the browser's word (`Sec-Fetch-Site`, or `Origin`),
  and with a second token that only this page can read.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

from neverstale.errors import UsageError

__all__ = [
    "COOKIE",
    "LIFETIME",
    "Guard",
    "cookies_of",
    "headers_of",
    "is_from_another_page",
    "is_from_our_page",
    "is_local",
]

COOKIE: Final = "neverstale_dashboard"
#: A working day: then one logs in again.
LIFETIME: Final = 12 * 3600
#: What cannot be guessed, also by who tries for years: 16 characters of a password generator have 95 bits.
_SHORTEST: Final = 16
#: Headers by which proxies say for whom they ask; and all that begin with `x-forwarded-`.
_PROXIED: Final = frozenset(
    (
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "x-envoy-external-address",
        "x-original-host",
    )
)
_LOCAL_NAMES: Final = frozenset(("localhost", "localhost.localdomain"))


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a request; of those that come twice, all, as one."""
    found: dict[str, str] = {}
    for raw, value in scope.get("headers", ()):
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def is_local(client: Any, headers: Mapping[str, str], http_version: str = "1.1") -> bool:
    """Return whether a request comes straight from this machine.

    Args:
        client: of the ASGI scope; None, as with a unix socket, is a proxy's way to come.
        headers: of the request.
        http_version: of the request. No browser has asked by 1.0 for twenty years; nginx, for long, did unless it was
            told otherwise, and it says neither for whom nor by which name.
    """
    if (
        http_version == "1.0"
        or not client
        or any(name in _PROXIED or name.startswith("x-forwarded-") for name in headers)
    ):
        return False
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:  # half of an address
        return False
    return _is_loopback(str(client[0])) and (host in _LOCAL_NAMES or _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_from_our_page(headers: Mapping[str, str]) -> bool:
    """Return whether the browser says that a request comes from a page of the same origin."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # Browsers of before 2023.
    return _has_our_origin(headers)


def is_from_another_page(headers: Mapping[str, str]) -> bool:
    """Return whether the browser says that it asks for a page of another origin.

    What that page could read, the application around the dashboard may have allowed (CORS). Browsers of before 2023
    send an `Origin` where that matters; what is no browser says nothing, and may ask.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    return "origin" in headers and not _has_our_origin(headers)


def _has_our_origin(headers: Mapping[str, str]) -> bool:
    # By host alone: behind a proxy the scheme is not the one that the browser sees.
    try:
        origin = urlsplit(headers.get("origin", "")).netloc
    except ValueError:
        return False
    return bool(origin) and origin in (headers.get("host"), headers.get("x-forwarded-host"))


class Guard:
    """What a token opens.

    Args:
        token: the secret, or None. Blanks around it, as at the end of a file, do not count.

    Raises:
        UsageError: the token is too short.
    """

    def __init__(self, token: str | None) -> None:
        token = token if token is None else token.strip()
        if token is not None and len(token) < _SHORTEST:
            raise UsageError(
                f"a token has at least {_SHORTEST} characters: "
                'python -c "import secrets; print(secrets.token_urlsafe())"'
            )
        self._digest = None if token is None else hashlib.sha256(token.encode()).digest()
        self._key = secrets.token_bytes() if token is None else _mac(token.encode(), "neverstale dashboard")

    @property
    def has_token(self) -> bool:
        """Whether one can log in at all."""
        return self._digest is not None

    def opens(self, given: str) -> bool:
        """Return whether this is the token."""
        # Of digests, which are of one length: the time tells nothing of the token's.
        return self._digest is not None and hmac.compare_digest(
            self._digest, hashlib.sha256(given.encode(errors="replace")).digest()
        )

    def cookie(self, now: float) -> str:
        """Return the value of a cookie for who has just logged in."""
        body = f"{int(now) + LIFETIME}.{secrets.token_urlsafe(16)}"
        return f"{body}.{_mac(self._key, body).hex()}"

    def knows(self, cookie: str, now: float) -> bool:
        """Return whether a cookie is one of ours, and not over."""
        body, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(mac.encode(errors="replace"), _mac(self._key, body).hex().encode()):
            return False
        return self.has_token and int(body.partition(".")[0]) > now

    def forgery_token(self, cookie: str) -> str:
        """Return what a request that changes something must bring along, beside this cookie."""
        return _mac(self._key, f"act:{cookie}").hex()

    def is_forgery(self, cookie: str, given: str) -> bool:
        """Return whether it does not."""
        return not hmac.compare_digest(self.forgery_token(cookie).encode(), given.encode(errors="replace"))


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(errors="replace"), "sha256")


def cookies_of(headers: Mapping[str, str]) -> list[str]:
    """Return all cookies of our name: beside ours, other hosts of the domain may have set theirs."""
    found = []
    for part in _cookies(headers.get("cookie", "")):
        if part.startswith(f"{COOKIE}="):
            try:
                jar = SimpleCookie(part)
            except CookieError:
                continue
            if COOKIE in jar:
                found.append(jar[COOKIE].value)
    return found


def _cookies(header: str) -> Iterable[str]:
    return (part.strip() for part in header.replace(", ", ";").split(";"))
