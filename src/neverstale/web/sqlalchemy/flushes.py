"""What flushes write: objects, and the rows of many-to-many tables.

What a flush will write is seen beforehand as far as it is known, and read in one go. The rest, orphans and children
whose foreign key is emptied, comes to light while the flush runs, and is read one by one.

History says which objects change, never what they were: an object may have been loaded before another transaction
changed its row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.orm import InstanceState, Mapper, RelationshipProperty

from neverstale.errors import UsageError

from .pending import Tracker
from .rows import Key, Lock, Values
from .rules import Rules, rules_of_class, rules_of_table

__all__ = ["deleting", "flushed", "foresee", "inserting", "updating"]


def foresee(tracker: Tracker) -> None:
    """Before a flush: read the rows that it is known to change or delete."""
    tracker.written.clear()
    tracker.deleted.clear()
    session = tracker.session
    coming: dict[tuple[Rules, Lock], list[Key]] = {}
    for target in session.dirty:
        rules = rules_of_class(inspect(target).mapper)
        if rules and session.is_modified(target, include_collections=False):
            _expect(coming, rules, target, "update")
    for target in session.deleted:
        _expect(coming, rules_of_class(inspect(target).mapper), target, "delete")
    for (rule, lock), keys in coming.items():
        tracker.before(rule, keys, lock)


def _expect(
    coming: dict[tuple[Rules, Lock], list[Key]], rules: Iterable[Rules], target: Any, lock: Lock
) -> None:
    key = inspect(target).identity
    if key is not None:
        for each in rules:
            coming.setdefault((each, lock), []).append(tuple(key))


def inserting(tracker: Tracker, target: Any) -> None:
    """Before the INSERT of an object; or the UPDATE, where it takes the place of one deleted under its key."""
    tracker.written.append(target)


def updating(tracker: Tracker, target: Any) -> None:
    """Before the UPDATE of an object, which there is only if something has changed."""
    if tracker.session.is_modified(target, include_collections=False):
        tracker.written.append(target)
        _one(tracker, target, "update")


def deleting(tracker: Tracker, target: Any) -> None:
    """Before the DELETE of an object."""
    tracker.deleted.append(target)
    _one(tracker, target, "delete")


def _one(tracker: Tracker, target: Any, lock: Lock) -> None:
    state: InstanceState[Any] = inspect(target)
    if state.identity is not None:
        for rules in rules_of_class(state.mapper):
            tracker.before(rules, (tuple(state.identity),), lock)


def flushed(tracker: Tracker) -> None:
    """After a flush: note what its objects have become, and the rows of many-to-many tables."""
    session = tracker.session
    for target in tracker.written:
        state: InstanceState[Any] = inspect(target)
        rules = rules_of_class(state.mapper)
        if not rules:
            continue
        key = tuple(state.mapper.primary_key_from_instance(target))
        for each in rules:
            if state.identity is None:
                tracker.level.known.add((each, key))
            values = {name: state.dict[name] for name in each.columns if name in state.dict}
            if len(values) == len(each.columns) and all(map(each.plain, values, values.values())):
                tracker.after(each, values)
            else:
                # Made by the database, or not to be told from what it makes of it.
                tracker.later(each, (key,))
    gone = {*session.deleted, *tracker.deleted}
    for target in {*session.new, *session.dirty, *gone}:
        for relationship, rules in _secondaries(inspect(target).mapper):
            _associations(tracker, target, relationship, rules, gone=target in gone)


def _secondaries(mapper: Mapper[Any]) -> list[tuple[RelationshipProperty[Any], tuple[Rules, ...]]]:
    """Return the many-to-many relationships of a class about whose tables something is said."""
    found = []
    for relationship in mapper.relationships:
        if isinstance(relationship.secondary, Table):
            rules = tuple(each for each in rules_of_table(relationship.secondary) if each.mapper is None)
            if rules:
                found.append((relationship, rules))
    return found


def _associations(
    tracker: Tracker,
    target: Any,
    relationship: RelationshipProperty[Any],
    rules: Iterable[Rules],
    *,
    gone: bool,
) -> None:
    """Note the rows of a many-to-many table that come and go with an object's collection."""
    history = inspect(target).attrs[relationship.key].history
    others = [*history.added, *history.deleted, *(history.unchanged if gone else ())]
    for other in others:
        if other is None:
            continue
        pairs = [
            *((target, near, far) for near, far in relationship.synchronize_pairs),
            *((other, near, far) for near, far in relationship.secondary_synchronize_pairs or ()),
        ]
        values: Values = {str(far.key): _value(owner, near) for owner, near, far in pairs}
        for each in rules:
            missing = [name for name in each.columns if name not in values]
            if missing and set(missing) - set(each.primary):
                raise UsageError(
                    f"{each.name} is written by the relationship {relationship}, which knows its foreign keys only, "
                    f"not {', '.join(missing)}: name no other columns in `invalidates(...)({each.name})`"
                )
            tracker.after(each, values)


def _value(target: Any, column: Any) -> Any:
    """Return an object's value of a column; of one that is not loaded, by loading it."""
    return getattr(target, inspect(target).mapper.get_property_by_column(column).key)
