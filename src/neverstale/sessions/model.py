"""What a session is, and the rules by which it lives: pure values and decisions, no I/O.

Rules:
- A session's id is 256 bits from `secrets`. The client has it; everywhere else there is only its SHA-256, the *digest*.
  The id cannot be found from the digest (it is too random to be guessed), so the digest needs no salt.
- A session is over when it has not been seen for `idle`, or at `expires_at`, whichever comes first. That is decided at
  every read by the session's own times, not by what Redis has dropped.
- At log-in and at any rise of privilege the id is replaced. Both ids are of one *family*. The old one is *superseded*:
  for a short grace it can be read, with the data and the user that it had, and not be changed any more.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec

from neverstale.errors import InvalidationError, NeverstaleError, UsageError

__all__ = [
    "UNCHANGED",
    "Issued",
    "Rules",
    "Session",
    "SessionConflict",
    "SessionInfo",
    "Unchanged",
    "digest_of",
    "new_family",
    "new_id",
    "tag_of",
    "when",
]

D = TypeVar("D")

# What `secrets.token_urlsafe(32)` makes. Anything else is not looked for.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")
#: Hexadecimal digits of a digest that name a session to its user: 64 bits, among the sessions of one user.
_NAME: Final = 16
#: Hexadecimal digits of the digest of a user in the name of a tag: 128 bits are more than there are users.
_USER: Final = 32


class Unchanged(enum.Enum):
    """What stands for an argument that was not given, where None means something."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED


class SessionConflict(NeverstaleError):
    """A session could not be changed, because others kept changing it; nothing was lost. Call it again."""


class Session(msgspec.Struct, Generic[D], frozen=True, kw_only=True, omit_defaults=True):
    """One session, as a store keeps it and as a read returns it.

    Attributes:
        digest: SHA-256 of its id, in hexadecimal: what it is stored under.
        family: the same for a session and for those that it replaced.
        data: the application's.
        user: whose it is, or None for a visitor who has not logged in.
        device: what the client calls itself, for the list of a user's sessions.
        created_at: when it began, which is the last log-in: another replacement of the id does not prolong its life.
        seen_at: when its user was last here, exact to `seen_every`.
        expires_at: its absolute end.
        revision: counts changes; a store saves only over the revision that was read.
        superseded: another id has taken its place.
        kin: digests of others of its family; only used where there is no store.
    """

    digest: str
    family: str
    data: D
    user: str | None = None
    device: str = ""
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    revision: int = 0
    superseded: bool = False
    kin: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show which one it is, and nothing of what it holds: representations end in logs."""
        state = " superseded" if self.superseded else ""
        return f"<Session {self.name}{state}, seen {self.seen_at:%Y-%m-%d %H:%M:%S}>"

    @property
    def name(self) -> str:
        """What names it among the sessions of its user: the beginning of its digest."""
        return self.digest[:_NAME]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One line in the list of a user's sessions.

    Attributes:
        name: names it to `destroy_one`; opens nothing.
        device: what the client called itself.
        created_at, seen_at, expires_at: as of `Session`.
        current: whether it is the one that asks.
    """

    name: str
    device: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    current: bool = False


@dataclass(frozen=True, slots=True)
class Issued(Generic[D]):
    """A new session, with the id that the client is to have: the only time that it is there in clear.

    Attributes:
        id: for the cookie.
        session: what it opens.
        owed: what of the session that it replaced could not be invalidated, for `invalidate_again`: until then the old
            id opens the old data for longer than the grace.
    """

    id: str = field(repr=False)
    session: Session[D]
    owed: InvalidationError | None = None


def new_id() -> str:
    """Return an id for a session: 256 random bits."""
    return secrets.token_urlsafe(32)


def new_family() -> str:
    """Return a name for a family: 128 random bits, told to nobody."""
    return secrets.token_hex(16)


def digest_of(session_id: object) -> str | None:
    """Return what a session is stored under, or None for what cannot be an id: nothing of it is looked for."""
    if not isinstance(session_id, str) or _ID.fullmatch(session_id) is None:
        return None
    return hashlib.sha256(session_id.encode()).hexdigest()


def tag_of(prefix: str, user: str) -> str:
    """Return the tag of all sessions of a user.

    A digest keeps names and e-mail addresses out of Redis' keys. It does not hide numbers from who tries them all.

    Raises:
        UsageError: the user is not given by text.
    """
    if not isinstance(user, str) or not user:
        raise UsageError(f"a user is given by text, such as str(user.id), not by {type(user).__name__}")
    return f"{prefix}user:{hashlib.sha256(user.encode('utf-8', 'surrogatepass')).hexdigest()[:_USER]}"


def when(ms: int) -> datetime:
    """Return a time of flows, milliseconds since 1970, as stores have it."""
    return datetime.fromtimestamp(ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Rules:
    """How long sessions live; all spans in milliseconds.

    Attributes:
        ttl_ms: the longest in Redis.
        idle_ms: without a visit.
        absolute_ms: in any case.
        grace_ms: of an id that was replaced.
        seen_ms: how exact "last seen" is.
    """

    ttl_ms: int
    idle_ms: int
    absolute_ms: int
    grace_ms: int
    seen_ms: int

    def __post_init__(self) -> None:
        if self.seen_ms >= self.idle_ms:
            raise UsageError("seen_every must be shorter than idle: a session in use would be over")

    def left_ms(self, session: Session[Any], now_ms: int) -> int:
        """Return how long a session may stay in Redis; nothing or less if it is over."""
        now = when(now_ms)
        idle = timedelta(milliseconds=self.idle_ms)
        ends = min(session.expires_at, session.seen_at + idle)
        return min(self.ttl_ms, (ends - now) // timedelta(milliseconds=1))

    def alive(self, session: Session[Any], now_ms: int) -> bool:
        """Return whether a session may be used."""
        return self.left_ms(session, now_ms) > 0

    def due(self, session: Session[Any], now_ms: int) -> bool:
        """Return whether it is time to note that the user is here."""
        if session.superseded:
            return False
        return when(now_ms) - session.seen_at >= timedelta(milliseconds=self.seen_ms)

    def begin(self, digest: str, family: str, data: Any, user: str | None, device: str, now_ms: int) -> Any:
        """Return a session that begins now."""
        now = when(now_ms)
        return Session(
            digest=digest,
            family=family,
            data=data,
            user=user,
            device=device,
            created_at=now,
            seen_at=now,
            expires_at=now + timedelta(milliseconds=self.absolute_ms),
        )

    def superseded(self, old: Session[Any], now_ms: int, kin: tuple[str, ...]) -> Any:
        """Return what becomes of a session whose id is replaced now."""
        ends = min(old.expires_at, when(now_ms) + timedelta(milliseconds=self.grace_ms))
        return msgspec.structs.replace(
            old, superseded=True, expires_at=ends, revision=old.revision + 1, kin=kin
        )
