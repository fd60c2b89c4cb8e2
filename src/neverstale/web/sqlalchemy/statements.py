"""INSERT, UPDATE and DELETE that go through `Session.execute`.

An UPDATE or DELETE: the rows that its WHERE finds are read and locked first, and the statement is held to them, so that
it changes no row that came to fit its WHERE in between. Their new state is read before the commit.

An INSERT: its rows' primary keys come back by RETURNING, which the caller does not notice.

What cannot be known beforehand is what the tag for all rows (`whole`) is for; without one, the statement is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Delete, Insert, Result, Table, Update, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import FromStatement, Mapper, ORMExecuteState
from sqlalchemy.sql import visitors

from neverstale.errors import UsageError

from .pending import Tracker
from .rows import Key, Lock, among, locked, tables
from .rules import Changed, Rules, rules_of_class, rules_of_table

__all__ = ["OPTION", "executing"]

#: Execution option: `False` leaves a statement to the caller, who says by `touch` what it changes.
OPTION = "neverstale"
#: Keys that a statement is held to as parameters: databases take only so many of these (SQL Server 2100).
_PARAMETERS = 1000


def executing(tracker: Tracker, state: ORMExecuteState) -> Result[Any] | None:
    """Follow a statement; returns the result where it had to be executed here."""
    statement = state.statement
    if isinstance(statement, FromStatement) and isinstance(statement.element, Insert | Update | Delete):
        for written in _written_in(statement):
            _unseen(tracker, state, written)
        return None
    if not isinstance(statement, Insert | Update | Delete) or state.execution_options.get(OPTION) is False:
        return None
    inner = [written for written in _written_in(statement) if written is not statement]
    for written in inner:
        _unseen(tracker, state, written)
    table, mapper = _subject(statement)
    if table is None:
        return None
    if inner and not isinstance(statement, Insert):
        _unseen(tracker, state, statement)  # to look for its rows would write what is written inside
        return None
    rules = _all_rules(table, mapper)
    if not rules:
        return None
    # It begins the transaction to which the statement will belong.
    state.session.connection(bind_arguments=state.bind_arguments)
    if isinstance(statement, Insert):
        return _insert(tracker, state, statement, rules, table, mapper)
    _change(tracker, state, statement, rules, table, mapper)
    return None


def _written_in(statement: Any) -> list[Insert | Update | Delete]:
    """Return the writing statements that a statement consists of: itself, and CTEs."""
    return [each for each in visitors.iterate(statement) if isinstance(each, Insert | Update | Delete)]


def _unseen(tracker: Tracker, state: ORMExecuteState, written: Insert | Update | Delete) -> None:
    """Name all rows of a table that is written inside of another statement, where it cannot be held to what is seen."""
    table, mapper = _subject(written)
    if table is not None and state.execution_options.get(OPTION) is not False:
        rules = _all_rules(table, mapper)
        if rules:
            state.session.connection(bind_arguments=state.bind_arguments)
            _coarse(tracker, rules, "a statement inside of another")


def _all_rules(table: Table, mapper: Mapper[Any] | None) -> tuple[Rules, ...]:
    of_class = rules_of_class(mapper) if mapper is not None else ()
    return tuple(dict.fromkeys((*rules_of_table(table), *of_class)))


def _subject(statement: Insert | Update | Delete) -> tuple[Table | None, Mapper[Any] | None]:
    described = statement.entity_description
    table, entity = described.get("table"), described.get("entity")
    mapper = None if entity is None else statement._propagate_attrs["plugin_subject"].mapper
    if mapper is not None:
        table = mapper.local_table
    return (table if isinstance(table, Table) else None), mapper


def _coarse(tracker: Tracker, rules: Sequence[Rules], what: str) -> None:
    """Put the tags for all rows in the place of what is not known.

    Raises:
        UsageError: a model has none.
    """
    for each in rules:
        if not each.whole:
            raise UsageError(
                f"which rows of {each.name} {what} changes cannot be known: name a tag for all of them, "
                f"`invalidates(..., whole=...)`, or say it by `touch` and execute the statement with "
                f"execution_options({OPTION}=False)"
            )
    for each in rules:
        tracker.level.tags |= dict.fromkeys(each.whole)


# --- UPDATE, DELETE ------------------------------------------------------------------------------------------------


def _change(
    tracker: Tracker,
    state: ORMExecuteState,
    statement: Update | Delete,
    rules: tuple[Rules, ...],
    table: Table,
    mapper: Mapper[Any] | None,
) -> None:
    session = tracker.session
    # As the statement itself is about to: what is still to be flushed belongs to what it finds.
    session._autoflush()
    lock: Lock = "delete" if isinstance(statement, Delete) else "update"
    primary: list[Any] = list(table.primary_key.columns) or list(table.columns)
    if mapper is not None:
        primary = [getattr(mapper.class_, mapper.get_property_by_column(column).key) for column in primary]
    if (
        isinstance(statement, Update)
        and _sets(statement, state.parameters, primary)
        and _by_where(state, mapper)
    ):
        _coarse(tracker, rules, "an UPDATE of primary keys")
        return
    many = isinstance(state.parameters, list | tuple)
    if many and not _by_where(state, mapper):
        names = [column.key for column in primary]
        keys = [tuple(row[name] for name in names) for row in state.parameters or ()]
    else:
        query = select(*(column.label(f"c{at}") for at, column in enumerate(primary)))
        # Without a WHERE the columns of a joined class would not say where from.
        query = query.select_from(mapper.class_ if mapper is not None else table)
        if statement.whereclause is not None:
            query = query.where(statement.whereclause)
        can_be_whole = all(each.whole for each in rules)
        if can_be_whole:
            query = query.limit(tracker.limit + 1)
        query = locked(query, lock, tables(mapper, table))
        connection = session.connection(bind_arguments=state.bind_arguments)
        sets: Any = state.parameters if many else [state.parameters or {}]
        found = (tuple(row) for each in sets for row in connection.execute(query, each))
        keys = list(dict.fromkeys(found))
        if can_be_whole and len(keys) > tracker.limit:
            _coarse(tracker, rules, "the statement")
            return
        if many and len(keys) > _PARAMETERS:
            _coarse(tracker, rules, "a list of parameters for so many rows")
            return
        state.statement = statement.where(among(primary, keys, _PARAMETERS, once=not many))
    for each in rules:
        changed = _changed(statement, state.parameters, table, each)
        tracker.before(each, keys, lock, changed)
        if isinstance(statement, Update) and not each.only_primary:
            tracker.later(each, keys, changed)


def _by_where(state: ORMExecuteState, mapper: Mapper[Any] | None) -> bool:
    """Say whether a statement finds its rows by its WHERE, and not by primary keys among its parameters."""
    return mapper is None or not state.is_update or state.update_delete_options._dml_strategy != "bulk"


def _given(statement: Update, parameters: Any) -> set[Any]:
    """Return what an UPDATE sets: columns, or names of them."""
    # SQLAlchemy 2.0 keeps the values of `ordered_values` apart.
    given = {
        *(statement._values or ()),
        *(key for key, _ in getattr(statement, "_ordered_values", None) or ()),
    }
    for row in parameters if isinstance(parameters, list | tuple) else [parameters or {}]:
        given.update(row)
    return given


def _sets(statement: Update, parameters: Any, columns: Sequence[Any]) -> bool:
    """Say whether an UPDATE sets one of these columns."""
    names = {name for column in columns for name in (column.key, column.expression.key)}
    return any(
        (name if isinstance(name, str) else name.key) in names for name in _given(statement, parameters)
    )


def _changed(statement: Update | Delete, parameters: Any, table: Table, rules: Rules) -> Changed:
    """Return the columns that a statement sets, as `rules` call them."""
    if isinstance(statement, Delete) or not rules.particular:
        return None
    names = set[str]()
    for given in _given(statement, parameters):
        name = given if isinstance(given, str) else given.key
        names.add(name)
        if name not in table.columns and (rules.mapper is None or name not in rules.mapper.columns):
            return None  # a synonym, or a parameter of the WHERE: nothing is certain
        column = table.columns.get(name)
        if column is not None and rules.mapper is not None and column in rules.mapper.columns.values():
            names.add(rules.mapper.get_property_by_column(column).key)
    return frozenset(names)


# --- INSERT --------------------------------------------------------------------------------------------------------


def _insert(
    tracker: Tracker,
    state: ORMExecuteState,
    statement: Insert,
    rules: tuple[Rules, ...],
    table: Table,
    mapper: Mapper[Any] | None,
) -> Result[Any] | None:
    session = tracker.session
    replaces = any(
        "IGNORE" not in str(prefix).upper() for prefix, _ in statement._prefixes
    )  # INSERT OR REPLACE
    if statement._post_values_clause is not None or replaces:
        # Which rows there were, and what they said, the statement itself does not tell.
        _coarse(tracker, rules, "an upsert")
        return None
    primary: list[Any] = list(table.primary_key.columns)
    if mapper is not None:
        primary = [getattr(mapper.class_, mapper.get_property_by_column(column).key) for column in primary]
    many = isinstance(state.parameters, list | tuple)
    if not primary:
        _by_parameters(tracker, state, statement, rules)
        return None
    dialect = session.get_bind(**state.bind_arguments).dialect
    if not dialect.insert_returning:
        if many or statement.select is not None or statement._multi_values or statement._returning:
            _coarse(tracker, rules, "an INSERT of several rows into this database")
            return None
    elif statement._returning:
        return _returning(tracker, state, statement, rules, primary)
    elif many or statement.select is not None or statement._multi_values:
        result: Result[Any] = state.invoke_statement(statement.returning(*primary))
        _inserted(tracker, rules, [tuple(row) for row in result.all()])
        return result
    result = state.invoke_statement()
    key = result.inserted_primary_key if isinstance(result, CursorResult) else None
    if key is None or None in tuple(key):
        _coarse(tracker, rules, "this INSERT")
    else:
        _inserted(tracker, rules, [tuple(key)])
    return result


def _returning(
    tracker: Tracker, state: ORMExecuteState, statement: Insert, rules: tuple[Rules, ...], primary: list[Any]
) -> Result[Any]:
    """Execute an INSERT whose RETURNING is the caller's: with the primary key behind, which is cut off again."""
    result: Result[Any] = state.invoke_statement(statement.returning(*primary))
    width = len(tuple(result.keys())) - len(primary)
    kept = result.freeze()
    _inserted(tracker, rules, [tuple(row)[width:] for row in kept().all()])
    return kept().columns(*range(width))


def _inserted(tracker: Tracker, rules: Sequence[Rules], keys: list[Key]) -> None:
    for each in rules:
        for key in keys:
            tracker.new(each, key)
        if each.only_primary and not each.paths:
            for key in keys:
                tracker.after(each, dict(zip(each.primary, key, strict=True)))
        else:
            tracker.later(each, keys)


def _by_parameters(
    tracker: Tracker, state: ORMExecuteState, statement: Insert, rules: Sequence[Rules]
) -> None:
    """Note the rows of a table without a primary key, by the values that are given."""
    given: Any = state.parameters if isinstance(state.parameters, list | tuple) else [state.parameters or {}]
    fixed: dict[str, Any] = {}
    for name, value in (statement._values or {}).items():
        fixed[name if isinstance(name, str) else name.key] = getattr(value, "value", None)
    for each in rules:
        for row in given:
            values = fixed | dict(row)
            if statement.select is not None or statement._multi_values or set(each.columns) - set(values):
                _coarse(tracker, [each], "this INSERT")
                break
            tracker.after(each, values)
