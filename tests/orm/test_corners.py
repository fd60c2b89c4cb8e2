"""Corners of SQLAlchemy in which a change hides from what watches objects and statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    ForeignKey,
    String,
    Uuid,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, composite, mapped_column, relationship, synonym

from neverstale import Cache, UsageError
from neverstale.events import InvalidationEvent
from neverstale.testing.servers import RedisServer
from neverstale.web.sqlalchemy import follow_writes, invalidates
from tests.orm.models import with_savepoints
from tests.orm.test_kinds import Lower


class Base(DeclarativeBase):
    pass


class Shouted(String):
    """Text that the database itself changes on the way in."""

    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.upper(bindvalue)


@invalidates("place:{city}:{street}", columns=["city", "street"])
@invalidates("word:{word}", "item:{number}")
class Item(Base):
    __tablename__ = "items"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    word: Mapped[str] = mapped_column("text", default="")
    city: Mapped[str] = mapped_column(default="")
    street: Mapped[str] = mapped_column(default="")
    seen: Mapped[int] = mapped_column(default=0)
    town = synonym("city")
    place: Mapped[Any] = composite(lambda city, street: (city, street), "city", "street")
    best_id: Mapped[int | None] = mapped_column(ForeignKey("parts.id", use_alter=True))
    best: Mapped[Part | None] = relationship(foreign_keys=best_id, post_update=True)
    parts: Mapped[list[Part]] = relationship(
        back_populates="item", foreign_keys="Part.item_id", cascade="all, delete-orphan"
    )
    tags: Mapped[list[Tag]] = relationship(secondary="item_tags", viewonly=False, overlaps="tagged")

    @hybrid_property
    def where(self) -> str:
        return self.city

    @where.inplace.update_expression
    @classmethod
    def _where(cls, value: Any) -> Any:
        return [(cls.city, value)]


invalidates("best:{best_id}")(Item)


@invalidates("part:{id}", "parts:{item_id}")
class Part(Base):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int | None] = mapped_column(ForeignKey("items.id"))
    item: Mapped[Item | None] = relationship(back_populates="parts", foreign_keys=item_id)


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)


@invalidates("tagged:{item}", "tag:{tag}")
class ItemTag(Base):
    __tablename__ = "item_tags"
    item: Mapped[int] = mapped_column("item_id", ForeignKey("items.id"), primary_key=True)
    tag: Mapped[int] = mapped_column("tag_id", ForeignKey("tags.id"), primary_key=True)


@invalidates("variant:{variant}", "shouted:{shouted}", "uuid:{uuid}")
class Written(Base):
    __tablename__ = "written"
    id: Mapped[int] = mapped_column(primary_key=True)
    variant: Mapped[str] = mapped_column(String().with_variant(Lower(), "sqlite"), default="")
    shouted: Mapped[str] = mapped_column(Shouted, default="")
    uuid: Mapped[str] = mapped_column(Uuid(as_uuid=False), default="0" * 32)


class Followed(Session):
    pass


class Told:
    """What has been invalidated, by the name."""

    def __init__(self, engine: Any, cache: Cache) -> None:
        self.engine = engine
        self.cache = cache
        self.events: list[InvalidationEvent] = []
        cache.events.subscribe(self.events.append, InvalidationEvent)

    def taken(self) -> set[str]:
        names = {name for told in self.events for name in told.names}
        self.events.clear()
        return names

    def __call__(self, work: Callable[[Session], Any]) -> set[str]:
        """Do something in a transaction that is committed; returns what it invalidated."""
        self.events.clear()
        with Followed(self.engine) as session:
            work(session)
            session.commit()
        return self.taken()


@pytest.fixture
def told(redis_server: RedisServer, tmp_path: Path) -> Iterator[Told]:
    engine = create_engine(f"sqlite:///{tmp_path / 'corners.db'}")
    with_savepoints(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([Item(number=1, word="a", city="x", street="y"), Tag(id=1), Tag(id=2)])
        session.flush()
        session.add_all([Part(id=1, item_id=1), Part(id=2)])
    with Cache.from_url(redis_server.url, timeout=10.0, patient_timeout=10.0) as cache:
        following = follow_writes(Followed, cache)
        yield Told(engine, cache)
        following.detach()
    engine.dispose()


def item(session: Session) -> Item:
    return session.get_one(Item, 1)


def test_a_key_that_is_set_by_post_update(told: Told) -> None:
    """It comes after the UPDATE of the row, which says nothing of it."""

    def change(session: Session) -> None:
        item(session).best = session.get_one(Part, 1)

    assert told(change) >= {"best:None", "best:1", "word:a", "item:1"}

    def new_part(session: Session) -> None:
        item(session).best = Part(id=9)

    assert told(new_part) >= {"best:1", "best:9"}


def test_columns_set_by_a_listener_of_the_application(told: Told) -> None:
    """In `before_update`: what is said of these columns alone, too."""

    def listener(_mapper: Any, _connection: Any, target: Item) -> None:
        target.city = "listener"

    event.listen(Item, "before_update", listener)
    try:
        assert told(lambda session: setattr(item(session), "word", "b")) >= {
            "place:x:y",
            "place:listener:y",
            "word:a",
            "word:b",
        }
    finally:
        event.remove(Item, "before_update", listener)


def test_a_name_set_by_a_listener_of_the_application(told: Told) -> None:
    """The old and the new one, though nobody else has set it."""

    def listener(_mapper: Any, _connection: Any, target: Item) -> None:
        target.word = "listener"

    event.listen(Item, "before_update", listener)
    try:
        assert told(lambda session: setattr(item(session), "seen", 1)) >= {"word:a", "word:listener"}
    finally:
        event.remove(Item, "before_update", listener)


def test_a_listener_that_changes_an_object_of_which_only_a_collection_has_changed(told: Told) -> None:
    """The UPDATE is the listener's alone."""

    def listener(_mapper: Any, _connection: Any, target: Item) -> None:
        target.seen = len(target.parts)

    event.listen(Item, "before_update", listener)
    try:

        def append(session: Session) -> None:
            found = item(session)
            found.parts.append(Part(id=5))

        assert told(append) >= {"word:a", "item:1", "part:5", "parts:1"}
    finally:
        event.remove(Item, "before_update", listener)


def test_a_listener_that_writes_before_the_commit(told: Told) -> None:
    """After we have finished what was known."""

    def listener(session: Session) -> None:
        session.execute(update(Item).values(word="late"))

    event.listen(Followed, "before_commit", listener)
    try:
        assert told(lambda session: session.execute(select(1))) >= {"word:a", "word:late"}
    finally:
        event.remove(Followed, "before_commit", listener)


@pytest.mark.parametrize(
    "values",
    [{"town": "z"}, {Item.town: "z"}, {"where": "z"}, {Item.where: "z"}, {Item.city: "z"}, {"city": "z"}],
    ids=["synonym", "Item.synonym", "hybrid", "Item.hybrid", "Item.column", "column"],
)
def test_columns_set_by_other_names(told: Told, values: Any) -> None:
    """Synonyms and hybrids."""
    assert told(lambda session: session.execute(update(Item).values(values))) >= {"place:x:y", "place:z:y"}


@pytest.mark.parametrize("values", [{"number": 5}, {Item.number: 5}], ids=["name", "attribute"])
def test_an_update_of_a_primary_key_that_has_another_name_as_attribute(told: Told, values: Any) -> None:
    """Refused as any other."""
    with pytest.raises(UsageError):
        told(lambda session: session.execute(update(Item).where(Item.number == 1).values(values)))


def test_a_table_in_between_that_has_a_class_of_its_own(told: Told) -> None:
    """What its class says holds for the collection, too, by the attributes' names."""

    def tag(session: Session) -> None:
        found = item(session)
        found.tags.append(session.get_one(Tag, 2))

    assert told(tag) >= {"tagged:1", "tag:2"}


def test_types_that_only_the_database_knows(told: Told) -> None:
    """Variants for one database, expressions around the value, UUIDs as text."""
    upper = "ABCDEF00-0000-0000-0000-000000000000"
    assert told(lambda session: session.add(Written(id=1, variant="AbC", shouted="abc", uuid=upper))) == {
        "variant:abc",
        "shouted:ABC",
        f"uuid:{upper.lower()}",
    }


def test_a_statement_in_from_statement_is_refused(told: Told) -> None:
    """Or told by the tag for all rows: it cannot be held to what was seen."""
    with pytest.raises(UsageError):
        told(
            lambda session: session.scalars(
                select(Item).from_statement(update(Item).values(word="b").returning(Item))
            ).all()
        )


def test_insert_or_replace_is_an_upsert(told: Told) -> None:
    """The row that it replaces is not known."""
    with pytest.raises(UsageError):
        told(
            lambda session: session.execute(insert(Item).prefix_with("OR REPLACE").values(number=1, word="b"))
        )


def test_a_session_that_is_followed_from_the_middle_of_a_transaction(told: Told) -> None:
    """What is released in a savepoint belongs to the transaction around it."""
    with Session(told.engine) as session:
        session.execute(select(1))
        following = follow_writes(session, told.cache)
        with session.begin_nested():
            item(session).word = "b"
        session.commit()
        following.detach()
    assert told.taken() >= {"word:a", "word:b"}


def test_a_session_that_reads_from_replicas(told: Told, tmp_path: Path) -> None:
    """What is read for the invalidation is read where it is written."""
    replica = create_engine(f"sqlite:///{tmp_path / 'replica.db'}")
    Base.metadata.create_all(replica)

    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **kw: Any) -> Any:
            return told.engine if self._flushing or (clause is not None and clause.is_dml) else replica

    with Session(replica) as session, session.begin():
        session.add(Written(id=1))
    with Session(told.engine) as session, session.begin():
        session.add(Written(id=1))
    following = follow_writes(Routing, told.cache)
    told.taken()
    with Routing() as session:
        session.get_one(Written, 1).variant = "XX"
        session.commit()
    assert told.taken() >= {"variant:xx", "variant:"}
    with Routing() as session:
        session.execute(update(Written).values(variant="YY"))
        session.commit()
    assert told.taken() >= {"variant:xx", "variant:yy"}
    following.detach()
    replica.dispose()


def test_a_listener_that_raises_at_the_end(told: Told) -> None:
    """It was there before, and has the commit fail after COMMIT: it is invalidated."""

    class Mine(Session):
        pass

    def listener(session: Session, transaction: Any) -> None:
        if transaction.parent is None:
            raise RuntimeError("mine")

    event.listen(Mine, "after_transaction_end", listener)
    following = follow_writes(Mine, told.cache)
    session = Mine(told.engine)
    found = item(session)
    found.word = "b"
    with pytest.raises(RuntimeError):
        session.commit()
    following.detach()
    event.remove(Mine, "after_transaction_end", listener)
    session.close()
    assert told.taken() >= {"word:a", "word:b"}


def test_a_session_that_is_given_the_info_of_another(told: Told) -> None:
    """Each has its own changes."""
    with Followed(told.engine) as first:
        first.execute(select(1))
        with Followed(told.engine, info=first.info) as second:
            first.rollback()
            item(second).word = "b"
            second.commit()
    assert told.taken() >= {"word:a", "word:b"}
