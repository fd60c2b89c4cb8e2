"""Random writes in all the ways that there are, each a function of the session and of a source of randomness."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from sqlalchemy import delete, insert, literal, select, text, update
from sqlalchemy.orm import Session

from neverstale.web.sqlalchemy import touch
from tests.orm.models import CATEGORIES, LABELS, Category, Label, Product, Review, product_labels

Write = Callable[[Session, Random], object]
WRITES: list[Write] = []


def write(function: Write) -> Write:
    WRITES.append(function)
    return function


def some(session: Session, model: Any, random: Random) -> Any:
    """Return one object, or None."""
    found = session.scalars(select(model).order_by(model.id)).all()
    return random.choice(found) if found else None


def some_ids(session: Session, random: Random, model: Any = Product) -> list[int]:
    found = session.scalars(select(model.id).order_by(model.id)).all()
    return random.sample(list(found), k=min(len(found), random.randrange(1, 4)))


def category(random: Random) -> int | None:
    found: int | None = random.choice([*CATEGORIES, None])
    return found


def name(random: Random) -> str:
    return f"name {random.randrange(1000)}"


@write
def create(session: Session, random: Random) -> None:
    product = Product(name=name(random), category_id=category(random))
    if random.random() < 0.5:
        product.labels.append(some(session, Label, random))
    session.add(product)
    if random.random() < 0.5:
        session.flush()
        product.price += 1


@write
def create_by_relationship(session: Session, random: Random) -> None:
    session.add(
        Product(name=name(random), category=some(session, Category, random), reviews=[Review(rating=1)])
    )


@write
def change(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        product.price = random.randrange(100)


@write
def change_by_expression(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        product.price = Product.price + 1
        if product.category_id is not None:
            product.category_id = Product.category_id % len(CATEGORIES) + 1


@write
def move(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        product.category_id = category(random)
        if random.random() < 0.5:
            session.flush()
            product.category_id = category(random)


@write
def move_by_relationship(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        product.category = random.choice([some(session, Category, random), None])


@write
def move_unloaded(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        session.flush()
        session.expire(product)
        product.category_id = category(random)


@write
def merge(session: Session, random: Random) -> None:
    for number in some_ids(session, random)[:1]:
        session.merge(Product(id=number, name=name(random), category_id=category(random)))


@write
def remove(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        session.delete(product)


@write
def replace(session: Session, random: Random) -> None:
    """Delete a product and add another under its id: SQLAlchemy makes one UPDATE of it."""
    product = some(session, Product, random)
    if product is not None:
        number = product.id
        session.delete(product)
        session.add(Product(id=number, name=name(random), category_id=category(random), stock=1, price=1))


@write
def rename_category(session: Session, random: Random) -> None:
    some(session, Category, random).name = name(random)


@write
def review(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        product.reviews.append(Review(rating=random.randrange(5)))


@write
def review_by_key(session: Session, random: Random) -> None:
    for number in some_ids(session, random)[:1]:
        session.add(Review(rating=random.randrange(5), product_id=number))


@write
def orphan(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None and product.reviews:
        product.reviews.pop()


@write
def move_review(session: Session, random: Random) -> None:
    moved, product = some(session, Review, random), some(session, Product, random)
    if moved is not None and product is not None:
        moved.product = product


@write
def delete_review(session: Session, random: Random) -> None:
    found = some(session, Review, random)
    if found is not None:
        session.delete(found)


@write
def label(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        chosen = some(session, Label, random)
        if chosen in product.labels:
            product.labels.remove(chosen)
        else:
            product.labels.append(chosen)


@write
def label_from_behind(session: Session, random: Random) -> None:
    product = some(session, Product, random)
    if product is not None:
        some(session, Label, random).products = [product]


@write
def rename_label(session: Session, random: Random) -> None:
    some(session, Label, random).name = name(random)


@write
def bulk_update(session: Session, random: Random) -> None:
    session.execute(
        update(Product)
        .where(Product.category_id == random.choice(CATEGORIES))
        .values(price=random.randrange(9))
    )


@write
def bulk_move(session: Session, random: Random) -> None:
    given = (
        update(Product).where(Product.id.in_(some_ids(session, random))).values(category_id=category(random))
    )
    if random.random() < 0.5:
        given = given.execution_options(synchronize_session=random.choice(["fetch", False]))
        session.execute(given)
        session.expire_all()
    else:
        session.execute(given)


@write
def bulk_update_by_key(session: Session, random: Random) -> None:
    rows = [{"id": number, "category_id": category(random)} for number in some_ids(session, random)]
    if rows:
        session.execute(update(Product), rows)
        session.expire_all()


@write
def bulk_delete(session: Session, random: Random) -> None:
    ids = some_ids(session, random)
    session.execute(delete(Review).where(Review.product_id.in_(ids)))
    session.execute(delete(product_labels).where(product_labels.c.product_id.in_(ids)))
    session.execute(delete(Product).where(Product.id.in_(ids)))


@write
def bulk_delete_reviews(session: Session, random: Random) -> None:
    session.execute(delete(Review).where(Review.rating < random.randrange(5)))


@write
def bulk_delete_by_join(session: Session, random: Random) -> None:
    inside = select(Product.id).where(Product.category_id == random.choice(CATEGORIES))
    session.execute(
        delete(Review).where(Review.product_id.in_(inside)).execution_options(synchronize_session="fetch")
    )


@write
def bulk_insert(session: Session, random: Random) -> None:
    session.execute(
        insert(Product), [{"name": name(random), "category_id": category(random)} for _ in range(2)]
    )


@write
def insert_one(session: Session, random: Random) -> None:
    session.execute(insert(Product).values(name=name(random), category_id=category(random)))


@write
def insert_values(session: Session, random: Random) -> None:
    session.execute(
        insert(Product).values([{"name": name(random), "category_id": category(random)} for _ in range(2)])
    )


@write
def insert_returning(session: Session, random: Random) -> None:
    given = insert(Product).returning(Product.name)
    names = [name(random), name(random)]
    found = session.scalars(given, [{"name": each, "category_id": 1} for each in names]).all()
    assert sorted(names) == sorted(found)


@write
def insert_returning_objects(session: Session, random: Random) -> None:
    given = insert(Product).returning(Product)
    for product in session.scalars(given, [{"name": "new", "category_id": category(random)}]).all():
        product.name = name(random)


@write
def insert_from_select(session: Session, random: Random) -> None:
    chosen = select(literal("copy"), Product.category_id, Product.price).where(
        Product.id.in_(some_ids(session, random))
    )
    session.execute(insert(Product).from_select(["name", "category_id", "price"], chosen))


@write
def core_update(session: Session, random: Random) -> None:
    table: Any = Product.__table__
    session.execute(
        update(table).where(table.c.id.in_(some_ids(session, random))).values(category_id=category(random))
    )
    session.expire_all()


@write
def core_insert(session: Session, random: Random) -> None:
    table: Any = Product.__table__
    session.execute(insert(table), [{"name": name(random), "category_id": 2}])


@write
def core_labels(session: Session, random: Random) -> None:
    session.flush()
    session.execute(delete(product_labels).where(product_labels.c.label_id == random.choice(LABELS)))
    for number in some_ids(session, random):
        given = {"product_id": number, "label_id": 1}
        there = select(product_labels).filter_by(**given)
        if session.execute(there).first() is None:
            session.execute(insert(product_labels).values(**given))
    session.expire_all()


@write
def by_text(session: Session, random: Random) -> None:
    for number in some_ids(session, random)[:1]:
        there = session.execute(
            text("SELECT category_id FROM products WHERE id = :id"), {"id": number}
        ).scalar()
        session.execute(text("UPDATE products SET price = 5 WHERE id = :id"), {"id": number})
        touch(
            session, tags=["products", f"product:{number}", f"category:{there}"], keys=["counts:by-category"]
        )
        session.expire_all()


def transaction(session: Session, random: Random, depth: int = 0, only: list[Write] = WRITES) -> None:
    """Do some writes, some of them in savepoints that are released or rolled back."""
    for _ in range(random.randrange(1, 4)):
        if depth < 2 and random.random() < 0.3:
            inner = session.begin_nested()
            transaction(session, random, depth + 1, only)
            if random.random() < 0.5:
                inner.rollback()
            else:
                inner.commit()
        else:
            random.choice(only)(session, random)
            if random.random() < 0.3:
                session.flush()
