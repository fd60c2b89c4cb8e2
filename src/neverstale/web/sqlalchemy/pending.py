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
from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from neverstale.core.keys import check_tag
from neverstale.errors import UsageError
from neverstale.owed import Work

from .rows import Key, Lock, Values, ends, on, read
from .rules import Names, Rules

__all__ = ["Level", "Tracker"]

logger = logging.getLogger("neverstale")


class Level:
    """What a transaction or savepoint has changed so far."""

    def __init__(self) -> None:
        self.tags: dict[str, None] = {}
        self.keys: dict[str, None] = {}
        #: Rows whose state before the transaction is known, or that did not exist.
        self.known: set[tuple[Rules, Key]] = set()
        #: Rows to be read before the commit.
        self.unread: dict[Rules, dict[Key, None]] = {}
        #: Rows that lead to others, which are looked at once more before the commit.
        self.leading: dict[Rules, list[Values]] = {}

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
        for rules, keys in inner.unread.items():
            self.unread.setdefault(rules, {}).update(keys)
        for rules, rows in inner.leading.items():
            self.leading.setdefault(rules, []).extend(rows)

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
        self.session = session
        self.limit = limit
        #: Of the flush that is running: objects that were seen to have changed, that are written, that are deleted.
        self.foreseen: set[InstanceState[Any]] = set()
        self.written: list[InstanceState[Any]] = []
        self.deleted: set[InstanceState[Any]] = set()
        self._levels: dict[SessionTransaction, Level] = {}
        self._committed: SessionTransaction | None = None
        self._announced: SessionTransaction | None = None
        self.committing = False

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
            return level.work if certain or self.committing else Work(), certain
        if certain:
            outer: SessionTransaction | None = transaction.parent
            while outer is not None and outer not in self._levels:
                outer = outer.parent
            if outer is not None:
                self._levels[outer].absorb(level)
        return Work(), certain

    # --- rows --------------------------------------------------------------------------------------------------

    def is_known(self, rules: Rules, key: Key) -> bool:
        """Say whether the state of a row before the transaction is known already."""
        return any((rules, key) in level.known for level in self._levels.values())

    def before(self, rules: Rules, keys: Iterable[Key], lock: Lock) -> None:
        """Note the state of rows that are about to be changed or deleted, unless it is known."""
        level = self.level
        unknown = [key for key in keys if not self.is_known(rules, key)]
        if not unknown:
            return
        if rules.only_primary:
            rows = [dict(zip(rules.primary, key, strict=True)) for key in unknown]
        else:
            rows = list(read(on(self.session, rules), rules, unknown, lock))
        for values in rows:
            level.name(rules.own(values))
        self._follow(level, rules, rows, lock=False)
        level.known.update((rules, key) for key in unknown)

    def after(self, rules: Rules, values: Values) -> None:
        """Note the new state of a row."""
        level = self.level
        level.name(rules.own(values))
        if rules.paths:
            level.leading.setdefault(rules, []).append(values)

    def later(self, rules: Rules, keys: Iterable[Key]) -> None:
        """Note rows whose new state is read before the commit."""
        self.level.unread.setdefault(rules, {}).update(dict.fromkeys(keys))

    def resolve(self) -> None:
        """Read what has been left for the commit."""
        for level in self._levels.values():
            unread, level.unread = level.unread, {}
            for rules, keys in unread.items():
                for values in read(on(self.session, rules), rules, keys):
                    level.name(rules.own(values))
                    if rules.paths:
                        level.leading.setdefault(rules, []).append(values)
            leading, level.leading = level.leading, {}
            for rules, rows in leading.items():
                self._follow(level, rules, rows, lock=True)

    def _follow(self, level: Level, rules: Rules, rows: list[Values], *, lock: bool) -> None:
        """Name what is at the ends of paths. Without `lock` they are looked at again before the commit."""
        if not rules.paths or not rows:
            return
        for path in rules.paths:
            found = ends(self.session, path, (tuple(map(row.get, path.local)) for row in rows), lock=lock)
            for row in rows:
                for end in found.get(tuple(map(row.get, path.local)), ()):
                    level.name(rules.beyond(path, row | end))
        if not lock:
            level.leading.setdefault(rules, []).extend(rows)
