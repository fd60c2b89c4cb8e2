"""The two faces of sessions are one: the same names, parameters, defaults, types and words, but for `await`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import neverstale.sessions
from neverstale.sessions import AsyncSessions, AsyncSessionStore, Sessions, SessionStore
from tests.test_parity import awaited, members, same, signature

FACES: list[tuple[Any, Any]] = [(Sessions, AsyncSessions), (SessionStore, AsyncSessionStore)]
PLAIN = {"__init__", "__repr__", "of_dicts", "has_store", "owed"}
PUBLIC = [
    pytest.param(plain, other, name, id=f"{plain.__name__}.{name}")
    for plain, other in FACES
    for name in sorted({*members(plain), *members(other)})
    if plain is Sessions or not name.startswith("_")
]


@pytest.mark.parametrize(("plain", "other", "name"), PUBLIC)
def test_faces(plain: type, other: type, name: str) -> None:
    """Both have it, with the same parameters, kinds, defaults and types, and say the same of it."""
    mine, theirs = members(plain)[name], members(other)[name]
    assert signature(theirs) == signature(mine)
    assert same(inspect.getdoc(theirs) or "") == (inspect.getdoc(mine) or "")
    if callable(mine):
        assert (awaited(mine), awaited(theirs)) == (False, name not in PLAIN)


def test_words_of_the_classes() -> None:
    """They are explained alike."""
    for plain, other in FACES:
        said = same(inspect.getdoc(other) or "").replace("asyncio", "threads")
        assert said == (inspect.getdoc(plain) or "").replace("asyncio", "threads")


def test_public_names() -> None:
    """Everything exported is there and has a docstring; every method begins with a sentence."""
    for name in neverstale.sessions.__all__:
        assert inspect.getdoc(getattr(neverstale.sessions, name)), name
    for kind in (Sessions, AsyncSessions):
        for name, member in members(kind).items():
            if not name.startswith("_"):
                first = (inspect.getdoc(member) or "").split("\n\n")[0]
                assert first.endswith("."), name
