"""Models of all kinds: inheritance, types that the database writes otherwise, several databases, no primary key."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    Numeric,
    String,
    Table,
    TypeDecorator,
    create_engine,
    delete,
    update,
)
from sqlalchemy import insert as insert_into
from sqlalchemy.ext.declarative import ConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    configure_mappers,
    mapped_column,
    relationship,
)
from sqlalchemy.pool import StaticPool

from neverstale import Cache, UsageError
from neverstale.events import InvalidationEvent
from neverstale.testing.servers import RedisServer
from neverstale.web.sqlalchemy import follow_writes, invalidates


class Lower(TypeDecorator[str]):
    """Text that is stored in small letters."""

    impl = String(50)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value.lower()


class Colour(enum.Enum):
    RED = "red"


class Base(DeclarativeBase):
    pass


@invalidates("email:{email}", "price:{price}", "day:{day:%Y-%m}", "colour:{colour}")
class Typed(Base):
    __tablename__ = "typed"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(Lower)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    day: Mapped[dt.date]
    colour: Mapped[Colour]


@invalidates("person:{id}", "name:{name}")
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(default="person")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


@invalidates("team:{team}")
class Manager(Person):
    __tablename__ = "managers"
    id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    team: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


@invalidates("temp:{name}")
class Temporary(Person):
    __mapper_args__ = {"polymorphic_identity": "temporary"}  # noqa: RUF012


@invalidates("pair:{a}:{b}", "text:{text}", "both:{b}:{text}:{more}")
class Pair(MappedAsDataclass, Base):
    __tablename__ = "pairs"
    a: Mapped[int] = mapped_column(primary_key=True)
    b: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    more: Mapped[int] = mapped_column(default=0)


@invalidates("node:{id}", "above:{parent.id}", "top:{parent.parent.id}", "below:{children.id}")
class Node(Base):
    __tablename__ = "nodes"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id"))
    name: Mapped[str] = mapped_column(default="")
    parent: Mapped[Node | None] = relationship(remote_side="Node.id", back_populates="children")
    children: Mapped[list[Node]] = relationship(back_populates="parent")


@invalidates("ship:{id}", lambda row: f"called:{row.name}", keys=["api:ships:{name}"], columns=["name"])
class Ship(Base):
    __tablename__ = "ships"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@invalidates("sails:{sails}")
class Sailer(Ship):
    __tablename__ = "sailers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    sails: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"concrete": True}  # noqa: RUF012


class Yacht(Sailer):
    __tablename__ = "yachts"
    id: Mapped[int] = mapped_column(ForeignKey("sailers.id"), primary_key=True)
    owner: Mapped[str]


@invalidates("plant:{name}")
class Plant(ConcreteBase, Base):
    __tablename__ = "plants"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "plant"}  # noqa: RUF012


class Tree(Plant):
    __tablename__ = "trees"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    __mapper_args__ = {"concrete": True, "polymorphic_identity": "tree"}  # noqa: RUF012


log = Table("log", Base.metadata, Column("subject", Integer), Column("word", String(20)))
invalidates("log:{subject}")(log)


class Elsewhere(DeclarativeBase):
    pass


@invalidates("elsewhere:{name}")
class Other(Elsewhere):
    __tablename__ = "others"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def told(redis_server: RedisServer) -> Iterator[Callable[..., set[str]]]:
    """A function that does something in a transaction and returns what was invalidated."""
    engines = [create_engine("sqlite://", poolclass=StaticPool) for _ in range(2)]
    Base.metadata.create_all(engines[0])
    Elsewhere.metadata.create_all(engines[1])
    events: list[InvalidationEvent] = []

    class Followed(Session):
        pass

    with Cache.from_url(redis_server.url, timeout=10.0, patient_timeout=10.0) as cache:
        cache.events.subscribe(events.append, InvalidationEvent)
        following = follow_writes(Followed, cache)

        def write(*works: Callable[[Session], Any]) -> set[str]:
            for work in works:
                events.clear()
                with (
                    Followed(binds={Base: engines[0], log: engines[0], Elsewhere: engines[1]}) as session,
                    session.begin(),
                ):
                    work(session)
            return {name for event in events for name in event.names}

        yield write
        following.detach()
    for engine in engines:
        engine.dispose()


def test_names_are_those_of_the_database(told: Callable[..., set[str]]) -> None:
    """Not those of the object that wrote it: a reader has them from there."""
    values: dict[str, Any] = {
        "email": "A@B",
        "price": Decimal(3),
        "day": dt.date(2026, 2, 3),
        "colour": Colour.RED,
    }
    expected = {"email:a@b", "price:3.00", "day:2026-02", "colour:Colour.RED"}
    assert told(lambda session: session.add(Typed(**values))) == expected
    assert told(lambda session: session.execute(insert_into(Typed).values(**values))) == expected

    def change(session: Session) -> None:
        session.get_one(Typed, 1).email = "C@D"

    assert told(change) == expected | {"email:c@d"}


def test_joined_inheritance(told: Callable[..., set[str]]) -> None:
    """What is said of the class above holds for its rows in both tables, objects and statements alike."""
    assert told(lambda session: session.add(Manager(id=1, name="Ann", team="x"))) == {
        "person:1",
        "name:Ann",
        "team:x",
    }
    assert told(lambda session: setattr(session.get(Manager, 1), "team", "y")) >= {"team:x", "team:y"}
    assert told(lambda session: session.execute(update(Manager).values(team="z"))) == {
        "person:1",
        "name:Ann",
        "team:y",
        "team:z",
    }
    assert told(lambda session: session.execute(update(Person).values(name="Bea"))) == {
        "person:1",
        "name:Ann",
        "name:Bea",
        "team:z",
    }
    assert told(lambda session: session.delete(session.get_one(Person, 1))) == {
        "person:1",
        "name:Bea",
        "team:z",
    }


def test_single_table_inheritance(told: Callable[..., set[str]]) -> None:
    """What is said of a class concerns its own rows only, also of a statement for all."""
    told(lambda session: session.add_all([Temporary(id=1, name="Tim"), Person(id=2, name="Pia")]))
    assert told(lambda session: session.execute(update(Person).values(kind=Person.kind))) == {
        "person:1",
        "person:2",
        "name:Tim",
        "name:Pia",
        "temp:Tim",
    }
    assert told(lambda session: session.execute(delete(Temporary))) == {"person:1", "name:Tim", "temp:Tim"}


def test_concrete_inheritance(told: Callable[..., set[str]]) -> None:
    """Each class has a table of its own, with rows of its own under the same keys."""
    told(lambda session: session.add_all([Ship(id=1, name="a"), Sailer(id=1, name="b")]))
    told(lambda session: session.add(Yacht(id=2, name="c", owner="o")))

    def names(*ships: str) -> set[str]:
        return {f"{kind}:{ship}" for ship in ships for kind in ("called", "api:ships")}

    assert told(lambda session: setattr(session.get_one(Sailer, 1), "name", "d")) == {
        "ship:1",
        "sails:1",
        *names("b", "d"),
    }
    assert told(lambda session: setattr(session.get_one(Sailer, 1), "sails", 2)) == {"sails:1", "sails:2"}
    yacht = {"ship:2", "sails:1", *names("c", "e")}
    assert told(lambda session: setattr(session.get_one(Yacht, 2), "name", "e")) == yacht
    table: Any = Sailer.__table__
    for given in (update(Sailer), update(table)):
        assert told(
            lambda session, given=given: session.execute(
                given.where(table.c.id == 1).values(name="f"), bind_arguments={"mapper": Sailer}
            )
        ) >= {"ship:1", "sails:2", *names("f")}
    assert told(lambda session: session.execute(update(Ship).values(name="g"))) == {
        "ship:1",
        *names("a", "g"),
    }
    assert told(lambda session: session.delete(session.get_one(Ship, 1))) == {"ship:1", *names("g")}
    assert told(lambda session: session.execute(delete(Sailer).where(Sailer.id == 1))) == {
        "ship:1",
        "sails:2",
        *names("f"),
    }


def test_concrete_classes_that_are_read_together(told: Callable[..., set[str]]) -> None:
    """A row is looked for in the table of its own class."""
    told(lambda session: session.add_all([Plant(id=9, name="a"), Tree(id=1, name="b"), Tree(id=2, name="c")]))
    assert told(lambda session: setattr(session.get_one(Tree, 1), "name", "d")) == {"plant:b", "plant:d"}
    trees: Any = Tree.__table__
    assert told(
        lambda session: session.execute(update(trees).values(name="e"), bind_arguments={"mapper": Tree})
    ) == {"plant:c", "plant:d", "plant:e"}
    assert told(lambda session: setattr(session.get_one(Plant, 9), "name", "f")) == {"plant:a", "plant:f"}
    assert told(lambda session: session.delete(session.get_one(Tree, 2))) == {"plant:e"}


def test_a_concrete_class_without_a_column_that_is_named_above() -> None:
    """Refused when the mappers are configured: its rows could not be named."""

    class Own(DeclarativeBase):
        pass

    @invalidates("ship:{name}")
    class Above(Own):
        __tablename__ = "above"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Below(Above):
        __tablename__ = "below"
        id: Mapped[int] = mapped_column(primary_key=True)
        __mapper_args__ = {"concrete": True}  # noqa: RUF012

    with pytest.raises(UsageError, match="Below has no column 'name'"):
        configure_mappers()
    Own.registry.dispose()


def test_keys_of_several_columns_and_objects_without_a_hash(told: Callable[..., set[str]]) -> None:
    """A dataclass compares by value and cannot be in a set."""
    pairs = [Pair(a=1, b=1, text="x"), Pair(a=1, b=2, text="x")]
    assert told(lambda session: session.add_all(pairs)) == {
        "pair:1:1",
        "pair:1:2",
        "text:x",
        "both:1:x:0",
        "both:2:x:0",
    }
    changed = {
        "pair:1:1",
        "pair:1:2",
        "text:x",
        "text:y",
        "both:1:x:0",
        "both:2:x:0",
        "both:1:y:0",
        "both:2:y:0",
    }
    assert told(lambda session: session.execute(update(Pair).values(text="y"))) == changed
    assert told(lambda session: session.delete(session.get_one(Pair, (1, 2)))) == {
        "pair:1:2",
        "text:y",
        "both:2:y:0",
    }

    def move(session: Session) -> None:
        session.get_one(Pair, (1, 1)).b = 7

    assert told(move) == {"pair:1:1", "pair:1:7", "text:y", "both:1:y:0", "both:7:y:0"}


def test_a_name_of_several_columns_is_that_of_the_row(told: Callable[..., set[str]]) -> None:
    """Of what was set before in the same transaction, by a statement too, and of what was not set at all."""
    told(lambda session: session.add(Pair(a=1, b=1, text="x", more=1)))

    def change(session: Session) -> None:
        pair = session.get_one(Pair, (1, 1))
        pair.text = "y"
        session.flush()
        pair.more = 2
        session.flush()
        with session.begin_nested() as inner:
            pair.more = 3
            session.flush()
            inner.rollback()
        session.execute(update(Pair).values(text="z").execution_options(synchronize_session=False))
        pair.more = 4

    assert told(change) >= {"both:1:x:1", "both:1:z:4"}

    def mixed(session: Session) -> None:
        pair = session.get_one(Pair, (1, 1))
        session.execute(update(Pair).values(text="w").execution_options(synchronize_session=False))
        pair.more = 5

    assert told(mixed) >= {"both:1:z:4", "both:1:w:5"}


def test_a_statement_of_many_rows_with_keys_of_several_columns(told: Callable[..., set[str]]) -> None:
    """As many as the limit allows, and more."""
    rows = [{"a": number, "b": 1, "text": "x", "more": 0} for number in range(1500)]
    told(lambda session: session.execute(insert_into(Pair), rows))
    for most in (1000, 1500):
        given = update(Pair).where(Pair.a < most).values(text="y")
        assert f"pair:{most - 1}:1" in told(lambda session, given=given: session.execute(given))


def test_paths_upwards_downwards_and_further(told: Callable[..., set[str]]) -> None:
    """To the parent, its parent, and to children: old ones and new ones."""
    told(
        lambda session: session.add_all([Node(id=1), Node(id=2)]),
        lambda session: session.add_all([Node(id=3, parent_id=1), Node(id=4, parent_id=3)]),
        lambda session: session.add(Node(id=5, parent_id=4)),
    )
    assert told(lambda session: setattr(session.get(Node, 4), "parent_id", 2)) == {
        "node:4",
        "above:3",
        "above:2",
        "top:1",
        "below:5",
    }
    assert told(lambda session: session.delete(session.get_one(Node, 5))) == {"node:5", "above:4", "top:2"}


def test_a_table_without_a_primary_key(told: Callable[..., set[str]]) -> None:
    """Its rows are told apart by all their columns."""
    rows = [{"subject": 1, "word": "a"}, {"subject": 2, "word": None}]
    assert told(lambda session: session.execute(log.insert(), rows)) == {"log:1", "log:2"}
    assert told(lambda session: session.execute(log.insert().values(subject=3, word="c"))) == {"log:3"}
    assert told(lambda session: session.execute(log.delete().where(log.c.subject == 1))) == {"log:1"}
    assert told(lambda session: session.execute(log.delete().where(log.c.subject == 2))) == {"log:2"}


def test_thousands_of_rows_without_a_primary_key(told: Callable[..., set[str]]) -> None:
    """Also those in which something is NULL."""
    rows = [{"subject": number, "word": "a" if number % 300 else None} for number in range(1200)]
    told(lambda session: session.execute(log.insert(), rows))
    done: Any = None

    def remove(session: Session) -> None:
        nonlocal done
        done = session.execute(log.delete())

    assert told(remove) == {f"log:{number}" for number in range(1200)}
    assert done.rowcount == 1200


def test_several_databases_in_one_transaction(told: Callable[..., set[str]]) -> None:
    """Each row is read where it is."""

    def both(session: Session) -> None:
        session.add_all([Other(name="x"), Pair(a=1, b=1, text="x")])
        session.flush()
        session.execute(update(Other).values(name="y"))

    assert told(both) == {"elsewhere:x", "elsewhere:y", "pair:1:1", "text:x", "both:1:x:0"}
