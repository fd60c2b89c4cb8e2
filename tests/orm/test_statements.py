"""INSERT, UPDATE and DELETE as statements: what is known of them, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from neverstale import UsageError
from neverstale.web.sqlalchemy import touch
from tests.orm.conftest import World, only
from tests.orm.models import Label, Product, Review, product_labels


async def test_only_the_rows_that_a_statement_finds_are_named(world: World) -> None:
    """Not those of its table."""
    await world.write(
        lambda session: session.execute(update(Product).where(Product.id == 2).values(category_id=4))
    )
    assert world.taken() == {
        "products",
        "product:2",
        "category:1",
        "category:4",
        "api:products",
        "counts:by-category",
    }
    await world.write(
        lambda session: session.execute(update(Product).where(Product.id == 99).values(category_id=4))
    )
    assert world.taken() == set()


async def test_above_the_limit_the_tag_for_all_rows_takes_their_place(world: World) -> None:
    """Of a statement only: objects are always named one by one."""
    world.following._limit = 2
    await world.write(lambda session: session.execute(update(Product).values(price=1)))
    assert world.taken() == {"catalogue"}
    await world.write(lambda session: session.execute(update(Product).where(Product.id < 3).values(price=2)))
    assert world.taken() >= {"product:1", "product:2"}


async def test_what_cannot_be_known_is_refused_before_it_is_done(world: World) -> None:
    """Without a tag for all rows; with `neverstale=False` the caller says it."""
    upsert = sqlite if world.engine.dialect.name == "sqlite" else postgresql
    given: Any = (
        upsert.insert(Label)
        .values(id=1, name="new")
        .on_conflict_do_update(index_elements=["id"], set_={"name": "x"})
    )

    def refused(session: Session) -> None:
        with pytest.raises(UsageError, match="which rows of Label an upsert changes"):
            session.execute(given)
        with pytest.raises(UsageError, match="primary keys"):
            session.execute(update(Label).where(Label.id == 1).values(id=5))
        session.execute(given, execution_options={"neverstale": False})
        touch(session, tags=["label:1"])

    await world.write(refused)
    assert world.taken() == {"label:1"}


async def test_an_upsert_is_told_by_the_tag_for_all_rows(world: World) -> None:
    """Where there is one."""
    kind = sqlite if world.engine.dialect.name == "sqlite" else postgresql
    given: Any = (
        kind.insert(Product)
        .values(id=1, name="n", category_id=3)
        .on_conflict_do_update(index_elements=["id"], set_={"category_id": 3})
    )
    await world.write(lambda session: session.execute(given))
    assert world.taken() == {"catalogue"}


async def test_the_callers_result_is_the_callers(world: World) -> None:
    """RETURNING gives what it was asked for, in its order, whatever we ask for beside it."""

    def use(session: Session) -> None:
        given = [{"name": f"n{number}", "category_id": 1} for number in range(3)]
        rows = session.execute(insert(Product).returning(Product.name, Product.category_id), given).all()
        assert sorted(map(tuple, rows)) == [("n0", 1), ("n1", 1), ("n2", 1)]
        assert rows[0].name.startswith("n")
        objects = session.scalars(insert(Product).returning(Product), given).all()
        assert all(isinstance(each, Product) and each in session for each in objects)
        assert (
            session.scalar(insert(Product).values(name="one", category_id=1).returning(Product.name)) == "one"
        )
        one: Any = session.execute(insert(Product).values(name="two", category_id=1))
        assert one.inserted_primary_key[0] > 0
        assert session.execute(insert(Product), given).all() == []
        changed: Any = session.execute(update(Product).where(Product.name == "one").values(price=3))
        assert changed.rowcount == 1
        kept = session.execute(
            update(Product).where(Product.name == "one").values(price=4).returning(Product.price)
        )
        assert kept.scalar_one() == 4
        gone: Any = session.execute(delete(Product).where(Product.name == "one"))
        assert gone.rowcount == 1

    await world.write(use)
    highest: Any = await world.look(lambda session: session.scalars(select(Product.id)).all())
    assert {f"product:{number}" for number in highest if number > 3} <= world.taken()


async def test_parameters_of_a_statement_find_its_rows(world: World) -> None:
    """One set of them, and several."""
    from sqlalchemy import bindparam

    table: Any = Product.__table__
    where = update(table).where(table.c.id == bindparam("number")).values(price=bindparam("paid"))

    def use(session: Session) -> None:
        session.execute(where, {"number": 1, "paid": 5})
        session.execute(where, [{"number": 2, "paid": 5}, {"number": 3, "paid": 5}])

    await world.write(use)
    assert world.taken() >= {"product:1", "product:2", "product:3"}


async def test_rows_of_a_table_without_a_class(world: World) -> None:
    """By their own columns."""

    def use(session: Session) -> None:
        session.execute(
            insert(product_labels), [{"product_id": 2, "label_id": 2}, {"product_id": 3, "label_id": 3}]
        )
        session.execute(product_labels.delete().where(product_labels.c.product_id == 1))

    await world.write(use)
    assert world.taken() == {"product:1", "product:2", "product:3", "label:1", "label:2", "label:3"}


async def test_the_old_query_interface_is_followed(world: World) -> None:
    """`Query.update` and `Query.delete` are statements, too."""

    def use(session: Session) -> None:
        session.query(Review).filter(Review.id == 1).delete()
        session.query(Product).filter(Product.id == 2).update({"price": 1})

    await world.write(use)
    assert world.taken() == {
        "product:1",
        "category:2",
        "products",
        "product:2",
        "category:1",
        "api:products",
    }


@only("sync-sqlite")
async def test_what_is_not_seen(world: World) -> None:
    """Text, the old bulk methods, and statements on the connection: the page says so, and to use `touch`."""

    def unseen(session: Session) -> None:
        session.execute(text("UPDATE products SET price = 1"))
        session.connection().execute(update(Product).values(price=2))
        session.bulk_insert_mappings(Product, [{"name": "x", "category_id": 1}])
        session.bulk_save_objects([Product(name="y", category_id=1)])

    await world.write(unseen)
    assert world.taken() == set()
