"""What the shop refuses, as exceptions that know their HTTP status. One handler (web.py) answers them."""

from __future__ import annotations

__all__ = ["Conflict", "Forbidden", "Invalid", "NotFound", "NotLoggedIn", "ShopError"]


class ShopError(Exception):
    """Base: `detail` is for the person who asked."""

    status = 500

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotLoggedIn(ShopError):
    """Nobody is logged in, or the password is wrong."""

    status = 401


class Forbidden(ShopError):
    """Logged in, but not allowed."""

    status = 403


class NotFound(ShopError):
    """There is no such thing."""

    status = 404


class Conflict(ShopError):
    """Right in itself, but not as things stand: out of stock, address taken."""

    status = 409


class Invalid(ShopError):
    """What was sent makes no sense: no such category."""

    status = 422
