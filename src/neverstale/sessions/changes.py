"""What may become of a session: the same in a store and in Redis alone.

Rules:
- A change is read, decided and written over exactly what was read; if that is not there any more, it is done again. So
  two requests that change different fields lose neither, and what was destroyed meanwhile stays destroyed.
- A superseded session is read-only: whoever still has the old id (a request in flight; an attacker who planted it)
  cannot write into the new one.
- Destroying a session destroys its family: also the id that was just replaced, and also by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from neverstale.core.commands import Flow, Wall
from neverstale.errors import InvalidationError

from .model import UNCHANGED, Session, SessionInfo, Unchanged, when
from .places import Attempt, Place

__all__ = ["infos", "remove_named", "rotate", "touch", "update"]


def update(
    place: Place,
    digest: str,
    change: Callable[[Session[Any]], Session[Any]],
) -> Flow[Session[Any] | None]:
    """Change a session; `change` may run several times.

    Returns:
        The session as it is now, or None if there is none that may be changed.

    Raises:
        RedisUnavailable: without a store: the change may be done or not.
        InvalidationError: with one: the change is done there; an older copy may still be served.
        SessionConflict: others kept changing it.
    """
    rules, attempt = place.frame.rules, Attempt()
    while True:
        now = yield from Wall()
        held = yield from place.load(digest)
        if held is None or held.session.superseded or not rules.alive(held.session, now):
            return None
        # By what it says: a change may have been made in place.
        before = place.frame.sealed(held.session).body
        new = change(held.session)
        if place.frame.sealed(new).body == before:
            return new
        new = msgspec.structs.replace(new, revision=held.session.revision + 1)
        if (yield from place.save(held, new)):
            yield from place.settle(digest)
            return new
        yield from attempt.again(place, digest)


def touch(place: Place, digest: str) -> Flow[Session[Any] | None]:
    """Note that the user of a session was here, if that was not noted a short while ago.

    An invalidation that fails is no failure here: the copy that is left is only older by a visit.
    """
    rules, now = place.frame.rules, (yield from Wall())

    def seen(session: Session[Any]) -> Session[Any]:
        return msgspec.structs.replace(session, seen_at=when(now)) if rules.due(session, now) else session

    try:
        return (yield from update(place, digest, seen))
    except InvalidationError:
        held = yield from place.load(digest)
        return None if held is None else held.session


def rotate(
    place: Place,
    digest: str,
    fresh: str,
    user: str | Unchanged | None,
    change: Callable[[Any], Any],
    device: str,
) -> Flow[tuple[Session[Any], InvalidationError | None] | None]:
    """Give a session another id; the old one keeps the data that it had.

    Giving the user is a log-in, and begins the absolute lifetime anew. `change` may run several times, and makes the
    new data, of a copy of its own.

    Returns:
        The new session, and what could not be invalidated of the old one; None if there is none that may be replaced.
    """
    rules, attempt = place.frame.rules, Attempt()
    while True:
        now = yield from Wall()
        held = yield from place.load(digest)
        if held is None or held.session.superseded or not rules.alive(held.session, now):
            return None
        new = _successor(place, held.session, fresh, user, change, device, now)
        old = rules.superseded(held.session, now, (*held.session.kin[:1], fresh))
        if (yield from place.rotate(held, old, new)):
            try:
                yield from place.settle(digest)
            except InvalidationError as error:
                return new, error
            return new, None
        yield from attempt.again(place, digest)


def _successor(
    place: Place,
    old: Session[Any],
    digest: str,
    user: str | Unchanged | None,
    change: Callable[[Any], Any],
    device: str,
    now: int,
) -> Session[Any]:
    # A change may be made in place, and must not reach the old one.
    data = change(place.frame.sealed(old).value.data)
    owner = old.user if user is UNCHANGED else user
    new: Session[Any] = place.frame.rules.begin(digest, old.family, data, owner, device or old.device, now)
    if user is UNCHANGED:
        new = msgspec.structs.replace(new, created_at=old.created_at, expires_at=old.expires_at)
    return msgspec.structs.replace(new, kin=(old.digest,))


def remove_named(place: Place, user: str, name: str) -> Flow[bool]:
    """Remove one session of a user, by the name that the list of them gave it."""
    for session in (yield from place.of_user(user)):
        if session.name == name and session.user == user:
            return (yield from place.remove(session.digest))
    return False


def infos(place: Place, user: str, current: str | None) -> Flow[list[SessionInfo]]:
    """List the sessions of a user that may be used, the last seen first."""
    rules, now = place.frame.rules, (yield from Wall())
    found = [
        session
        for session in (yield from place.of_user(user))
        if not session.superseded and rules.alive(session, now)
    ]
    found.sort(key=lambda session: (session.seen_at, session.created_at), reverse=True)
    return [
        SessionInfo(
            each.name, each.device, each.created_at, each.seen_at, each.expires_at, each.digest == current
        )
        for each in found
    ]
