"""Two versions of an application side by side, and the whole namespace at once."""

from __future__ import annotations

from contextlib import suppress

from neverstale import UsageError
from tests.behaviour.conftest import Make


async def test_a_key_goes_in_the_neighbouring_versions_too(make: Make) -> None:
    """During a deploy a write in the old version reaches what the new one has cached, and the other way round."""
    old, new, far = (make(namespace="shop", version=version, prefix="api:") for version in (9, 10, 12))
    for writer, reader in ((old, new), (new, old)):
        for each in (old, new, far):
            await each.set_many({"k": "v", "l": "v", "other": "v", "x" * 600: "v"})
        receipt = await writer.invalidate_keys("k", "l", "x" * 600)
        assert (receipt.kind, receipt.names, receipt.removed) == ("key", ("k", "l", "x" * 600), 3)
        assert await reader.get_many(["k", "l", "other", "x" * 600]) == {"other": "v"}
    assert len(await far.get_many(["k", "l"])) == 2


async def test_a_load_of_the_other_version_is_cancelled(make: Make) -> None:
    """What the other version was loading when a key was invalidated is not stored."""
    old, new = make(namespace="shop"), make(namespace="shop", version=2)
    loader = new.loader("old", held=True)
    task = new.start("get_or_load", "k", loader)
    await loader.begun()
    await old.invalidate_key("k")
    loader.let_go()
    assert await task == "old"
    assert await new.get_or_load("k", new.loader("new")) == "new"


async def test_nothing_old_is_read_after_the_version_was_raised(make: Make) -> None:
    """What another version has stored is a miss."""
    old, new = make(namespace="shop"), make(namespace="shop", version=2)
    await old.set("k", "old")
    assert await new.get("k") is None
    assert await new.get_or_load("k", new.loader("new")) == "new"
    assert await old.get("k") == "old"


async def test_delete_tells_of_this_version_alone(make: Make) -> None:
    """`delete` says whether there was a value that this version would have read."""
    old, new = make(namespace="shop"), make(namespace="shop", version=2)
    await old.set("k", "v")
    assert await new.delete("k") is False
    assert await old.get("k") is None


async def test_clear(make: Make) -> None:
    """The whole namespace goes in one step, all prefixes and versions, and nothing of others."""
    inside = [
        make(namespace="shop"),
        make(namespace="shop", prefix="api:"),
        make(namespace="shop", version=30, prefix="x:y:"),
    ]
    outside = [make(), make(namespace="shop2"), make(namespace="my.shop")]
    for each in (*inside, *outside):
        await each.set_many({"k": "v", "v1:k": "v"}, tags=["t"])
    receipt = await inside[1].clear(reason="prices came in wrong")
    assert (receipt.kind, receipt.names, receipt.removed) == ("pattern", ("*",), 6)
    assert [await each.get_many(["k", "v1:k"]) for each in inside] == [{}] * 3
    assert [len(await each.get_many(["k", "v1:k"])) for each in outside] == [2] * 3


async def test_clear_cancels_loads(make: Make) -> None:
    """What is being loaded while the namespace is cleared is not stored."""
    face, other = make(namespace="shop", prefix="api:"), make(namespace="shop")
    loader = face.loader("old", held=True)
    task = face.start("get_or_load", "k", loader)
    await loader.begun()
    await other.clear()
    loader.let_go()
    assert await task == "old"
    assert await face.get("k") is None


async def test_no_keys_are_nothing(make: Make) -> None:
    """Without keys there is nothing to do, and no event."""
    face = make()
    heard: list[object] = []
    face.events.subscribe(heard.append)
    heard.clear()
    assert (await face.invalidate_keys()).removed == 0
    assert heard == []


async def test_the_longest_prefix_in_every_version(make: Make) -> None:
    """A prefix that one version may have, its neighbours may have: else its keys could not be invalidated."""
    for version in (1, 9, 99, 99_999, 999_999):
        prefix = "p" * 400
        while True:
            with suppress(UsageError):
                face = make(version=version, prefix=prefix)
                break
            prefix = prefix[1:]
        await face.set("k", "v")
        assert (await face.invalidate_key("k")).removed == 1
