"""Marking a tag stale: for those who prefer speed, never the default."""

from __future__ import annotations

from neverstale import InvalidationEvent
from tests.behaviour.conftest import Make
from tests.behaviour.faces import Face, until


async def test_what_is_marked_stale_is_served_while_one_loads_it_anew(face: Face, other: Face) -> None:
    """The old value is served at once, and one load replaces it; from then on nobody gets it."""
    await face.get_or_load("k", face.loader("old"), tags=["t", "u"])
    receipt = await other.invalidate_tag("t", soft=True, reason="new rating")
    assert (receipt.removed, receipt.soft, receipt.status) == (0, True, "applied")
    held, never = face.loader("new", held=True), other.loader("never called")
    for _ in range(3):
        assert await face.get_or_load("k", held, tags=["t", "u"]) == "old"
        await held.begun()
        assert await other.get_or_load("k", never, tags=["t", "u"]) == "old"
    assert face.stats().stale_hits == 3
    held.let_go()
    await until(lambda: face.stats().fills == 2)
    assert [await each.get_or_load("k", never, tags=["t", "u"]) for each in (face, other)] == ["new"] * 2
    assert (held.calls, never.calls) == (1, 0)


async def test_an_invalidation_is_stronger(face: Face, other: Face) -> None:
    """What is marked stale and then invalidated is not served; and so is what is marked twice."""
    for soft in (False, True):
        await face.get_or_load("k", face.loader("old"), tags=["t"])
        await other.invalidate_tag("t", soft=True)
        assert await other.get_json("k") == "old"
        await other.invalidate_tag("t", soft=soft)
        assert [await each.get_json("k") for each in (face, other)] == [None, None]


async def test_a_load_that_was_in_flight(face: Face, other: Face) -> None:
    """What was being loaded when its tag was marked is stale, too."""
    held = face.loader("old", held=True)
    task = face.start("get_or_load", "k", held, tags=["t"])
    await held.begun()
    await other.invalidate_tag("t", soft=True)
    held.let_go()
    assert await task == "old"
    loader = other.loader("new")
    assert await other.get_or_load("k", loader, tags=["t"]) == "old"
    await until(lambda: other.stats().fills == 1)
    assert await face.get_json("k") == "new"


async def test_of_several_tags_one_is_enough(face: Face) -> None:
    """Stale by one tag and invalid by another is invalid."""
    await face.set("k", "v", tags=["t", "u"])
    await face.invalidate_tag("t", soft=True)
    await face.invalidate_tag("u")
    assert await face.get("k") is None


async def test_a_tag_that_is_marked_before_it_was_ever_seen(face: Face) -> None:
    """There is nothing to serve once more."""
    await face.invalidate_tag("t", soft=True)
    assert await face.get_or_load("k", face.loader("v"), tags=["t"]) == "v"
    assert await face.get_json("k") == "v"


async def test_it_is_told(make: Make) -> None:
    """The event says that it was soft, why, and who did it."""
    face = make()
    heard: list[InvalidationEvent] = []
    face.events.subscribe(heard.append, InvalidationEvent)
    await face.invalidate_tags("t", "u", soft=True, reason="new rating")
    await face.invalidate_key("k", reason="by hand")
    await face.invalidate_pattern("k*")
    assert [(event.kind, event.soft, event.reason) for event in heard] == [
        ("tag", True, "new rating"),
        ("key", False, "by hand"),
        ("pattern", False, None),
    ]
    assert len({event.origin for event in heard}) == 1
    host, _, process = heard[0].origin.rpartition("/")
    assert host
    assert process.partition("-")[0].isdigit()
