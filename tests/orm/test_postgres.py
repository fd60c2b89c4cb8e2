"""What only PostgreSQL does: writing CTEs, and transactions side by side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from neverstale import UsageError
from tests.orm.conftest import AsyncWorld, only
from tests.orm.models import Category, Label, Product, Review
from tests.orm.test_transactions import waiting

pytestmark = only("async-postgres")


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


async def test_a_statement_of_thousands_of_rows(world: AsyncWorld) -> None:
    """More than a server takes parameters."""
    names = select(func.concat("n", func.generate_series(1, 33_000)))
    async with world.plain.begin() as session:
        await session.execute(insert(Category).from_select(["name"], names))
    done: Any = await world.write(lambda session: session.execute(update(Category).values(name="all")))
    assert done.rowcount > 33_000
    assert "category:33000" in world.taken()
