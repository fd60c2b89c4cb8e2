"""What a transaction owes the cache, level by level of its savepoints.

Rules:
- Each savepoint has a level. Released, it becomes part of the one around it; rolled back, it is forgotten.
- A row counts as it was before the transaction touched it first, and as it is when it commits.
- What an object does not know for certain is read just before the COMMIT, in the same transaction: if that fails, so
  does the commit. Nothing is committed of which it is not known what it invalidates.
- Once COMMIT has been sent, a transaction that ends in an error may have been committed all the same, and counts as
  such.
- In AUTOCOMMIT each flush and statement is a commit of its own, whose rows are read at once, and a rollback undoes
  nothing.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from itertools import chain
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from neverstale.core.keys import check_tag
from neverstale.errors import UsageError
from neverstale.owed import Work

from .rows import Key, Lock, Values, autocommits, ends, left, on, read
from .rules import Changed, Names, Rules

__all__ = ["Level", "Tracker"]

logger = logging.getLogger("neverstale")


class Level:
    """What a transaction or savepoint has changed so far."""

    def __init__(self) -> None:
        self.tags: dict[str, None] = {}
        self.keys: dict[str, None] = {}
        #: What was said by hand; apart, for in AUTOCOMMIT it may concern what is still to be written.
        self.touched: list[Names] = []
        #: Rows whose state before the transaction is known, with that state; None of those that did not exist.
        self.known: dict[tuple[Rules, Key], Values | None] = {}
        #: The same rows as they are by now, as far as that is known.
        self.now: dict[tuple[Rules, Key], Values | None] = {}
        #: Rows to be read before the commit, and what of them has been changed.
        self.unread: dict[Rules, dict[Key, Changed]] = {}
        #: Rows that lead to others, which are looked at once more before the commit.
        self.leading: dict[Rules, list[tuple[Values, Changed]]] = {}

    def name(self, names: Names) -> None:
        """Add tags and keys; what nothing can be cached under is left out."""
        for tag in names.tags:
            if tag not in self.tags:
                try:
                    self.tags[check_tag(tag)] = None
                except UsageError as error:
                    # No entry can have it either: the same check stands before every read and write.
                    logger.warning("nothing is cached under this, so nothing is invalidated: %s", error)
        for key in names.keys:
            if key:
                self.keys[key] = None

    def absorb(self, inner: Level) -> None:
        """Take over what a released savepoint has changed."""
        self.tags |= inner.tags
        self.keys |= inner.keys
        self.touched += inner.touched
        self.known |= inner.known
        self.now |= inner.now
        for rules, keys in inner.unread.items():
            for key, changed in keys.items():
                self.read_later(rules, key, changed)
        for rules, rows in inner.leading.items():
            self.leading.setdefault(rules, []).extend(rows)

    def give_up(self) -> None:
        """Name all rows in the place of those that can be read no more, as what wrote them has failed half-way."""
        for rules in self.unread | self.leading:
            self.tags |= dict.fromkeys(rules.whole)
            if not rules.whole:
                logger.error(
                    "rows of %s may have been committed half-way, in AUTOCOMMIT: not known, and there is no `whole`",
                    rules.name,
                )

    def read_later(self, rules: Rules, key: Key, changed: Changed) -> None:
        """Note a row that is to be read before the commit."""
        rows = self.unread.setdefault(rules, {})
        before: Changed = rows.get(key, frozenset())
        rows[key] = None if before is None or changed is None else before | changed

    def take(self, *, touched: bool = True) -> Work:
        """Return what is to be invalidated, and forget it."""
        if touched:
            for names in self.touched:
                self.name(names)
            self.touched = []
        work, self.tags, self.keys = Work(tuple(self.tags), tuple(self.keys)), {}, {}
        return work


def _around(savepoint: SessionTransaction) -> SessionTransaction:
    """Return the savepoint or transaction around a savepoint; the parts that a flush makes of one do not count."""
    outer = savepoint.parent
    while outer is not None and outer.parent is not None and not outer.nested:
        outer = outer.parent
    assert outer is not None
    return outer


class Tracker:
    """Follows the transactions of one session, one after another.

    Args:
        limit: rows that a statement may change before the tag for all of them takes their place.
    """

    def __init__(self, session: Session, limit: int) -> None:
        # Weakly: a session that is dropped goes at once, without waiting for the garbage collector.
        self._session = weakref.ref(session)
        self.limit = limit
        #: Of the flush that is running: objects that were seen to have changed, that are written, that are deleted.
        self.foreseen: set[InstanceState[Any]] = set()
        self.written: dict[InstanceState[Any], Changed] = {}
        self.deleted: set[InstanceState[Any]] = set()
        self._levels: dict[SessionTransaction, Level] = {}
        self._committed: SessionTransaction | None = None
        #: Commits, of savepoints too, that have begun and not ended.
        self._commits = 0
        #: With the event that tells of their COMMIT, once it is listened to.
        self._connections: dict[Connection, str | None] = {}
        self._sent = False
        self._stands = False
        #: Whether the transaction is about to be committed, so that nothing may be left to be read.
        self.committing = False
        #: Whether what is written is committed at once, because a connection is in AUTOCOMMIT.
        self.autocommit = False
        #: The invalidation of what has been committed, where it has begun before the transaction's end.
        self.started: Any = None
        begun = session.get_transaction()
        for connection, *_ in set(begun._connections.values() if begun is not None else ()):
            self.connected(connection)  # of a session that is followed from the middle of a transaction

    @property
    def session(self) -> Session:
        """The session, which is there as long as it tells us anything."""
        session = self._session()
        assert session is not None
        return session

    def forget_flush(self) -> None:
        """Begin another flush."""
        self.foreseen.clear()
        self.written.clear()
        self.deleted.clear()

    # --- levels ------------------------------------------------------------------------------------------------

    def begin(self, transaction: SessionTransaction) -> None:
        """Open a level for a transaction or savepoint; the parts that a flush makes of one have none."""
        if transaction.parent is None:
            self._forget()
        if transaction.parent is None or transaction.nested:
            self._levels[transaction] = Level()

    def _forget(self) -> None:
        for connection, watched in self._connections.items():
            if watched is not None:
                event.remove(connection, watched, self._sending)
        self._levels.clear()
        self._connections.clear()
        self._committed, self._commits = None, 0
        self.committing = self.autocommit = self._sent = self._stands = False

    def connected(self, connection: Connection) -> None:
        """Note a connection that the transaction takes."""
        if connection not in self._connections:
            self._connections[connection] = None
            self.autocommit = self.autocommit or autocommits(connection)

    def _watch(self) -> None:
        """Have the connections tell when COMMIT is sent; only where it matters, for it costs some 40 µs."""
        name = "commit_twophase" if self.session.twophase else "commit"
        for connection, watched in self._connections.items():
            if watched is None:
                try:
                    event.listen(connection, name, self._sending)
                except (
                    InvalidRequestError
                ):  # SQLAlchemy 2.0, of an engine with execution options: then as if it had
                    self._sent = True
                else:
                    self._connections[connection] = name

    def _sending(self, *_: Any) -> None:
        self._sent = True

    @property
    def level(self) -> Level:
        """The innermost level that is open."""
        transaction = self.session.get_nested_transaction() or self.session.get_transaction()
        assert transaction is not None
        if self.committing:
            self._watch()
        return self._levels.setdefault(transaction, Level())

    def prepare(self) -> None:
        """Before a commit: of the transaction, finish what is known; of a savepoint, nothing."""
        self._commits += 1
        nested = self.session.get_nested_transaction()
        # With savepoints still open, a commit is announced before theirs are: two of them, and no savepoint around
        # the one that is released next, are the transaction's and the last savepoint's.
        if nested is not None and (self._commits < 2 or _around(nested).parent is not None):
            return
        self.session.flush()
        self.committing = True
        if self.owing:
            self.resolve()
            self._watch()

    def committed(self) -> None:
        """Note that the innermost transaction or savepoint has been committed."""
        self._committed = self.session.get_nested_transaction() or self.session.get_transaction()
        self._commits -= 1

    def at_once(self) -> Work:
        """Return what has been written and so committed in AUTOCOMMIT, and forget it."""
        works = [level.take(touched=False) for level in self._levels.values()]
        return Work(*(tuple(dict.fromkeys(chain(*names))) for names in zip(*works, strict=True)))

    def take(self) -> Work:
        """Return what has just been committed, and forget it; of a savepoint, nothing."""
        level = self._levels.get(self._committed) if self._committed is not None else None
        if level is None or self._committed is None or self._committed.parent is not None:
            return Work()
        return level.take()

    def end(self, transaction: SessionTransaction) -> tuple[Work, bool]:
        """Close a level.

        Returns:
            What is to be invalidated now, and whether it is certain that the transaction was committed.
        """
        level = self._levels.pop(transaction, None) or Level()
        certain = self.autocommit or transaction is self._committed
        if transaction.parent is None:
            certain = certain or self._stands
            if certain:
                level.give_up()  # of what has really been committed nothing is left
            work = level.take() if certain or self._sent else Work()
            self._forget()
            return work, certain
        if transaction.nested and certain:
            # There is none yet where a session is followed from the middle of a transaction.
            self._levels.setdefault(_around(transaction), Level()).absorb(level)
            self._stands = self._stands or any(map(left, self._connections))
        return Work(), certain

    @property
    def owing(self) -> bool:
        """Whether something is to be invalidated, or to be read for it."""
        return any(
            level.tags or level.keys or level.touched or level.unread or level.leading
            for level in self._levels.values()
        )

    # --- rows --------------------------------------------------------------------------------------------------

    def _known(self, rules: Rules, key: Key) -> tuple[bool, Values | None]:
        for level in reversed(self._levels.values()):
            if (rules, key) in level.known:
                return True, level.known[rules, key]
        return False, None

    def now(self, rules: Rules, key: Key) -> Values | None:
        """Return a row as this transaction has left it, or None if that is not known."""
        for level in reversed(self._levels.values()):
            if (rules, key) in level.now:
                return level.now[rules, key]
        return None

    def becomes(self, rules: Rules, key: Key, values: Values, changed: Changed) -> None:
        """Note the new state of a row that has an identity."""
        self.level.now[rules, key] = values
        self.after(rules, values, changed)

    def new(self, rules: Rules, key: Key) -> None:
        """Note a row that there was not before the transaction."""
        if not self._known(rules, key)[0]:
            self.level.known[rules, key] = None

    def before(self, rules: Rules, keys: Iterable[Key], lock: Lock, changed: Changed = None) -> None:
        """Note the state of rows that are about to be changed or deleted, as it was before the transaction."""
        level = self.level
        unknown: list[Key] = []
        rows: list[tuple[Values, Changed]] = []
        for key in keys:
            known, was = self._known(rules, key)
            if not known:
                unknown.append(key)
            elif was is not None and rules.particular and rules.concerned(changed):
                rows.append((was, changed))  # it may concern more names than the change before
        if unknown and rules.only_primary:
            found = [dict(zip(rules.primary, key, strict=True)) for key in unknown]
        else:
            found = list(read(on(self.session, rules), rules, unknown, lock)) if unknown else []
        for values in found:
            key = tuple(values[name] for name in rules.primary)
            level.known[rules, key] = level.now[rules, key] = values
            rows.append((values, changed))
        for values, what in rows:
            level.name(rules.own(values, what))
        self._follow(level, rules, rows, lock=False)

    def after(self, rules: Rules, values: Values, changed: Changed = None) -> None:
        """Note the new state of a row."""
        level = self.level
        level.name(rules.own(values, changed))
        if rules.paths:
            level.leading.setdefault(rules, []).append((values, changed))

    def later(self, rules: Rules, keys: Iterable[Key], changed: Changed = None) -> None:
        """Note rows whose new state is read before the commit."""
        for key in keys:
            self.level.now[rules, key] = None
            self.level.read_later(rules, key, changed)

    def resolve(self) -> None:
        """Read what has been left for the commit."""
        for level in self._levels.values():
            unread, level.unread = level.unread, {}
            for rules, keys in unread.items():
                for values in read(on(self.session, rules), rules, keys):
                    # A key that is not found again is written otherwise in the database: then all of it counts.
                    changed = keys.get(tuple(values[name] for name in rules.primary))
                    level.name(rules.own(values, changed))
                    if rules.paths:
                        level.leading.setdefault(rules, []).append((values, changed))
            leading, level.leading = level.leading, {}
            for rules, rows in leading.items():
                self._follow(level, rules, rows, lock=True)

    def _follow(self, level: Level, rules: Rules, rows: list[tuple[Values, Changed]], *, lock: bool) -> None:
        """Name what is at the ends of paths. Without `lock` they are looked at again before the commit."""
        if not rules.paths or not rows:
            return
        for path in rules.paths:
            found = ends(self.session, path, (tuple(map(row.get, path.local)) for row, _ in rows), lock=lock)
            for row, changed in rows:
                for end in found.get(tuple(map(row.get, path.local)), ()):
                    level.name(rules.beyond(path, row | end, changed))
        if not lock:
            level.leading.setdefault(rules, []).extend(rows)
