"""Passwords, by argon2id with the parameters of RFC 9106 (the second recommended choice: 64 MiB).

A hash takes tens of milliseconds of a core on purpose, so it runs in a thread, and never more than two at once in a
process: a rush of log-ins must not take the memory.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

__all__ = ["NO_PASSWORD", "hash_now", "hash_password", "verify_password"]

NO_PASSWORD = "!"  # a stored value that no password fits: the seeded customers'
_hasher = PasswordHasher()
_threads = ThreadPoolExecutor(2, thread_name_prefix="argon2")


async def hash_password(password: str) -> str:
    """Return a salted hash to store."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _hasher.hash, password)


async def verify_password(stored: str | None, password: str) -> bool:
    """Say whether it is the password; without a stored hash, take as long and say no.

    Otherwise the time of an answer would tell which addresses have an account.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads, _verify, stored, password)


def hash_now(password: str) -> str:
    """Hash in this thread, for command lines."""
    return _hasher.hash(password)


def _verify(stored: str | None, password: str) -> bool:
    known = stored is not None and stored != NO_PASSWORD
    try:
        _hasher.verify(stored if known and stored else _nobody(), password)
    except (VerificationError, InvalidHashError):
        return False
    return known


@cache
def _nobody() -> str:
    return _hasher.hash("nobody's password")
