"""What only PostgreSQL does: writing CTEs, and transactions side by side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import ForeignKey, bindparam, delete, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from neverstale import UsageError
from neverstale.web.sqlalchemy import invalidates
from tests.orm.conftest import AsyncWorld, only
from tests.orm.models import Category, Label, Product, Review
from tests.orm.test_transactions import waiting

pytestmark = only("async-postgres")


class Own(DeclarativeBase):
    pass


@invalidates("seat:{hall}:{number}")
class Seat(Own):
    __tablename__ = "seats"
    hall: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    taken: Mapped[int] = mapped_column(default=0)


@invalidates("seat:{hall}:{number}")
class Place(Own):
    __tablename__ = "places"
    hall: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    taken: Mapped[int] = mapped_column(default=0)


async def test_a_statement_with_a_writing_cte_is_done_once(world: AsyncWorld) -> None:
    """To look for its rows would do what the CTE does, and leave nothing for the statement: told by `whole`."""

    def work(session: Session) -> None:
        gone = delete(Product).where(Product.id == 2).returning(Product.id).cte("gone")
        given = update(Product).where(Product.id == select(gone.c.id - 1).scalar_subquery()).values(price=77)
        done: Any = session.execute(given, execution_options={"synchronize_session": False})
        assert done.rowcount == 1

    await world.write(work)
    assert world.taken() == {"catalogue"}


async def test_a_writing_cte_of_rows_without_a_tag_for_all_is_refused(world: AsyncWorld) -> None:
    """Inside of whatever statement, also of one about whose own rows nothing is said."""

    def work(session: Session) -> None:
        gone = delete(Review).where(Review.id == 1).returning(Review.product_id).cte("gone")
        inside = select(gone.c.product_id)
        for given in (
            update(Product).where(Product.id.in_(inside)).values(price=77),
            delete(Product).where(Product.id.in_(inside)),
            insert(Category).from_select(["name"], select(func.concat("x", gone.c.product_id))),
            update(Label).where(Label.id == 1).values(name="n").add_cte(gone),
        ):
            with pytest.raises(UsageError, match="inside of another"):
                session.execute(given)

    await world.write(work)
    assert world.taken() == set()


async def test_a_statement_of_many_rows_changes_none_that_was_not_seen(world: AsyncWorld) -> None:
    """Above the limit, where there is no tag for all rows: what is new in between is left alone."""
    world.following._limit = 1
    async with world.maker() as first, world.plain() as second:
        await second.execute(update(Category).where(Category.id == 1).values(name="held"))
        changing = asyncio.create_task(first.execute(update(Category).values(name="all")))
        await waiting(world)
        second.add(Category(name="new"))
        await second.commit()
        await changing
        await first.commit()
    changed: Any = await world.look(
        lambda session: session.scalars(select(Category.id).where(Category.name == "all")).all()
    )
    assert {f"category:{number}" for number in changed} <= world.taken()


async def test_a_list_of_parameters_changes_none_that_was_not_seen(world: AsyncWorld) -> None:
    """As one statement does not; with too many rows, it is refused."""
    table: Any = Category.__table__
    given = update(table).where(table.c.name == bindparam("was")).values(name=bindparam("becomes"))
    rows: Any = [{"was": f"category {number}", "becomes": "all"} for number in (1, 2)]
    async with world.maker() as first, world.plain() as second:
        await second.execute(update(Category).where(Category.id == 2).values(name="category 2"))
        changing = asyncio.create_task(first.execute(given, rows))
        await waiting(world)
        second.add(Category(name="category 1"))
        await second.commit()
        await changing
        await first.commit()
    changed: Any = await world.look(
        lambda session: session.scalars(select(Category.id).where(Category.name == "all")).all()
    )
    assert {f"category:{number}" for number in changed} | {"categories"} == world.taken()
    async with world.plain.begin() as session:
        await session.execute(insert(Category), [{"name": "many"}] * 1001)
    rows = [{"was": "many", "becomes": "few"}, {"was": "all", "becomes": "few"}]
    with pytest.raises(UsageError, match="list of parameters"):
        await world.write(lambda session: session.execute(given, rows))


@pytest.mark.parametrize("model", [Seat, Place], ids=["numbers", "texts"])
async def test_a_statement_of_many_rows_with_keys_of_several_columns(
    world: AsyncWorld, model: type[Seat | Place]
) -> None:
    """However many: what is new in between is left alone."""
    async with world.engine.begin() as connection:
        await connection.run_sync(Own.metadata.drop_all)
        await connection.run_sync(Own.metadata.create_all)
    hall: Any = 1 if model is Seat else "a"
    async with world.plain.begin() as session:
        await session.execute(insert(model), [{"hall": hall, "number": number} for number in range(1200)])
    async with world.maker() as first, world.plain() as second:
        await second.execute(update(model).where(model.number == 0).values(taken=5))
        changing = asyncio.create_task(first.execute(update(model).values(taken=1)))
        await waiting(world)
        second.add(model(hall=hall, number=5000))
        await second.commit()
        done: Any = await changing
        await first.commit()
    assert done.rowcount == 1200
    assert {f"seat:{hall}:{number}" for number in range(1200)} == world.taken()


async def test_a_statement_of_thousands_of_rows(world: AsyncWorld) -> None:
    """More than a server takes parameters."""
    names = select(func.concat("n", func.generate_series(1, 33_000)))
    async with world.plain.begin() as session:
        await session.execute(insert(Category).from_select(["name"], names))
    done: Any = await world.write(lambda session: session.execute(update(Category).values(name="all")))
    assert done.rowcount > 33_000
    assert "category:33000" in world.taken()


@invalidates("animal:{id}", "name:{name}")
class Animal(Own):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(default="animal")
    friend_id: Mapped[int | None] = mapped_column(ForeignKey("animals.id"))
    friend: Mapped[Animal | None] = relationship(remote_side="Animal.id")
    __mapper_args__ = {  # noqa: RUF012
        "polymorphic_on": "kind",
        "polymorphic_identity": "animal",
        "with_polymorphic": "*",
    }


class Dog(Animal):
    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
    tricks: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


@invalidates("animal:{animal.id}", "name:{animal.name}", "friend:{animal.friend.name}", "tricks:{dog.tricks}")
class Toy(Own):
    __tablename__ = "toys"
    id: Mapped[int] = mapped_column(primary_key=True)
    animal_id: Mapped[int | None] = mapped_column(ForeignKey("animals.id"))
    animal: Mapped[Animal | None] = relationship(foreign_keys=animal_id)
    dog_id: Mapped[int | None] = mapped_column(ForeignKey("dogs.id"))
    dog: Mapped[Dog | None] = relationship(foreign_keys=dog_id)


async def test_a_path_to_a_class_whose_reads_join_its_subclasses(world: AsyncWorld) -> None:
    """What is at its end is locked, and not what is joined from outside; subclasses by both of their tables."""
    async with world.engine.begin() as connection:
        await connection.run_sync(Own.metadata.drop_all)
        await connection.run_sync(Own.metadata.create_all)
    async with world.plain.begin() as session:
        session.add_all([Dog(id=1, name="a", tricks=4), Animal(id=2, name="b", friend_id=1)])
    await world.write(lambda session: session.add(Toy(id=1, animal_id=2, dog_id=1)))
    assert world.taken() == {"animal:2", "name:b", "friend:a", "tricks:4"}
    async with world.maker() as mover, world.maker() as session:
        await mover.execute(update(Dog).values(tricks=5))
        session.add(Toy(id=2, dog_id=1))
        await session.flush()
        committing = asyncio.create_task(session.commit())
        await waiting(world)
        await mover.commit()
        await committing
    assert {"tricks:5"} in [set(event.names) for event in world.told]


async def test_a_class_whose_reads_join_its_subclasses(world: AsyncWorld) -> None:
    """What is joined from outside cannot be locked, and need not be."""
    async with world.engine.begin() as connection:
        await connection.run_sync(Own.metadata.drop_all)
        await connection.run_sync(Own.metadata.create_all)
    await world.write(lambda session: session.add(Dog(id=1, name="a", tricks=1)))
    assert world.taken() == {"animal:1", "name:a"}
    await world.write(lambda session: setattr(session.get_one(Animal, 1), "name", "b"))
    assert world.taken() == {"animal:1", "name:a", "name:b"}
    await world.write(lambda session: session.execute(update(Animal).values(name="c")))
    assert world.taken() == {"animal:1", "name:b", "name:c"}
    await world.write(lambda session: session.execute(update(Dog).values(tricks=2)))
    assert world.taken() == {"animal:1", "name:c"}
    await world.write(lambda session: session.delete(session.get_one(Animal, 1)))
    assert world.taken() == {"animal:1", "name:c"}


async def test_a_commit_in_two_phases(world: AsyncWorld) -> None:
    """Invalidated with the second, not with the first."""

    def change(session: Session) -> None:
        session.get_one(Product, 1).category_id = 3
        session.prepare()
        assert world.taken() == set()
        session.commit()

    async with world.maker(twophase=True) as session:
        await session.run_sync(change)
    assert world.taken() >= {"product:1", "category:2", "category:3"}


async def test_what_is_prepared_and_rolled_back_is_invalidated_by_nothing(
    world: AsyncWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """No COMMIT has been sent."""

    def change(session: Session) -> None:
        session.get_one(Product, 1).category_id = 3
        session.prepare()
        session.rollback()

    async with world.maker(twophase=True) as session:
        await session.run_sync(change)
    assert world.taken() == set()
    assert not caplog.records
