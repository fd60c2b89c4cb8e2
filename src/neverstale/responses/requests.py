"""What of a request matters to a cache, read in one pass over its headers: this is on the way of every hit."""

from __future__ import annotations

import hashlib
from typing import Final

from .fields import Directives, Headers, cookie_names, directives, members

__all__ = ["Request", "selected"]

_NONE: Final[Directives] = {}
_NO_CACHE: Final[Directives] = {"no-cache": None}
#: What says who asks, beside cookies: the standard's fields, what interfaces use in their place, and what proxies say
#: that log users in themselves (OAuth2 Proxy, Authelia, authentik, Cloudflare, AWS, Google, Azure, Tailscale).
_CREDENTIALS: Final = frozenset(
    (
        b"api-key",
        b"apikey",
        b"authorization",
        b"cf-access-jwt-assertion",
        b"proxy-authorization",
        b"remote-email",
        b"remote-user",
        b"tailscale-user-login",
        b"x-access-token",
        b"x-amzn-oidc-data",
        b"x-amzn-oidc-identity",
        b"x-api-key",
        b"x-auth-request-email",
        b"x-auth-request-user",
        b"x-auth-token",
        b"x-authentik-username",
        b"x-forwarded-access-token",
        b"x-forwarded-email",
        b"x-forwarded-user",
        b"x-goog-authenticated-user-email",
        b"x-goog-iap-jwt-assertion",
        b"x-ms-client-principal",
        b"x-remote-user",
        b"x-session-id",
        b"x-session-token",
        b"x-user-id",
    )
)
_WANTED: Final = _CREDENTIALS.union(
    (
        b"cache-control",
        b"content-length",
        b"cookie",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-unmodified-since",
        b"pragma",
        b"range",
        b"transfer-encoding",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    )
)
#: Only the handler can answer these. The last ones make some frameworks take a request for another: what one client
#: gets for that is not to be shown to those who ask for what the URL says.
_PASSING: Final = (
    b"range",
    b"if-match",
    b"if-unmodified-since",
    b"transfer-encoding",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
)


class Request:
    """One GET or HEAD.

    Args:
        headers: with lower-case names.
        session_cookies: names of the cookies that make a session; None: any cookie does.

    Attributes:
        authorized: it has `Authorization`, or another field that says who asks.
        session: it has a session.
        control: its `Cache-Control`, or what `Pragma` says instead.
        none_match, modified_since: its conditions; None without.
        passes: it asks for what only the handler knows: a range, a condition for a change, something with a body.
    """

    __slots__ = (
        "authorized",
        "control",
        "headers",
        "modified_since",
        "none_match",
        "passes",
        "session",
    )

    def __init__(self, headers: Headers, session_cookies: frozenset[bytes] | None = None) -> None:
        self.headers = headers
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _WANTED:
                found[name] = found[name] + b", " + value if name in found else value
        self.authorized = False
        self.control: Directives = _NONE
        self.none_match: str | None = None
        self.modified_since: str | None = None
        self.session = False
        self.passes = False
        if not found:
            return
        self.authorized = not _CREDENTIALS.isdisjoint(found)
        if b"cookie" in found:
            self.session = session_cookies is None or not session_cookies.isdisjoint(
                cookie_names(value for name, value in headers if name == b"cookie")
            )
        if b"cache-control" in found:
            self.control = directives(found[b"cache-control"].decode("latin-1"))
        elif b"pragma" in found and b"no-cache" in found[b"pragma"].lower():
            self.control = _NO_CACHE
        if b"if-none-match" in found:
            self.none_match = found[b"if-none-match"].decode("latin-1")
        if b"if-modified-since" in found:
            self.modified_since = found[b"if-modified-since"].decode("latin-1")
        self.passes = any(name in found for name in _PASSING) or (found.get(b"content-length", b"0") != b"0")


def selected(headers: Headers, names: tuple[bytes, ...]) -> bytes:
    """Return the digest of what a request selects by: the values of these headers; empty without names.

    Lines of one name are one list, and space around its commas means nothing (RFC 9111 section 4.1); the case of
    languages does not either. Their order may, to a handler: it is left as it is.
    """
    if not names:
        return b""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        lines = [value for key, value in headers if key == name]
        digest.update(b"%d:%s" % (len(name), name))
        if not lines:
            digest.update(b"-")
            continue
        text = ", ".join(line.decode("latin-1") for line in lines)
        # In quoted strings space may mean something, and in cookies a comma no list.
        if '"' in text or name == b"cookie":
            value = b"\n".join(lines)
        else:
            value = ",".join(members(text)).encode("latin-1")
            if name == b"accept-language":
                value = value.lower()
        digest.update(b"%d:%s" % (len(value), value))
    return digest.digest()
