"""Texts that people send: trimmed, and free of characters that no database or page can hold."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Email", "Line", "Password", "Text"]

# Control characters except tab and line ends, and halves of surrogate pairs (JSON can spell them, UTF-8 cannot).
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BREAKS = re.compile(r"[\r\n\t]")
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")


def _clean(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise ValueError("contains characters that cannot be shown")
    return text.strip()


def _line(text: str) -> str:
    text = _clean(text)
    if _BREAKS.search(text):
        raise ValueError("must be a single line")
    return text


def _email(text: str) -> str:
    text = _line(text).lower()
    if len(text) > 254 or not _EMAIL.fullmatch(text):
        raise ValueError("is not an e-mail address")
    return text


def _password(text: str) -> str:
    if not 8 <= len(text) <= 128:  # an upper bound, because hashing takes its time
        raise ValueError("must have 8 to 128 characters")
    if _FORBIDDEN.search(text):
        raise ValueError("contains characters that cannot be typed")
    return text


Line = Annotated[str, AfterValidator(_line)]
Text = Annotated[str, AfterValidator(_clean)]
Email = Annotated[str, AfterValidator(_email)]
Password = Annotated[str, AfterValidator(_password)]
