"""What a model says about itself: which tags and keys a row of it belongs to.

Rules:
- A class says it for itself and for the classes that inherit from it.
- Names of columns are checked when it is said, paths over relationships once all mappers are configured, which is
  before anything can be read or written.
- A class with a table of its own (concrete inheritance) says what those above it say of its own columns.
- The rows of one table may be those of several classes: all that have a say are asked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import Column, Table, event, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, RelationshipProperty
from sqlalchemy.sql.sqltypes import CHAR, NCHAR, Boolean, Integer, String

from neverstale.core.keys import check_tag
from neverstale.errors import UsageError

from .templates import Name, Template, names_of, parse

__all__ = [
    "Changed",
    "Names",
    "Path",
    "Rules",
    "invalidates",
    "rules_of_class",
    "rules_of_table",
    "secondaries_of",
    "set_late",
]

S = TypeVar("S")

_ATTRIBUTE: Final = "__neverstale_rules__"
#: Types whose values are the same in an object as the database gives them back. Others are read again after the flush:
#: a Decimal gets its scale there, a TypeDecorator may write something else than it was given.
_PLAIN: Final = (int, str, bool)

_declared: weakref.WeakSet[Rules] = weakref.WeakSet()
#: Found once for each class; forgotten when something more is said.
_known: weakref.WeakKeyDictionary[Mapper[Any], tuple[Rules, ...]] = weakref.WeakKeyDictionary()
_secondaries: weakref.WeakKeyDictionary[
    Mapper[Any], tuple[tuple[RelationshipProperty[Any], tuple[Rules, ...]], ...]
] = weakref.WeakKeyDictionary()
_late: weakref.WeakKeyDictionary[Mapper[Any], bool] = weakref.WeakKeyDictionary()


#: Columns that an UPDATE sets, by name; None where a row comes or goes, or where they are not known.
Changed: TypeAlias = "frozenset[str] | None"


class _Said(NamedTuple):
    """One thing that is said of a model.

    Attributes:
        name: a template, or a function of the row.
        only: columns; an UPDATE that sets none of them does not concern it.
    """

    name: Template | Callable[[Any], Any]
    only: frozenset[str]


class Names(NamedTuple):
    """Tags and keys of a row."""

    tags: tuple[str, ...]
    keys: tuple[str, ...]


class Path:
    """A way over relationships, from a row to others.

    Attributes:
        local: columns of the row that lead there.
        prefix: in front of the names of the columns at the end.
        hops: the mappers that it goes over, and the relationship that leads on from each.
        remote: columns of the first of them that equal `local`.
        target: columns that are wanted of the last.
    """

    def __init__(self, mapper: Mapper[Any], names: tuple[str, ...], text: str) -> None:
        self.prefix = ".".join(names)
        self.target: tuple[str, ...] = ()
        self.hops: list[tuple[Mapper[Any], str | None]] = []
        here = mapper
        for index, name in enumerate(names):
            hop = here.relationships.get(name)
            if hop is None:
                raise UsageError(f"{text!r}: {here.class_.__name__} has no relationship {name!r}")
            if index == 0:
                self.local, self.remote = _ends(here, hop, text)
            else:
                self.hops[-1] = (here, name)
            here = hop.mapper
            self.hops.append((here, None))

    def want(self, columns: tuple[str, ...], text: str) -> None:
        """Read these columns at the end, too."""
        end = self.hops[-1][0]
        for column in columns:
            if column not in end.columns:
                raise UsageError(f"{text!r}: {end.class_.__name__} has no column {column!r}")
        self.target = tuple(dict.fromkeys((*self.target, *columns)))


def _ends(
    mapper: Mapper[Any], hop: RelationshipProperty[Any], text: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if hop.secondary is not None or not hop.local_remote_pairs:
        raise UsageError(
            f"{text!r} begins with {hop.key!r}, which goes over a table of its own: "
            f"say `invalidates(...)({hop.secondary})` for that table, or write a function"
        )
    local = tuple(mapper.get_property_by_column(near).key for near, _ in hop.local_remote_pairs)
    remote = tuple(hop.mapper.get_property_by_column(far).key for _, far in hop.local_remote_pairs)
    return local, remote


class Rules:
    """The tags and keys of the rows of a mapped class, or of a table without one.

    Attributes:
        subject: the class or table.
        columns: what has to be known of a row, by name, the primary key first.
        primary: the primary key's columns, by name.
        whole: a tag that every answer carries which shows any of these rows.
        paths: ways to other rows whose columns stand in names of these.
    """

    def __init__(self, subject: type[Any] | Table) -> None:
        self.subject = subject
        self.whole: tuple[str, ...] = ()
        self.paths: tuple[Path, ...] = ()
        #: Whether something is said of certain columns alone.
        self.particular = False
        self._tags: list[_Said] = []
        self._keys: list[_Said] = []
        self._ready = False
        self._again: dict[Mapper[Any], Rules] = {}
        if isinstance(subject, Table):
            self.mapper = None
            self.available: dict[str, Any] = dict(subject.columns)
            primary = list(subject.primary_key.columns) or list(subject.columns)
            self.primary = tuple(column.key for column in primary)
        else:
            self.mapper = inspect(subject)
            self.available = dict(self.mapper.columns)
            self.primary = tuple(self.mapper.get_property_by_column(c).key for c in self.mapper.primary_key)
        self.columns: tuple[str, ...] = self.primary
        _declared.add(self)

    def __repr__(self) -> str:
        return f"<Rules of {self.name}>"

    @property
    def name(self) -> str:
        """Of the class or table, for messages."""
        return self.subject.name if isinstance(self.subject, Table) else self.subject.__name__

    def add(
        self, tags: Iterable[Name], keys: Iterable[Name], whole: str | None, columns: Iterable[str]
    ) -> None:
        """Add what a model says.

        Raises:
            UsageError: a name is no template, or names a column that is not there.
        """
        for what, given in (("keys", keys), ("columns", columns)):
            if isinstance(given, str):
                raise UsageError(f"{what} is a list of strings, not one string: write [{given!r}]")
        only = frozenset(columns)
        for column in only:
            if column not in self.available:
                raise UsageError(f"columns: {self.name} has no column {column!r}")
        self._tags += [_Said(self._checked(name), only) for name in tags]
        self._keys += [_Said(self._checked(name), only) for name in keys]
        self.particular = self.particular or bool(only)
        if whole is not None:
            self.whole = (*self.whole, check_tag(whole))
        self._ready = False
        self._again.clear()

    def again(self, concrete: Mapper[Any]) -> Rules:
        """Return the same, said of a class below that has a table of its own.

        Raises:
            UsageError: that has not all the columns.
        """
        if concrete not in self._again:
            rules = Rules(concrete.class_)
            for which, all_said in (("tags", self._tags), ("keys", self._keys)):
                for name, only in all_said:
                    given = name.text if isinstance(name, Template) else name
                    rules.add(**{"tags": (), "keys": (), which: (given,)}, whole=None, columns=only)
            rules.whole = self.whole
            self._again[concrete] = rules
        return self._again[concrete]

    def _checked(self, name: Name) -> Template | Callable[[Any], Any]:
        if callable(name):
            return name
        if not isinstance(name, str):
            raise UsageError(f"{self.name}: a tag or key is a string or a function of the row, not {name!r}")
        template = parse(name)
        for column in template.columns:
            if column not in self.available:
                raise UsageError(f"{name!r}: {self.name} has no column {column!r}")
        if template.path and (self.mapper is None or not self.mapper.has_property(template.path[0])):
            raise UsageError(f"{name!r}: {self.name} has no relationship {template.path[0]!r}")
        return template

    def make_ready(self) -> None:
        """Follow the paths, which needs all mappers.

        Raises:
            UsageError: a path leads nowhere.
        """
        if self._ready:
            return
        columns, paths = list(self.primary), dict[tuple[str, ...], Path]()
        for name, _ in (*self._tags, *self._keys):
            if not isinstance(name, Template):
                columns += [key for key in self.available if not self._deferred(key)]
                continue
            columns += name.columns
            if name.path:
                assert self.mapper is not None
                if name.path not in paths:
                    paths[name.path] = Path(self.mapper, name.path, name.text)
                paths[name.path].want(name.target, name.text)
                columns += paths[name.path].local
        self.columns, self.paths = tuple(dict.fromkeys(columns)), tuple(paths.values())
        self._ready = True

    def _deferred(self, key: str) -> bool:
        return self.mapper is not None and bool(getattr(self.mapper.attrs[key], "deferred", False))

    def concerned(self, changed: Changed) -> bool:
        """Whether something that is said of certain columns alone is concerned by this change."""
        return any(
            only and (changed is None or not only.isdisjoint(changed))
            for _, only in (*self._tags, *self._keys)
        )

    @property
    def only_primary(self) -> bool:
        """Whether a row's primary key says it all."""
        return len(self.columns) == len(self.primary)

    def own(self, values: Mapping[str, Any], changed: Changed = None) -> Names:
        """Return the names that the row itself says."""
        return Names(*(tuple(self._render(said, values, changed, "")) for said in (self._tags, self._keys)))

    def beyond(self, path: Path, values: Mapping[str, Any], changed: Changed = None) -> Names:
        """Return the names that the row says by way of `path`; `values` has what is at its end, too."""
        both = (self._tags, self._keys)
        return Names(*(tuple(self._render(said, values, changed, path.prefix)) for said in both))

    @staticmethod
    def _render(
        all_said: Sequence[_Said], values: Mapping[str, Any], changed: Changed, prefix: str
    ) -> Iterable[str]:
        for name, only in all_said:
            if only and changed is not None and only.isdisjoint(changed):
                continue
            if isinstance(name, Template):
                if ".".join(name.path) == prefix:
                    yield name.render(values)
            elif not prefix:
                yield from names_of(name, values)

    def set_by_itself(self, key: str) -> bool:
        """Say whether every UPDATE sets a column."""
        column = self.available[key]
        return not isinstance(column, Column) or column.onupdate is not None

    def plain(self, key: str, value: object) -> bool:
        """Say whether an object's value is what the database has, to the letter."""
        column = self.available[key]
        if not isinstance(column, Column) or not _as_given(column.type):
            return False
        if value is None:
            return True
        try:
            kind = column.type.python_type
        except NotImplementedError:
            return False
        return kind in _PLAIN and type(value) is kind


def _as_given(type_: Any) -> bool:
    """Say whether every database keeps values of a type as they are: one of SQLAlchemy's own."""
    return (
        isinstance(type_, String | Integer | Boolean)
        and not isinstance(type_, CHAR | NCHAR)
        and type(type_).__module__.startswith("sqlalchemy.")
        and not type_._variant_mapping
    )


def invalidates(
    *tags: Name, keys: Iterable[Name] = (), whole: str | None = None, columns: Iterable[str] = ()
) -> Callable[[S], S]:
    """Say which tags and keys a row of a model belongs to. A decorator of mapped classes, to be called on tables.

    What a committed transaction changes invalidates the names of the row as it was and as it has become. Said several
    times, it adds up.

    Args:
        tags: names with columns in braces, or functions of the row that return one or several.
        keys: whole keys, their prefix in front: `api:GET:/api/products/{id}`.
        whole: a tag that *every* answer carries which shows any row of this model. It stands for all of them where a
            statement changes more rows than `follow_writes` has as its limit, or rows that cannot be known.
        columns: these names matter only where a row comes or goes, or one of these columns is set: for answers that
            show nothing else of it, such as a count by category.

    Raises:
        UsageError: a column or relationship is not there, or it is no mapped class or table.
    """

    def declare(subject: S) -> S:
        _rules(subject).add(tags, keys, whole, columns)
        _known.clear()
        _secondaries.clear()
        _late.clear()
        return subject

    return declare


def _rules(subject: Any) -> Rules:
    if isinstance(subject, Table):
        known: Rules = subject.info.get(_ATTRIBUTE) or subject.info.setdefault(_ATTRIBUTE, Rules(subject))
        return known
    try:
        found = inspect(subject)
    except NoInspectionAvailable:
        found = None
    if not isinstance(found, Mapper) or not isinstance(subject, type):
        raise UsageError(f"`invalidates` is for mapped classes and for tables, not for {subject!r}")
    if _ATTRIBUTE not in subject.__dict__:
        setattr(subject, _ATTRIBUTE, Rules(subject))
    rules: Rules = subject.__dict__[_ATTRIBUTE]
    return rules


def rules_of_class(mapper: Mapper[Any]) -> tuple[Rules, ...]:
    """Return what a class and those that it inherits from say."""
    known = _known.get(mapper)
    if known is None:
        known = _known[mapper] = _ready(_said_of(mapper))
    return known


def _said_of(mapper: Mapper[Any]) -> Iterable[Rules]:
    concrete: Mapper[Any] | None = None
    for each in mapper.iterate_to_root():
        rules: Rules | None = each.class_.__dict__.get(_ATTRIBUTE)
        if rules is not None:
            yield rules if concrete is None else rules.again(concrete)
        if each.concrete and concrete is None:
            concrete = each


def rules_of_table(table: Table) -> tuple[Rules, ...]:
    """Return all that is said about rows of a table, by whatever class."""
    found: dict[Rules, None] = {}
    for rules in list(_declared):
        if rules.mapper is None:
            found |= {rules: None} if rules.subject is table else {}
        else:
            for mapper in rules.mapper.self_and_descendants:
                if any(table is each for each in mapper.tables):
                    found |= dict.fromkeys(rules_of_class(mapper))
    return _ready(found)


def secondaries_of(mapper: Mapper[Any]) -> tuple[tuple[RelationshipProperty[Any], tuple[Rules, ...]], ...]:
    """Return the many-to-many relationships of a class whose tables have something said about them."""
    known = _secondaries.get(mapper)
    if known is None:
        known = _secondaries[mapper] = tuple(
            (relationship, rules)
            for relationship in mapper.relationships
            if isinstance(relationship.secondary, Table)
            and not relationship.viewonly
            and (rules := rules_of_table(relationship.secondary))
        )
    return known


def set_late(mapper: Mapper[Any]) -> bool:
    """Say whether a flush may set columns: a listener of the application does, or `post_update`."""
    if len(mapper.dispatch.before_update) > 1:  # the one is ours
        return True
    known = _late.get(mapper)
    if known is None:
        known = _late[mapper] = any(
            relationship.post_update and mapper in (relationship.parent, relationship.mapper)
            for each in mapper.registry.mappers
            for relationship in each.relationships
        )
    return known


def _ready(rules: Iterable[Rules]) -> tuple[Rules, ...]:
    """What is said after all mappers were configured, and what tables say, becomes ready here."""
    found = tuple(rules)
    for each in found:
        each.make_ready()
    return found


@event.listens_for(Mapper, "after_configured")
def _all_configured() -> None:
    _known.clear()
    _secondaries.clear()
    _late.clear()
    for rules in list(_declared):
        rules.make_ready()
        for mapper in rules.mapper.self_and_descendants if rules.mapper is not None else ():
            rules_of_class(mapper)
