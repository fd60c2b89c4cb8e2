"""Reading the rows that are about to change, or have changed, inside the transaction that changes them.

Straight on the connection, not through the session: criteria that an application adds to all its reads, to hide what is
marked as deleted for example, must not hide a row from us, and no object is to be loaded or refreshed by this.

A row is locked before it is changed, as its UPDATE would do a moment later. So what is read is what the statement
meets, also where the session's own object is older than that. Databases without row locks (SQLite) have one writer at
a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Table,
    Uuid,
    and_,
    bindparam,
    false,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Mapper, Session, with_polymorphic
from sqlalchemy.sql.elements import Grouping

from .rules import Path, Rules

__all__ = ["Key", "Lock", "Values", "among", "autocommits", "ends", "left", "locked", "on", "read", "tables"]

Key: TypeAlias = "tuple[Any, ...]"
Values: TypeAlias = "dict[str, Any]"
#: What happens to the rows next: nothing, an UPDATE, a DELETE.
Lock: TypeAlias = 'Literal["", "update", "delete"]'

#: Keys in one statement: SQLite once took 999 parameters, and a server's planner need not see thousands.
_CHUNK: Final = 500
_GROUP: Final = 100


class _Apart(Grouping[bool]):
    """Parentheses that SQLAlchemy does not take for superfluous, as it does where an OR stands in an OR."""

    operator = None
    inherit_cache = True


def on(session: Session, rules: Rules) -> Connection:
    """Return the connection on which the rows of `rules` are written in this transaction."""
    return _writing(session, rules.mapper, rules.mapper.local_table if rules.mapper else rules.subject)


def _writing(session: Session, mapper: Mapper[Any] | None, table: Any) -> Connection:
    # A session that reads from replicas decides by the statement: a replica does not have what has just been written.
    bind: dict[str, Any] = {} if mapper is None else {"mapper": mapper}
    if isinstance(table, Table):
        bind["clause"] = update(table)
    return session.connection(bind_arguments=bind)


def autocommits(connection: Connection) -> bool:
    """Say whether a connection is in AUTOCOMMIT, without asking the database."""
    if connection._is_autocommit_isolation():
        return True
    # Set past SQLAlchemy, on the driver's connection. Some of MySQL's have a method of this name, some ask the server.
    raw = None if connection.dialect.name in ("mysql", "mariadb") else connection.connection.dbapi_connection
    return getattr(raw, "autocommit", None) is True


def left(connection: Connection) -> bool:
    """Say whether SQLite is in no transaction: its driver begins none for a savepoint, whose release then commits."""
    if connection.dialect.name != "sqlite" or connection.invalidated:
        return False
    raw: Any = connection.connection.driver_connection
    return not raw.in_transaction


def among(
    columns: Sequence[Any], keys: Sequence[Key], parameters: int = _CHUNK, *, once: bool = True
) -> ColumnElement[bool]:
    """Return the criterion that the columns have one of these values.

    Args:
        parameters: above so many keys, numbers and UUIDs are written into the statement, and keys of several columns
            need a database that compares rows, as all but SQL Server do.
        once: whether the statement is executed once, and not with a list of parameters, which goes with no IN.
    """
    within = [
        key for key in keys if None not in key
    ]  # IN finds no NULL, which there is in tables without a key
    many = len(keys) > parameters
    literal = many and all(isinstance(column.type, Integer | Uuid) for column in columns)
    found: list[ColumnElement[bool]] = []
    if once and (len(columns) == 1 or (within and many)):
        row = columns[0] if len(columns) == 1 else tuple_(*columns)
        values = [key[0] for key in within] if len(columns) == 1 else within
        given = bindparam(None, values, type_=row.type, expanding=True, literal_execute=literal)
        found.append(row.in_(given))
        keys = [key for key in keys if None in key]
    each = [and_(*(column == value for column, value in zip(columns, key, strict=True))) for key in keys]
    # In groups, for SQLite nests what stands in a row, a thousand deep at most.
    found += (_Apart(or_(*each[at : at + _GROUP])) for at in range(0, len(each), _GROUP))
    return or_(false(), *found)


def locked(query: Any, lock: Lock, of: Any) -> Any:
    """Lock what a SELECT reads, as strongly as the statement that comes will."""
    if not lock:
        return query
    # An UPDATE that leaves the key alone takes the weaker lock, which lets others insert rows that refer to this one.
    return query.with_for_update(key_share=lock == "update", of=of)


def tables(mapper: Mapper[Any] | None, table: Any) -> Any:
    """Return what is locked of a class: its own tables, not those of subclasses that its SELECTs join as well."""
    return table if mapper is None else list(mapper.tables)


def read(connection: Connection, rules: Rules, keys: Iterable[Key], lock: Lock = "") -> Iterator[Values]:
    """Read by primary key what `rules` has to know of rows; those that are gone are left out."""
    # The class itself, not all that SQLAlchemy would read with it.
    subject: Any = rules.subject
    if rules.mapper is not None and rules.mapper.with_polymorphic:
        subject = with_polymorphic(rules.mapper, [rules.mapper.class_])
    columns = [
        (subject.columns[name] if isinstance(subject, Table) else getattr(subject, name)).label(f"c{index}")
        for index, name in enumerate(rules.columns)
    ]
    primary = [
        subject.columns[name] if isinstance(subject, Table) else getattr(subject, name)
        for name in rules.primary
    ]
    # In order, as flushes write: two transactions that lock the same rows do not wait for each other in a circle.
    wanted = _ordered(keys)
    for at in range(0, len(wanted), _CHUNK):
        chunk = wanted[at : at + _CHUNK]
        query = select(*columns).select_from(subject).where(among(primary, chunk))
        if lock:
            query = locked(query.order_by(*primary), lock, tables(rules.mapper, subject))
        for row in connection.execute(query):
            yield dict(zip(rules.columns, row, strict=True))


def ends(session: Session, path: Path, keys: Iterable[Key], *, lock: bool) -> dict[Key, list[Values]]:
    """Read what is at the end of a path, by the values of the columns that lead there.

    Args:
        lock: hold the rows on the way as they are until the commit, which follows at once. Without this, one that
            another transaction moves at this moment would be named as it was.
    """
    wanted = _ordered({key for key in keys if None not in key})
    found: dict[Key, list[Values]] = {}
    if not wanted:
        return found
    # Without subclasses that their SELECTs join from outside: PostgreSQL locks no such row, and none is needed.
    entities = [with_polymorphic(mapper, [mapper.class_], aliased=True, flat=True) for mapper, _ in path.hops]
    first, last = entities[0], entities[-1]
    remote = [getattr(first, name) for name in path.remote]
    columns = [*remote, *(getattr(last, name) for name in path.target)]
    connection = _writing(session, path.hops[0][0], path.hops[0][0].local_table)
    for at in range(0, len(wanted), _CHUNK):
        query = select(*(column.label(f"c{index}") for index, column in enumerate(columns))).select_from(
            first
        )
        for index, (_, hop) in enumerate(path.hops[:-1]):
            assert hop is not None
            query = query.join(getattr(entities[index], hop).of_type(entities[index + 1]))
        query = query.where(among(remote, wanted[at : at + _CHUNK]))
        if lock:
            query = query.order_by(*remote).with_for_update(read=True, of=entities)
        for row in connection.execute(query):
            values = tuple(row)
            key, rest = values[: len(remote)], values[len(remote) :]
            named = {f"{path.prefix}.{name}": value for name, value in zip(path.target, rest, strict=True)}
            found.setdefault(key, []).append(named)
    return found


def _column(subject: Any, name: str) -> Any:
    return subject.columns[name] if isinstance(subject, Table) else getattr(subject, name)


def _ordered(keys: Iterable[Key]) -> list[Key]:
    distinct = list(dict.fromkeys(keys))
    try:
        return sorted(distinct)
    except TypeError:  # of types that have no order: then as they come
        return distinct
