"""What is computed, when, and what is served meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from neverstale import UsageError
from neverstale.computed import AsyncComputed, Computed
from neverstale.testing.servers import Server
from tests.behaviour.faces import until
from tests.computed.conftest import ComputedFace, Make, on_one_server, past_its_ttl, stored

DAY = 86_400_000
#: So short that a test need not wait for it, and kept for so long that it is there for sure.
SOON: dict[str, Any] = {"ttl": 0.02, "jitter": 0.0, "stale_if_error": 60}


async def kept(face: ComputedFace, server: Server, **options: Any) -> None:
    """Have an old value that is past its TTL and kept."""
    assert await face.memoize("k", face.loader("old"), **{**SOON, **options}) == "old"
    await past_its_ttl(server)


async def test_one_computation_for_all(face: ComputedFace, other: ComputedFace) -> None:
    """However many ask, in several processes, it runs once; then it is a hit."""
    loader = face.loader(7, held=True)
    asking = [each.start("memoize", "k", loader, 60) for each in (face, other) for _ in range(20)]
    await loader.begun()
    loader.let_go()
    assert await asyncio.gather(*asking) == [7] * 40
    assert await other.memoize("k", loader, 60) == 7
    assert loader.calls == 1


async def test_where_it_is(face: ComputedFace, server: Server) -> None:
    """A value is under the prefix `computed:`, lives for its TTL less the jitter, and None is one."""
    loader = face.loader(None)
    assert [await face.memoize("k", loader, 10) for _ in range(2)] == [None, None]
    assert server.keys() == [b"v1:computed:k"]
    assert 8_000 < server.client().pttl("v1:computed:k") <= 10_000
    assert (loader.calls, face.cache.cache.prefix, face.stats().hits) == (1, "computed:", 1)


@on_one_server
async def test_stale_while_it_is_renewed(face: ComputedFace) -> None:
    """Past its soft TTL a value is served at once, and renewed in the background."""
    options: dict[str, Any] = {"soft_ttl": 0.02, "jitter": 0.0, "beta": 0.0}
    await face.memoize("k", face.loader("old"), 60, **options)
    new = face.loader("new", held=True)
    while face.stats().stale_hits == 0:
        assert await face.memoize("k", new, 60, **options) == "old"
    await new.begun()
    assert await face.memoize("k", new, 60, **options) == "old"
    new.let_go()
    await until(lambda: face.stats().fills == 2)
    assert await face.memoize("k", new, 60) == "new"
    assert new.calls == 1


async def test_what_costs_much_is_renewed_early(face: ComputedFace, server: Server) -> None:
    """A value is renewed in the background before it ends, while it is served: nobody waits for it again."""
    options: dict[str, Any] = {"jitter": 0.0, "beta": 1.0}
    await face.memoize("k", face.loader("old"), 60, **options)
    # As if it had taken twenty minutes to compute: by chance, but sooner or later for certain.
    server.client().setrange("v1:computed:k", 58, (1_200_000_000).to_bytes(4, "big"))
    new = face.loader("new", held=True)
    while not new.calls:
        assert await face.memoize("k", new, 60, **options) == "old"
    new.let_go()
    await until(lambda: face.stats().fills == 2)
    assert await face.memoize("k", new, 60, **options) == "new"
    assert face.stats().misses == 1


# --- failing ------------------------------------------------------------------------------------------------------


async def test_a_kept_value_serves_where_computing_fails(
    face: ComputedFace, other: ComputedFace, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Past its TTL the old value is served while the computation fails, which is not repeated for a second."""
    await kept(face, server)
    broken = face.loader(LookupError("no database"))
    with caplog.at_level(logging.WARNING, "neverstale"):
        found = [await each.memoize("k", broken, **SOON) for each in (face, other) for _ in range(10)]
    assert found == ["old"] * 20
    assert (broken.calls, face.stats().load_errors, face.stats().fallbacks) == (1, 1, 10)
    # One line, by the one who computed.
    assert [record.getMessage() for record in caplog.records if "no database" in record.getMessage()] == [
        "a value past its TTL is served, for its load failed: LookupError('no database')"
    ]
    # As if the pause after a failure were over: the place in the header that says until when it lasts.
    server.client().setrange("v1:computed:k", 34, bytes(8))
    assert await face.memoize("k", face.loader("new"), 60) == "new"
    assert await other.memoize("k", broken, 60) == "new"


@on_one_server
async def test_a_kept_value_waits_for_the_computation(face: ComputedFace, server: Server) -> None:
    """Past its TTL a value is not served while the computation runs and has all the time."""
    await kept(face, server)
    new = face.loader("new", held=True)
    asking = [face.start("memoize", "k", new, **SOON) for _ in range(5)]
    await new.begun()
    new.let_go()
    assert await asyncio.gather(*asking) == ["new"] * 5
    assert new.calls == 1


@on_one_server
async def test_nothing_is_kept_unless_it_is_asked_for(face: ComputedFace, server: Server) -> None:
    """Without `stale_if_error` a value is gone at its TTL, and the error of the computation is raised as it is."""
    await face.memoize("k", face.loader("old"), 0.02)
    await until(lambda: not server.keys())
    with pytest.raises(LookupError):
        await face.memoize("k", face.loader(LookupError()), 60)


@pytest.mark.parametrize("how", ["key", "pattern", "tag", "stamp"])
async def test_what_was_invalidated_is_never_served(
    face: ComputedFace, other: ComputedFace, server: Server, how: str
) -> None:
    """After an invalidation the error is raised: the old value is not, however long it would have been kept."""
    await kept(face, server, tags=["t"])
    broken = face.loader(LookupError())
    assert await face.memoize("k", broken, **SOON, tags=["t"]) == "old"
    if how == "stamp":  # a tag, by a process that died before it cleared what carries it
        assert server.client().set("cache:tag:{t}:stamp", "another@1", xx=True, ex=600)
    else:
        await {
            "key": lambda: other.invalidate_key("k"),
            "pattern": lambda: other.invalidate_pattern("*"),
            "tag": lambda: other.invalidate_tags("t"),
        }[how]()
    for each in (face, other):
        with pytest.raises(LookupError):
            await each.memoize("k", broken, **SOON, tags=["t"], soft_timeout=0.01)


async def test_an_invalidation_while_it_is_computed_anew(
    face: ComputedFace, other: ComputedFace, server: Server
) -> None:
    """What is computed from before an invalidation is not stored after it, in the place of a kept value either."""
    await kept(face, server)
    old = face.loader("computed too early", held=True)
    asking = face.start("memoize", "k", old, 60)
    await old.begun()
    await other.invalidate_key("k")
    assert await other.memoize("k", other.loader("new"), 60) == "new"
    old.let_go()
    await asking
    assert await face.memoize("k", old, 60) == "new"


@on_one_server
async def test_how_long_it_is_kept(face: ComputedFace, server: Server) -> None:
    """The value is kept past its TTL for as long as was said, a day in all; it is the keeping that is shortened."""
    hour = 3_600_000
    for key, ttl, more, total in (
        ("a", 3600, 3600, 2 * hour),
        ("b", 82_800, 82_800, DAY),
        ("c", 1e9, 60, DAY),
    ):
        await face.memoize(key, face.loader(1), ttl, stale_if_error=more, jitter=0.0)
        assert total - 5_000 < server.client().pttl(f"v1:computed:{key}") <= total
        found = stored(server, key)
        assert found is not None
        if key == "b":
            assert found.hard_at - found.soft_at == 0
    made = make_life(face, ttl=82_800, stale_if_error=82_800)
    assert (made.fresh_ms, made.kept_ms) == (82_800_000, DAY - 82_800_000)


def make_life(face: ComputedFace, **options: Any) -> Any:
    defaults = dict.fromkeys(("ttl", "soft_ttl", "stale_if_error", "soft_timeout", "hard_timeout"), None) | {
        "lease_ttl": 30,
        "beta": 1.0,
        "jitter": 0.1,
    }
    return face.cache._rule(*(defaults | options).values()).life


# --- the rest -----------------------------------------------------------------------------------------------------


@on_one_server
async def test_a_computation_may_take_longer_than_a_load(make: Make, server: Server) -> None:
    """The lease is that of computed values, not of the settings, and so long others wait for it."""
    first, second = make(lease_ttl=0.1, wait_limit=0.05), make(lease_ttl=0.1, wait_limit=0.05)
    loader = first.loader("once", held=True)
    asking = [each.start("memoize", "k", loader, 60) for each in (first, second)]
    await loader.begun()
    await until(lambda: first.stats().waits + second.stats().waits == 1)
    # Longer than the lease and the limit of the settings.
    await until(lambda: 0 < server.client().pttl("v1:computed:k") < 30_000 - 200)
    loader.let_go()
    assert await asyncio.gather(*asking) == ["once"] * 2
    assert (loader.calls, first.stats().fills + second.stats().fills) == (1, 1)


@on_one_server
async def test_longer_than_its_lease(face: ComputedFace, server: Server) -> None:
    """What takes longer than `lease_ttl` is given to who asked, and not stored."""
    loader = face.loader("late", held=True)
    asking = face.start("memoize", "k", loader, 60, lease_ttl=0.05)
    await loader.begun()
    assert server.client().pttl("v1:computed:k") <= 50
    await until(lambda: not server.keys())
    loader.let_go()
    assert await asking == "late"
    assert (server.keys(), face.stats().fills_dropped) == ([], 1)


@on_one_server
async def test_without_redis(make: Make, server: Server) -> None:
    """Without Redis it is computed, and who waits for its turn shares with others who do."""
    face = make(timeout=0.05)
    server.freeze()
    loader = face.loader(1, held=True)
    asking = [face.start("memoize", "k", loader, 60) for _ in range(10)]
    await loader.begun()
    loader.let_go()
    assert await asyncio.gather(*asking) == [1] * 10
    assert loader.most_at_once == 1


@on_one_server
async def test_the_decorator(face: ComputedFace, server: Server) -> None:
    """A function is memoized by its arguments, with all options, and can be told to forget."""
    calls: list[int] = []

    def double(number: int) -> int:
        calls.append(number)
        if len(calls) == 2:
            raise LookupError
        return 2 * number

    options = {**SOON, "tags": lambda number: [f"n:{number}"], "key": lambda number: f"n{number}"}
    decorated = face.cache.memoized(**options)(face.fitting(double))
    assert await face.call(decorated, 4) == 8
    await past_its_ttl(server, "n4")
    assert await face.call(decorated, 4) == 8  # computing failed
    assert (await face.call(decorated.invalidate, 4)).removed == 1
    assert await face.call(decorated, 4) == 8
    assert (await face.invalidate_tags("n:4")).removed == 1
    assert (calls, decorated.key(4), decorated.__name__) == ([4, 4, 4], "n4", "double")


@on_one_server
@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"soft_ttl": "5"},
        {"stale_if_error": -1},
        {"soft_timeout": True, "stale_if_error": 5},
        {"soft_timeout": 1},  # there would never be anything to serve
        {"hard_timeout": float("inf")},
        {"hard_timeout": 4000},
        {"lease_ttl": 4000},
        {"lease_ttl": None},
        {"beta": -1},
        {"beta": float("nan")},
        {"beta": float("inf")},
        {"jitter": 1.5},
        {"jitter": "much"},
        {"jitter": []},
    ],
)
async def test_wrong_options(face: ComputedFace, wrong: dict[str, Any]) -> None:
    """A wrong option is an error that names it, before anything is computed; for the decorator at once."""
    name = next(iter(wrong))
    with pytest.raises(UsageError, match=name):
        await face.memoize("k", face.loader(1), **wrong)
    with pytest.raises(UsageError, match=name):
        face.cache.memoized(**wrong)


@on_one_server
async def test_wrong_arguments(face: ComputedFace) -> None:
    """Other wrong arguments are told as plainly."""
    with pytest.raises(UsageError, match="parentheses"):
        face.cache.memoized(face.fitting(len))
    with pytest.raises(UsageError, match="not int"):
        await face.memoize("k", 5, 60)
    with pytest.raises(UsageError, match="not one string"):
        await face.memoize("k", face.loader(1), 60, tags="t")


@on_one_server
async def test_its_name(face: ComputedFace) -> None:
    """Its repr says which cache it is in."""
    assert type(face.cache) in (Computed, AsyncComputed)
    assert "'v1:computed:'" in repr(face.cache)
