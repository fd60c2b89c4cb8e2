"""When the invalidation happens, and of what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from neverstale import UsageError
from neverstale.web.sqlalchemy import touch
from tests.orm.conftest import AsyncWorld, SyncWorld, World, only
from tests.orm.models import Category, Label, Product, Review

#: What a change of product 1 invalidates, which is in category 2.
OF_ONE = {"products", "product:1", "category:2", "api:products"}
#: And what it invalidates in addition where it moves.
MOVED = {"counts:by-category"}


def product(session: Session, number: int = 1) -> Product:
    found = session.get(Product, number)
    assert found is not None
    return found


async def test_a_move_invalidates_the_old_and_the_new(world: World) -> None:
    """Both categories, and each name once, in one call for the tags and one for the keys."""

    def move(session: Session) -> None:
        product(session).category_id = 3

    await world.write(move)
    assert len(world.told) == 2
    assert world.taken() == OF_ONE | MOVED | {"category:3"}


async def test_nothing_is_invalidated_before_the_commit(world: World) -> None:
    """A reader in between would fill the cache with the old row."""

    def change(session: Session) -> None:
        product(session).price = 1
        session.flush()
        session.execute(update(Product).values(price=2))
        assert world.taken() == set()

    await world.write(change)
    assert world.taken() > OF_ONE


async def test_a_rollback_invalidates_nothing(world: World) -> None:
    """Nor does the next transaction of the session, for what was rolled back."""

    def change_and_go_back(session: Session) -> None:
        product(session).price = 1
        session.execute(delete(Review))
        touch(session, tags=["touched"])
        session.rollback()
        session.get(Category, 1)

    await world.write(change_and_go_back)
    await world.attempt(lambda session: session.execute(delete(Review)))
    assert world.taken() == set()


async def test_a_session_that_is_closed_invalidates_nothing(world: World) -> None:
    """As its transaction is rolled back."""

    def leave(session: Session) -> None:
        product(session).price = 1
        session.flush()
        session.close()
        session.get(Category, 1)

    await world.write(leave)
    assert world.taken() == set()


async def test_a_savepoint_rolled_back_invalidates_nothing_and_one_released_does(world: World) -> None:
    """Each for itself; what is around them stays."""

    def change(session: Session) -> None:
        product(session, 1).price = 1
        with session.begin_nested():
            session.get_one(Category, 3).name = "released"
            session.flush()
            inner = session.begin_nested()
            session.get_one(Category, 4).name = "gone"
            touch(session, tags=["gone"])
            session.flush()
            inner.rollback()

    await world.write(change)
    assert world.taken() == OF_ONE | {"category:3", "categories"}


async def test_a_savepoint_that_is_open_at_the_commit_is_part_of_it(world: World) -> None:
    """Whether the session commits or its outermost transaction."""

    def change(session: Session) -> None:
        root = session.begin()
        session.begin_nested()
        session.execute(update(Product).where(Product.id == 1).values(category_id=3))
        root.commit()

    await world.write(change)
    assert world.taken() == OF_ONE | MOVED | {"category:3"}


async def test_a_savepoint_that_is_released_with_one_inside_still_open(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """No commit of the transaction: a rollback later on drops it, and what is said of paths waits for the end."""

    def release(session: Session) -> None:
        session.begin_nested()
        outer = session.begin_nested()
        session.add(Review(rating=1, product_id=1))
        session.begin_nested()
        product(session).price = 1
        outer.commit()
        assert session.in_nested_transaction()
        session.execute(
            update(Product).where(Product.id == 1).values(category_id=4),
            execution_options={"neverstale": False},
        )

    await world.attempt(release)
    assert world.taken() == set()
    assert not caplog.records
    await world.write(release)
    assert world.taken() == OF_ONE | {"category:4"}


async def test_a_commit_that_fails_before_it_is_sent_is_none(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails in it: nothing has been committed."""
    sessions = world.following._target()

    def refuse(_session: Session) -> None:
        raise RuntimeError("not now")

    event.listen(sessions, "before_commit", refuse)
    try:
        with pytest.raises(RuntimeError):
            await world.write(lambda session: setattr(product(session), "price", 1))
    finally:
        event.remove(sessions, "before_commit", refuse)
    assert world.taken() == set()
    assert not caplog.records


async def test_a_failed_flush_invalidates_nothing(world: World) -> None:
    """Neither by itself nor with the savepoint that it is in; what succeeds afterwards does."""

    def fail_and_go_on(session: Session) -> None:
        inner = session.begin_nested()
        product(session, 2).price = 1
        session.add(Review(rating=1, product_id=999))
        with pytest.raises(IntegrityError):
            session.flush()
        inner.rollback()
        product(session, 1).price = 1

    await world.write(fail_and_go_on)
    assert world.taken() == OF_ONE


async def test_what_is_said_of_a_column_is_news_when_it_is_set(world: World) -> None:
    """Not with every change of the row; a later one in the same transaction counts with the values of before."""

    def move_last(session: Session) -> None:
        found = product(session)
        found.price = 1
        session.flush()
        found.category_id = 3

    for work, moved in (
        (lambda session: setattr(product(session), "price", 5), False),
        (lambda session: session.execute(update(Product).where(Product.id == 1).values(price=6)), False),
        (move_last, True),
        (lambda session: setattr(product(session), "category", session.get(Category, 4)), True),
        (lambda session: session.execute(update(Product).where(Product.id == 1).values(category_id=2)), True),
        (lambda session: session.execute(update(Product), [{"id": 1, "category_id": 3}]), True),
        (lambda session: session.delete(product(session)), True),
        (lambda session: session.add(Product(name="new")), True),
    ):
        await world.write(work)
        assert (world.taken() >= MOVED) is moved


async def test_what_does_not_change_invalidates_nothing(world: World) -> None:
    """Reading, setting what is there already, adding to a collection of the other side."""

    def nothing(session: Session) -> None:
        found = product(session)
        found.name = str(found.name)
        session.execute(select(Product)).all()
        session.execute(text("SELECT 1"))

    await world.write(nothing)
    assert world.taken() == set()


async def test_what_is_around_a_review_is_named_as_it_is_at_the_commit_and_was_before(world: World) -> None:
    """A review belongs to its product's category; moved with it in one transaction, to both."""

    def change(session: Session) -> None:
        session.add(Review(rating=1, product_id=1))
        session.flush()
        product(session).category_id = 4

    await world.write(change)
    assert world.taken() >= {"product:1", "category:2", "category:4"}


async def test_children_whose_foreign_key_is_emptied_are_followed(world: World) -> None:
    """A category that is deleted leaves its products without one, which no one said of them."""

    def remove(session: Session) -> None:
        session.delete(session.get_one(Category, 2))

    await world.write(remove)
    assert world.taken() == OF_ONE | MOVED | {"product:3", "category:None", "categories"}


async def test_one_label_more_is_news_for_the_product_and_the_label(world: World) -> None:
    """The table in between has no class."""

    def label(session: Session) -> None:
        found = product(session, 2)
        found.labels.append(session.get_one(Label, 3))

    await world.write(label)
    assert world.taken() == {"product:2", "label:3"}


async def test_many_changes_make_one_invalidation(world: World) -> None:
    """One call for all the tags of a transaction."""

    def change(session: Session) -> None:
        session.execute(insert(Product), [{"name": f"n{number}", "category_id": 1} for number in range(100)])
        session.execute(update(Product).values(price=1))
        for found in session.scalars(select(Product)):
            found.price += 1
            session.flush()

    await world.write(change)
    assert [event.kind for event in world.told] == ["tag", "key"]
    assert len(world.taken()) > 100


async def test_touch_adds_to_what_is_seen(world: World) -> None:
    """Tags and keys, in the same call, after the commit."""

    def by_hand(session: Session) -> None:
        product(session)
        touch(session, tags=["by-hand"], keys=["api:GET:/x"])
        product(session).price = 1
        assert world.taken() == set()

    await world.write(by_hand)
    assert len(world.told) == 2
    assert world.taken() == OF_ONE | {"by-hand", "api:GET:/x"}


async def test_touch_wants_a_transaction_that_is_followed(world: World) -> None:
    """Else nobody would invalidate anything."""
    with pytest.raises(UsageError, match="none is open"):
        await world.write(lambda session: touch(session, tags=["x"]))

    def unfollowed(session: Session) -> None:
        session.execute(text("SELECT 1"))
        touch(session, tags=["x"])

    with pytest.raises(UsageError, match="not followed"):
        await world.look(unfollowed)
    with pytest.raises(UsageError):
        await world.write(lambda session: touch(session, tags="x"))


@only("sync-sqlite")
async def test_begin_as_a_block(world: SyncWorld) -> None:
    """`with maker.begin()`, and several transactions of one session."""
    with world.maker.begin() as session:
        product(session).price = 1
    assert world.taken() == OF_ONE
    with world.maker() as session:
        for price in (2, 3):
            with session.begin():
                product(session).price = price
            assert world.taken() == OF_ONE


@only("async-postgres", "async-sqlite")
async def test_begin_as_an_asynchronous_block(world: AsyncWorld) -> None:
    """`async with maker.begin()`; touch takes the asynchronous session as it is."""
    async with world.maker.begin() as session:
        (await session.get_one(Product, 1)).price = 1
        touch(session, tags=["x"])
    assert world.taken() == OF_ONE | {"x"}


@only("async-postgres")
async def test_a_row_that_another_transaction_has_moved_is_named_as_it_was(world: AsyncWorld) -> None:
    """An object that was loaded before does not know in which category its row was."""
    async with world.maker() as session:
        loaded = await session.get_one(Product, 1)
        await world.write(lambda other: setattr(product(other), "category_id", 3))
        world.taken()
        loaded.price = 1
        await session.commit()
    assert world.taken() >= {"category:3"}


@only("async-postgres")
async def test_a_row_that_is_being_moved_is_named_as_it_is_then(world: AsyncWorld) -> None:
    """The flush waits for the other transaction before it looks at the old row, not only with its UPDATE."""
    async with world.maker() as mover, world.maker() as session:
        (await session.get_one(Product, 1)).price = 1
        (await mover.get_one(Product, 1)).category_id = 4
        await mover.flush()
        committing = asyncio.create_task(session.commit())
        await waiting(world)
        await mover.commit()
        await committing
    assert OF_ONE - {"category:2", "api:products"} | {"category:4"} in [
        set(event.names) for event in world.told
    ]


@only("async-postgres")
async def test_a_product_that_is_being_moved_is_waited_for(world: AsyncWorld) -> None:
    """A review is committed under the category that its product has by then, not the one that it had."""
    async with world.maker() as mover, world.maker() as reviewer:
        (await mover.get_one(Product, 1)).category_id = 4
        await mover.flush()
        reviewer.add(Review(rating=1, product_id=1))
        await reviewer.flush()
        committing = asyncio.create_task(reviewer.commit())
        await waiting(world)
        assert world.taken() == set()
        await mover.commit()
        await committing
    assert {"product:1", "category:4"} in [set(event.names) for event in world.told]


@only("async-postgres")
async def test_a_statement_changes_no_row_that_was_not_seen(world: AsyncWorld) -> None:
    """What comes to fit its WHERE between our look and the statement is left alone, as if it had come later."""
    async with world.maker() as first, world.maker() as second:
        await second.execute(update(Product).where(Product.id == 2).values(name="held"))
        await first.execute(select(1))
        changing = asyncio.create_task(
            first.execute(update(Product).where(Product.category_id.in_([1, 3])).values(price=1))
        )
        await waiting(world)
        await second.execute(update(Product).where(Product.id == 1).values(category_id=3))
        await second.commit()
        world.taken()
        await changing
        await first.commit()
    changed: Any = await world.look(
        lambda session: session.scalars(select(Product.id).where(Product.price == 1)).all()
    )
    told = world.taken()
    assert {f"product:{number}" for number in changed} <= told


async def waiting(world: AsyncWorld) -> None:
    """Wait until a session waits for a lock of another."""
    async with asyncio.timeout(10), world.plain() as session:
        waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        while not (await session.execute(waits)).scalar():
            await session.rollback()
