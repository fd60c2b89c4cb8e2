"""What a model can say, and what it is told when it says something wrong."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, deferred, mapped_column, relationship

from neverstale import UsageError
from neverstale.web.sqlalchemy import invalidates
from neverstale.web.sqlalchemy.rules import Rules, rules_of_class, rules_of_table
from neverstale.web.sqlalchemy.templates import parse


@pytest.fixture
def base() -> Any:
    class Base(DeclarativeBase):
        pass

    yield Base
    Base.registry.dispose()
    gc.collect()


def thing(base: Any) -> Any:
    class Thing(base):  # type: ignore[misc]
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(20))
        big: Mapped[str] = deferred(mapped_column(String(20)))

    return Thing


def rules_of(model: Any) -> Rules:
    (found,) = rules_of_class(model.__mapper__)
    found.make_ready()
    return found


def test_placeholders_are_written_as_an_f_string_writes_them() -> None:
    """A number, a text, nothing, and a format."""
    assert parse("a:{x}:{y:03d}:{{z}}").render({"x": None, "y": 7}) == "a:None:007:{z}"


@pytest.mark.parametrize("name", ["{", "{}", "{0}", "{a!r}", "{a[0]}", "{a.b}{c.d}", "", "{a:{b}}"])
def test_what_is_no_template_is_refused(name: str) -> None:
    """With an error that shows it."""
    with pytest.raises(UsageError):
        parse(name)


@pytest.mark.parametrize("name", ["x:{nothing}", "x:{owner.id}", 7, ""])
def test_a_name_of_nothing_is_refused_where_it_is_said(base: Any, name: Any) -> None:
    """Not at the first write."""
    with pytest.raises(UsageError):
        invalidates(name)(thing(base))


def test_one_string_is_no_list_of_keys(base: Any) -> None:
    """The usual slip."""
    with pytest.raises(UsageError, match="not one string"):
        invalidates(keys="key")(thing(base))


def test_a_tag_for_all_is_a_tag(base: Any) -> None:
    """It is checked as any other."""
    with pytest.raises(UsageError):
        invalidates(whole="x" * 300)(thing(base))


@pytest.mark.parametrize("subject", [object(), int, "things"])
def test_only_what_is_mapped_can_say_something(subject: Any) -> None:
    """Classes and tables."""
    with pytest.raises(UsageError, match="mapped classes"):
        invalidates("x")(subject)


def test_a_path_that_leads_nowhere_is_refused_when_mappers_are_configured(base: Any) -> None:
    """Before anything can be written."""
    owner = thing(base)

    class Part(base):  # type: ignore[misc]
        __tablename__ = "parts"
        id: Mapped[int] = mapped_column(primary_key=True)
        thing_id: Mapped[int] = mapped_column(ForeignKey("things.id"))
        thing: Mapped[Any] = relationship(owner)

    invalidates("x:{thing.nothing}")(Part)
    with pytest.raises(UsageError, match="Thing has no column 'nothing'"):
        configure_mappers()
    Part.__neverstale_rules__._tags.clear()


def test_several_declarations_add_up_and_subclasses_inherit(base: Any) -> None:
    """What is said of a class holds for those that inherit from it."""

    @invalidates("thing:{id}")
    @invalidates("things")
    class Thing(base):  # type: ignore[misc]
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str] = mapped_column(String(20))
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "thing"}  # noqa: RUF012

    @invalidates("chairs")
    class Chair(Thing):
        __mapper_args__ = {"polymorphic_identity": "chair"}  # noqa: RUF012

    tags = [tag for rules in rules_of_class(Chair.__mapper__) for tag in rules.own({"id": 1}).tags]
    assert sorted(tags) == ["chairs", "thing:1", "things"]
    assert len(rules_of_table(Thing.__table__)) == 2


def test_a_function_is_given_the_columns_and_returns_one_name_or_several(base: Any) -> None:
    """All that are not deferred; asking for another says so."""
    model = invalidates(lambda row: f"one:{row.id}", lambda row: ["two", row.name], keys=[lambda row: ()])(
        thing(base)
    )
    rules = rules_of(model)
    assert rules.columns == ("id", "name")
    assert rules.own({"id": 1, "name": "n"}) == (("one:1", "two", "n"), ())
    invalidates(lambda row: row.big)(model)
    with pytest.raises(AttributeError, match="not deferred"):
        rules.own({"id": 1, "name": "n"})


def test_what_a_function_returns_is_checked(base: Any) -> None:
    """Names are strings."""
    rules = rules_of(invalidates(lambda row: [row.id])(thing(base)))
    with pytest.raises(UsageError, match="strings"):
        rules.own({"id": 1, "name": "n"})


def test_a_table_can_say_something(base: Any) -> None:
    """The same for a table without a class."""
    table = Table("links", MetaData(), Column("a", Integer), Column("b", Integer))
    assert invalidates("a:{a}")(table) is table
    (rules,) = rules_of_table(table)
    rules.make_ready()
    assert rules.own({"a": 1, "b": 2}).tags == ("a:1",)
    with pytest.raises(UsageError, match="no relationship"):
        invalidates("a:{a.b}")(table)
