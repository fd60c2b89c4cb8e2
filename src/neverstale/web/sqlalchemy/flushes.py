"""What flushes write: objects, and the rows of many-to-many tables.

What a flush will write is seen beforehand as far as it is known, and read in one go. The rest, orphans and children
whose foreign key is emptied, comes to light while the flush runs, and is read one by one.

History says which objects change, never what they were: an object may have been loaded before another transaction
changed its row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState, Mapper, RelationshipProperty

from neverstale.errors import UsageError

from .pending import Tracker
from .rows import Key, Lock, Values
from .rules import Changed, Rules, rules_of_class, secondaries_of, set_late

__all__ = ["deleting", "flushed", "foresee", "inserting", "updating"]


def foresee(tracker: Tracker) -> None:
    """Before a flush: read the rows that it is known to change or delete."""
    tracker.forget_flush()
    session = tracker.session
    if tracker.autocommit:
        _collections(tracker)
    coming: dict[tuple[Rules, Lock], list[Key]] = {}
    for target in session.dirty:
        state: InstanceState[Any] = inspect(target)
        rules = rules_of_class(state.mapper)
        if rules and (session.is_modified(target, include_collections=False) or set_late(state.mapper)):
            tracker.foreseen.add(state)
            _expect(coming, rules, state, "update")
    for target in session.deleted:
        state = inspect(target)
        _expect(coming, rules_of_class(state.mapper), state, "delete")
    for (rule, lock), keys in coming.items():
        # Which columns an UPDATE sets is known for certain only when it comes, relationships followed.
        tracker.before(rule, keys, lock, None if lock == "delete" else frozenset())


def _expect(
    coming: dict[tuple[Rules, Lock], list[Key]], rules: Iterable[Rules], state: InstanceState[Any], lock: Lock
) -> None:
    if state.identity is not None:
        for each in rules:
            coming.setdefault((each, lock), []).append(tuple(state.identity))


def inserting(tracker: Tracker, mapper: Mapper[Any], target: Any) -> None:
    """Before the INSERT of an object; or the UPDATE, where it takes the place of one deleted under its key."""
    if rules_of_class(mapper):
        state: InstanceState[Any] = inspect(target)
        tracker.written[state] = None
        if tracker.autocommit:
            _become(tracker, state, None)


def updating(tracker: Tracker, mapper: Mapper[Any], target: Any) -> None:
    """Before the UPDATE of an object, which there is only if something has changed."""
    state: InstanceState[Any] = inspect(target)
    rules = rules_of_class(mapper)
    if not rules or (
        state not in tracker.foreseen
        and not tracker.session.is_modified(target, include_collections=False)
        and not set_late(mapper)
    ):
        return
    changed = tracker.written[state] = _changed(state)
    if state not in tracker.foreseen or any(each.particular for each in rules):
        _one(tracker, state, "update", changed)
    if tracker.autocommit:
        _become(tracker, state, changed)


def deleting(tracker: Tracker, mapper: Mapper[Any], target: Any) -> None:
    """Before the DELETE of an object."""
    state: InstanceState[Any] = inspect(target)
    if secondaries_of(mapper):
        tracker.deleted.add(state)
    _one(tracker, state, "delete", None)


def _one(tracker: Tracker, state: InstanceState[Any], lock: Lock, changed: Changed) -> None:
    if state.identity is not None:
        for rules in rules_of_class(state.mapper):
            tracker.before(rules, (tuple(state.identity),), lock, changed)


def _changed(state: InstanceState[Any]) -> frozenset[str]:
    columns = state.mapper.column_attrs
    return frozenset(
        key for key in state.committed_state if key in columns and state.attrs[key].history.has_changes()
    )


def _become(tracker: Tracker, state: InstanceState[Any], changed: Changed) -> None:
    """Note what a row becomes.

    Once it has been flushed; in AUTOCOMMIT before, too, as far as its object knows, for the flush may fail half-way.
    """
    key = tuple(state.mapper.primary_key_from_instance(state.obj()))
    for each in rules_of_class(state.mapper):
        if state.identity is None:
            tracker.new(each, key)
        was = None if state.identity is None else tracker.now(each, tuple(state.identity))
        values = _values(state, each, changed, was)
        if values is not None:
            tracker.becomes(each, key, values, changed)
        else:
            tracker.later(each, (key,), changed)


def _values(state: InstanceState[Any], rules: Rules, changed: Changed, was: Values | None) -> Values | None:
    """Return what a row has become, or None if its object does not know for certain.

    What was not set is as it was in the database, whatever the object believes.
    """
    values: Values = {}
    for name in rules.columns:
        if name not in state.dict:
            return None  # made by the database
        if changed is None or name in changed or rules.set_by_itself(name):
            if not rules.plain(name, state.dict[name]):
                return None  # the database may make something else of it
            values[name] = state.dict[name]
        elif was is None:
            return None
        else:
            values[name] = was[name]
    return values


def flushed(tracker: Tracker) -> None:
    """After a flush: note what its objects have become, and the rows of many-to-many tables."""
    for state, changed in tracker.written.items():
        if changed is not None:
            more = _changed(state) - changed  # set since: by a listener of the application, by `post_update`
            changed |= more
            if more:
                _one(tracker, state, "update", changed)
        _become(tracker, state, changed)
    _collections(tracker)


def _collections(tracker: Tracker) -> None:
    """Note the rows of many-to-many tables that come and go."""
    session = tracker.session
    # By their states: an object may have an equality of its own, and no hash.
    touched = {inspect(target): False for kept in (session.new, session.dirty) for target in kept}
    touched |= {inspect(target): True for target in session.deleted} | dict.fromkeys(tracker.deleted, True)
    for state, gone in touched.items():
        for relationship, rules in secondaries_of(state.mapper):
            _associations(tracker, state.obj(), relationship, rules, gone=gone)


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
        for each in rules:
            values: Values = {_name(each, far): _value(owner, near) for owner, near, far in pairs}
            missing = [name for name in each.columns if name not in values]
            if missing and set(missing) - set(each.primary):
                raise UsageError(
                    f"{each.name} is written by the relationship {relationship}, which knows its foreign keys only, "
                    f"not {', '.join(missing)}: name no other columns in `invalidates(...)({each.name})`"
                )
            tracker.after(each, values)


def _name(rules: Rules, column: Any) -> str:
    return str(column.key if rules.mapper is None else rules.mapper.get_property_by_column(column).key)


def _value(target: Any, column: Any) -> Any:
    """Return an object's value of a column; of one that is not loaded, by loading it."""
    return getattr(target, inspect(target).mapper.get_property_by_column(column).key)
