"""The cookie of a session: what is read from a request, and what is set in an answer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from neverstale.errors import UsageError
from neverstale.sessions import Issued

__all__ = ["Cookie"]


class Cookie:
    """A cookie by its name and attributes; see `SessionMiddleware`.

    Attributes:
        name: with `__Host-` in front where browsers allow it.
    """

    def __init__(
        self,
        name: str,
        *,
        secure: bool,
        same_site: Literal["lax", "strict", "none"],
        path: str,
        domain: str | None,
        persistent: bool,
    ) -> None:
        if same_site == "none" and not secure:
            raise UsageError("browsers refuse a cookie with SameSite=None that is not secure")
        self.name = f"__Host-{name}" if secure and path == "/" and domain is None else name
        self._flags = f"; Path={path}; HttpOnly; SameSite={same_site.capitalize()}"
        self._flags += ("; Secure" if secure else "") + (f"; Domain={domain}" if domain else "")
        self._persistent = persistent

    def sent(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return its value, if it was sent; of two of one name none: one of them is not ours."""
        found = []
        for header in (value for key, value in headers if key == b"cookie"):
            for part in header.decode("latin-1").split(";"):
                # Not any blank that Unicode knows: browsers take those for a part of the name, and then let other
                # hosts set a cookie that looks like `__Host-`.
                name, _, value = part.strip(" \t").partition("=")
                if name == self.name:
                    found.append(value)
        return found[0] if len(found) == 1 else None

    def given(self, issued: Issued[Any]) -> tuple[bytes, bytes]:
        """Return the header that gives the client a session."""
        age = ""
        if self._persistent:
            left = (issued.session.expires_at - datetime.now(UTC)).total_seconds()
            age = f"; Max-Age={max(0, int(left))}"
        return self._header(f"{issued.id}{age}")

    def taken(self) -> tuple[bytes, bytes]:
        """Return the header that takes it from the client."""
        return self._header("; Max-Age=0")

    def _header(self, value: str) -> tuple[bytes, bytes]:
        return b"set-cookie", f"{self.name}={value}{self._flags}".encode("latin-1")
