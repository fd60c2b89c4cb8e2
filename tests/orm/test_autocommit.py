"""Sessions in AUTOCOMMIT: what is flushed is committed at once, and no rollback undoes it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from sqlalchemy import create_engine, event, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from neverstale.web.sqlalchemy import touch
from tests.orm.conftest import SyncWorld, World, only
from tests.orm.models import Category, Label, Product, Review, product_labels
from tests.orm.random_writes import transaction
from tests.orm.test_transactions import OF_ONE, product

WAYS = ["engine", "option", "driver"]
if "execution_options" in Session.__init__.__code__.co_varnames:  # SQLAlchemy 2.1
    WAYS.append("session")


@pytest.fixture(params=WAYS)
async def autocommit(request: pytest.FixtureRequest, world: World) -> AsyncIterator[None]:
    """Put the sessions of `world` into AUTOCOMMIT, in every way that there is."""
    make: Any = create_engine if isinstance(world, SyncWorld) else create_async_engine
    level = {"isolation_level": "AUTOCOMMIT"}
    way = request.param
    if way == "driver" and world.engine.dialect.name == "sqlite" and sys.version_info < (3, 12):
        way = "engine"  # SQLite's driver can only be told since Python 3.12
    engine = made = make(world.engine.url, **(level if way == "engine" else {}))
    if way == "option":
        engine = engine.execution_options(**level)
    elif way == "session":
        world.maker.configure(execution_options=level)
    elif way == "driver":
        event.listen(engine.sync_engine, "connect", lambda raw, _record: setattr(raw, "autocommit", True))
    world.maker.configure(bind=engine)
    yield
    made.dispose() if isinstance(world, SyncWorld) else await made.dispose()


async def price(world: World) -> Any:
    return await world.look(lambda session: product(session).price)


async def test_what_is_flushed_is_invalidated_at_once(world: World, autocommit: None) -> None:
    """By a flush and by a statement; a session that is never committed, or rolled back, changes nothing of it."""

    def change(session: Session) -> None:
        product(session).price = 1
        session.flush()
        assert world.taken() == OF_ONE
        session.execute(update(Product).where(Product.id == 1).values(price=2))
        assert world.taken() == OF_ONE
        session.execute(insert(Category).values(id=9, name="new"))
        assert world.taken() == {"category:9", "categories"}
        session.execute(select(Product)).all()

    await world.attempt(change)
    assert await price(world) == 2
    assert world.taken() == set()


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
async def test_what_is_said_by_hand_is_invalidated_at_the_end(
    world: World, autocommit: None, end: str
) -> None:
    """However the transaction ends: what was flushed since it was said has been committed, too."""

    def change(session: Session) -> None:
        product(session, 2).price = 3
        touch(session, tags=["said"], keys=["api:said"])
        session.flush()
        assert not world.taken() & {"said", "api:said"}
        session.execute(text("UPDATE products SET price = 9 WHERE id = 1"))
        getattr(session, end)()
        assert world.taken() == {"said", "api:said"}

    await world.attempt(change)
    assert await price(world) == 9


async def test_a_flush_that_fails_half_way(world: World, autocommit: None) -> None:
    """What was written before has been committed: new rows, moved ones, and rows of tables in between."""
    await world.stale()

    def fail(session: Session) -> None:
        session.add(Category(id=4, name="there is one"))
        session.add(Label(id=7, name="new"))
        second = product(session, 2)
        second.labels.append(session.get_one(Label, 2))
        product(session).category_id = 3
        session.add(Review(id=2, rating=1, product_id=2))
        session.add(Review(id=1, rating=1, product_id=3))
        session.flush()

    for _ in range(2):
        with pytest.raises(IntegrityError):
            await world.attempt(fail)
        assert await world.stale() == {}

    def again(session: Session) -> None:
        products = [product(session, each) for each in (1, 2, 3)]
        assert all(each.labels is not None for each in products)
        given = {"product_id": 3, "label_id": 3}
        session.execute(insert(product_labels).values(given), execution_options={"neverstale": False})
        touch(session, tags=["product:3", "label:3"])
        for each, number in zip(products, (2, 3, 3), strict=True):
            each.labels.append(session.get_one(Label, number))
        session.flush()

    with pytest.raises(IntegrityError):
        await world.attempt(again)
    assert await world.stale() == {}


@only("sync-sqlite", "async-sqlite")
async def test_a_savepoint_in_which_sqlites_driver_commits(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Left to itself it begins no transaction for a savepoint: released, it stays, whatever comes of the rest."""
    make: Any = create_engine if isinstance(world, SyncWorld) else create_async_engine
    engine = make(world.engine.url)
    world.maker.configure(bind=engine)

    def change(session: Session) -> None:
        session.get(Category, 1)
        with session.begin_nested():
            product(session).price = 8
            touch(session, tags=["said"])
            session.add(Review(rating=1, product_id=2))
        product(session).price = 9
        session.flush()

    await world.attempt(change)
    assert await price(world) == 8
    # What the path of a review leads to can be read no more.
    assert world.taken() == OF_ONE | {"said", "product:2"}
    assert "rows of Review" in caplog.text
    engine.dispose() if isinstance(world, SyncWorld) else await engine.dispose()


@only("sync-sqlite", "async-postgres")
async def test_a_list_of_parameters_that_fails_half_way(
    world: World, autocommit: None, caplog: pytest.LogCaptureFixture
) -> None:
    """New values that cannot be read any more are told by the tag for all rows; without one, an error is logged."""

    def fail(session: Session) -> None:
        session.execute(update(Product), [{"id": 1, "category_id": 4}, {"id": 2, "name": None}])

    with pytest.raises(IntegrityError):
        await world.attempt(fail)
    assert world.taken() >= {"catalogue", "category:2", "category:1"}

    def fail_without(session: Session) -> None:
        session.execute(update(Review), [{"id": 1, "rating": None}])

    with pytest.raises(IntegrityError):
        await world.attempt(fail_without)
    assert "Review" in caplog.text


@pytest.mark.parametrize("autocommit", ["engine"], indirect=True)
async def test_after_whatever_is_written_no_answer_is_stale(world: World, autocommit: None) -> None:
    """Committed or rolled back; without savepoints, which are nothing here."""
    random = Random(1)
    await world.stale()
    for step in range(10):
        does = world.write if random.random() < 0.5 else world.attempt
        await does(lambda session: transaction(session, random, depth=2))
        assert await world.stale() == {}, f"step {step}"
