"""A small shop whose models say what they invalidate, and the answers that it caches."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ForeignKey, String, Table, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from neverstale import add_tags
from neverstale.web.sqlalchemy import invalidates


class Base(DeclarativeBase):
    pass


product_labels = Table(
    "product_labels",
    Base.metadata,
    Column("product_id", ForeignKey("products.id", ondelete="CASCADE"), primary_key=True),
    Column("label_id", ForeignKey("labels.id", ondelete="CASCADE"), primary_key=True),
)
invalidates("product:{product_id}", "label:{label_id}")(product_labels)


@invalidates("category:{id}", "categories")
class Category(Base):
    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    products: Mapped[list[Product]] = relationship(back_populates="category")


@invalidates("label:{id}")
class Label(Base):
    __tablename__ = "labels"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    products: Mapped[list[Product]] = relationship(secondary=product_labels, back_populates="labels")


@invalidates(keys=["counts:by-category"], columns=["category_id"])
@invalidates(
    "products",
    "product:{id}",
    lambda product: f"category:{product.category_id}",
    keys=["api:products"],
    whole="catalogue",
)
class Product(Base):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    price: Mapped[int] = mapped_column(default=100)
    stock: Mapped[int] = mapped_column(server_default="7")
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.id"))
    category: Mapped[Category | None] = relationship(back_populates="products")
    reviews: Mapped[list[Review]] = relationship(back_populates="product", cascade="all, delete-orphan")
    labels: Mapped[list[Label]] = relationship(secondary=product_labels, back_populates="products")


@invalidates("product:{product_id}", "category:{product.category_id}")
class Review(Base):
    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(primary_key=True)
    rating: Mapped[int]
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id", ondelete="CASCADE"))
    product: Mapped[Product] = relationship(back_populates="reviews")


# --- what is cached: the name of an answer, its tags, and how it is made ------------------------------------------

CATEGORIES = range(1, 5)
LABELS = range(1, 4)


def answers(most: int) -> dict[str, tuple[str, ...]]:
    """Return every answer with its tags; products up to an id, also of those that are not there."""
    found: dict[str, tuple[str, ...]] = {
        "all": ("products", "catalogue"),
        "counts:by-category": ("categories", "catalogue"),
    }
    found |= {f"product:{number}": (f"product:{number}", "catalogue") for number in range(1, most + 1)}
    found |= {f"category:{number}": (f"category:{number}", "catalogue") for number in (*CATEGORIES, None)}
    found |= {f"label:{number}": (f"label:{number}", "catalogue") for number in LABELS}
    return found


def answer(session: Session, name: str) -> Any:
    """Make an answer from the database; may name tags."""
    kind, _, rest = name.partition(":")
    number = None if rest == "None" or not rest.isdigit() else int(rest)
    if kind == "all":
        return rows(
            session, select(Product.id, Product.name, Product.price, Product.stock).order_by(Product.id)
        )
    if kind == "counts":
        counted = select(Product.category_id, func.count()).group_by(Product.category_id)
        return sorted(rows(session, counted), key=str)
    if kind == "product":
        product = rows(
            session,
            select(Product.name, Product.price, Product.stock, Product.category_id, Category.name)
            .outerjoin(Category)
            .where(Product.id == number),
        )
        if product and product[0][3] is not None:
            add_tags(f"category:{product[0][3]}")
        reviews = rows(
            session, select(Review.id, Review.rating).where(Review.product_id == number).order_by(Review.id)
        )
        labels = rows(
            session,
            select(Label.id, Label.name).join(Label.products).where(Product.id == number).order_by(Label.id),
        )
        add_tags(*(f"label:{label[0]}" for label in labels))
        return [product, reviews, labels]
    if kind == "category":
        rated = (
            select(Product.id, Product.name, Product.price, func.sum(Review.rating))
            .outerjoin(Product.reviews)
            .where(Product.category_id.is_(None) if number is None else Product.category_id == number)
            .group_by(Product.id, Product.name, Product.price)
            .order_by(Product.id)
        )
        return [rows(session, select(Category.name).where(Category.id == number)), rows(session, rated)]
    assert kind == "label", name
    shown = select(product_labels.c.product_id).where(product_labels.c.label_id == number)
    return [rows(session, select(Label.name).where(Label.id == number)), sorted(rows(session, shown))]


def rows(session: Session, query: Any) -> list[list[Any]]:
    return [list(row) for row in session.execute(query)]


def fill(session: Session) -> None:
    """Put in what the tests begin with: three products in two categories."""
    session.add_all(Category(id=number, name=f"category {number}") for number in CATEGORIES)
    session.add_all(Label(id=number, name=f"label {number}") for number in LABELS)
    session.flush()
    session.add_all(
        Product(id=number, name=f"product {number}", category_id=1 + number % 2, stock=7)
        for number in (1, 2, 3)
    )
    session.flush()
    session.add(Review(id=1, rating=3, product_id=1))
    session.execute(product_labels.insert(), [{"product_id": 1, "label_id": 1}])


def with_savepoints(engine: Any) -> None:
    """Let SQLAlchemy say BEGIN: SQLite's driver would forget about savepoints."""
    event.listen(engine, "connect", _plain)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def _plain(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()
