"""What a transaction owes the cache, level by level of its savepoints.

Rules:
- Each savepoint has a level. Released, it becomes part of the one around it; rolled back, it is forgotten.
- A row counts as it was before the transaction touched it first, and as it is when it commits.
- What an object does not know for certain is read just before the COMMIT, in the same transaction: if that fails, so
  does the commit. Nothing is committed of which it is not known what it invalidates.
- Once COMMIT has been sent, a transaction that ends in an error may have been committed all the same, and counts as
  such.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from neverstale.core.keys import check_tag
from neverstale.errors import UsageError
from neverstale.owed import Work

from .rows import Key, Lock, Values, ends, on, read
from .rules import Changed, Names, Rules

__all__ = ["Level", "Tracker"]

logger = logging.getLogger("neverstale")


class Level:
    """What a transaction or savepoint has changed so far."""

    def __init__(self) -> None:
        self.tags: dict[str, None] = {}
        self.keys: dict[str, None] = {}
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
        self.known |= inner.known
        self.now |= inner.now
        for rules, keys in inner.unread.items():
            for key, changed in keys.items():
                self.read_later(rules, key, changed)
        for rules, rows in inner.leading.items():
            self.leading.setdefault(rules, []).extend(rows)

    def read_later(self, rules: Rules, key: Key, changed: Changed) -> None:
        """Note a row that is to be read before the commit."""
        rows = self.unread.setdefault(rules, {})
        before: Changed = rows.get(key, frozenset())
        rows[key] = None if before is None or changed is None else before | changed

    @property
    def work(self) -> Work:
        """What is to be invalidated."""
        return Work(tuple(self.tags), tuple(self.keys))


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
        self._announced: SessionTransaction | None = None
        self.committing = False
        #: The invalidation of what has been committed, where it has begun before the transaction's end.
        self.started: Any = None

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
            self._levels.clear()
            self._committed = self._announced = None
            self.committing = False
        if transaction.parent is None or transaction.nested:
            self._levels[transaction] = Level()

    @property
    def level(self) -> Level:
        """The innermost level that is open."""
        transaction = self.session.get_nested_transaction() or self.session.get_transaction()
        assert transaction is not None
        return self._levels.setdefault(transaction, Level())

    def prepare(self) -> None:
        """Before a commit: of the transaction, finish what is known; of a savepoint, nothing."""
        nested = self.session.get_nested_transaction()
        if nested is not None and nested is not self._announced:
            # Said twice of a savepoint, it is the transaction around it that commits, with the savepoint still open.
            self._announced = nested
            return
        self.session.flush()
        self.committing = True
        self.resolve()

    def committed(self) -> None:
        """Note that the innermost transaction or savepoint has been committed."""
        self._committed = self.session.get_nested_transaction() or self.session.get_transaction()

    def take(self) -> Work:
        """Return what has just been committed, and forget it; of a savepoint, nothing."""
        level = self._levels.get(self._committed) if self._committed is not None else None
        if level is None or self._committed is None or self._committed.parent is not None:
            return Work()
        work, level.tags, level.keys = level.work, {}, {}
        return work

    def end(self, transaction: SessionTransaction) -> tuple[Work, bool]:
        """Close a level.

        Returns:
            What is to be invalidated now, and whether it is certain that the transaction was committed.
        """
        level = self._levels.pop(transaction, None)
        if level is None:
            return Work(), True
        certain = transaction is self._committed
        if transaction.parent is None:
            self._committed = self._announced = None
            return level.work if certain or self.committing else Work(), certain
        if certain:
            outer: SessionTransaction | None = transaction.parent
            while outer is not None and outer not in self._levels and outer.parent and not outer.nested:
                outer = outer.parent
            if outer is not None:
                # There is none yet where a session is followed from the middle of a transaction.
                self._levels.setdefault(outer, Level()).absorb(level)
        return Work(), certain

    @property
    def unread(self) -> bool:
        """Whether something is left to be read before the commit."""
        return any(level.unread or level.leading for level in self._levels.values())

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
