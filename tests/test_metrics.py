"""Figures: of this process for Prometheus, and of all processes together in Redis."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from neverstale import Cache, CounterSnapshot, InvalidationError, UsageError
from neverstale.counters import LOAD_BOUNDS, REDIS_BOUNDS, Counters
from neverstale.metrics import exposition, metrics_app, metrics_wsgi, nodes, reporter
from neverstale.metrics.figures import OTHERS, PREFIXES, Differences, Names, read_figures, written_figures
from neverstale.metrics.totals import Report, StatKeys
from neverstale.testing.servers import RedisServer, Server, binaries, frozen
from tests.behaviour.faces import KINDS, Face, Faces, open_faces, until

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
counts = st.integers(0, 2**40)


@pytest.fixture(params=KINDS)
async def faces(request: pytest.FixtureRequest) -> AsyncIterator[Faces]:
    async with open_faces(request.param, "") as opened:
        yield opened


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report so often that a test need not wait."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.02)


@asynccontextmanager
async def reporting(face: Face) -> AsyncIterator[None]:
    if face.kind == "async":
        async with face.cache.reporting():
            yield
        return
    block = face.cache.reporting()
    await face.call(block.__enter__)
    try:
        yield
    finally:
        await face.call(block.__exit__, None, None, None)


# --- differences ----------------------------------------------------------------------------------------------------


def test_a_difference_is_taken_once() -> None:
    """What was counted since the last time, by prefix; nothing of those where nothing was."""
    api, other = Counters(hits=3), Counters()
    differences = Differences({"api:": api, "other:": other})
    assert differences.take() == {"api:": CounterSnapshot(hits=3)}
    api.hits += 2
    other.misses += 1
    assert differences.take() == {"api:": CounterSnapshot(hits=2), "other:": CounterSnapshot(misses=1)}
    assert differences.take() == {}


def test_prefixes_beyond_the_first_fifty_are_one() -> None:
    """Prefixes made of input fill neither Redis nor Prometheus, and nothing that they counted is lost."""
    counters = {f"user{number}:": Counters(hits=1) for number in range(200)}
    taken = Differences(counters).take()
    assert len(taken) == 51
    assert taken[OTHERS].hits == 150


def test_names_are_those_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a directory for all workers the first fifty are the same ones for each; a full disk names nothing new."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    one, other, alone = Names(of_all=True), Names(of_all=True), Names()
    assert [one.name(f"one{number}:") for number in range(30)] == [f"one{number}:" for number in range(30)]
    assert [other.name(f"other{number}:") for number in range(30)].count(OTHERS) == 10
    assert (one.name("other19:"), one.name("other20:"), one.name("more:")) == ("other19:", OTHERS, OTHERS)
    assert (other.name("one0:"), alone.name("more:")) == ("one0:", "more:")

    empty = tmp_path / "empty"
    (empty / "neverstale-prefixes.new").mkdir(parents=True)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(empty))
    late = Names(of_all=True)
    assert late.name("api:") == OTHERS
    (empty / "neverstale-prefixes.new").rmdir()
    assert late.name("api:") == "api:"


@given(
    st.dictionaries(
        st.text(max_size=10),
        st.builds(
            CounterSnapshot,
            hits=counts,
            removed=counts,
            redis_seconds=st.integers(0, 10**9).map(lambda micros: micros / 1e6),
            redis_times=st.tuples(*[counts] * (len(REDIS_BOUNDS) + 1)),
            load_times=st.tuples(*[counts] * (len(LOAD_BOUNDS) + 1)),
        ),
        max_size=5,
    )
)
def test_figures_come_back(figures: dict[str, CounterSnapshot]) -> None:
    """Written as fields of a hash and read again, they are the same, whatever a prefix looks like."""
    fields = {name.encode(): str(value).encode() for name, value in written_figures(figures)}
    assert read_figures(fields) == {
        prefix: snapshot for prefix, snapshot in figures.items() if snapshot != CounterSnapshot()
    }


def test_figures_of_another_release_are_left_out() -> None:
    """A name or a bucket that is not known here is no error."""
    fields = {b"hits:api:": b"3", b"photons:api:": b"1", b"redis_times.99:api:": b"4"}
    assert read_figures(fields) == {"api:": CounterSnapshot(hits=3)}


# --- all processes together -------------------------------------------------------------------------------------------


async def test_what_was_counted_reaches_the_totals(faces: Faces, server: Server) -> None:
    """When the block ends, all that each of two has counted is there, added up."""
    one, other = faces.make(server.url, namespace="shop"), faces.make(server.url, namespace="shop")
    async with reporting(one), reporting(other):
        for face in (one, other):
            api = face.with_prefix("api:")
            await api.get_or_load("k", face.loader(1), tags=["t"])
            await api.get_or_load("k", face.loader(1), tags=["t"])
            await api.get("nothing")
            await face.set("plain", "1")
        await one.invalidate_tag("t")
    found = await one.totals()
    assert set(found.prefixes) == {"", "api:"}
    for prefix in ("", "api:"):
        expected = one.stats(prefix).plus(other.stats(prefix))
        assert plain(found.prefixes[prefix]) == plain(expected)
        assert found.prefixes[prefix].redis_times == expected.redis_times
        assert found.prefixes[prefix].redis_seconds == pytest.approx(expected.redis_seconds, abs=1e-4)
    assert found.all.reads == 6
    (span,) = [span for span in await one.series(60) if span.prefixes]
    assert span.prefixes == found.prefixes
    assert span.at <= found.at
    assert found.since(found).all == CounterSnapshot()


def plain(snapshot: CounterSnapshot) -> dict[str, Any]:
    return {name: value for name, value in snapshot.as_dict().items() if not name.endswith("_seconds")}


@pytest.mark.usefixtures("often")
async def test_processes_that_report_are_counted(faces: Faces, redis_server: RedisServer) -> None:
    """Each counts while it reports, and not after its end."""
    one, other = faces.make(redis_server.url), faces.make(redis_server.url)
    async with reporting(one):
        async with reporting(other):
            await reach(one, 2)
        await reach(one, 1)
    assert (await one.totals()).processes == 0


async def reach(face: Face, processes: int) -> None:
    async with asyncio.timeout(20):
        while (await face.totals()).processes != processes:  # noqa: ASYNC110 - Redis has no event for it
            await asyncio.sleep(0.01)


async def test_a_report_that_arrives_twice_counts_once(faces: Faces, server: Server) -> None:
    """Whoever did not hear the answer sends it again, under its number."""
    face = faces.make(server.url)
    keys = StatKeys("", 1)
    client = server.client()
    report = Report(keys, "p", 7, (await face.totals()).at, [("hits:", 3)], [("0:k", 64)], [("t", 64)])
    for again in (report, report):
        assert client.execute_command(*again.words())[0] == 1
    assert (await face.totals()).all.hits == 3
    next_one = Report(keys, "p", 8, report.seconds, [("hits:", 2)])
    assert client.execute_command(*next_one.words())[0] == 1
    assert (await face.totals()).all.hits == 5


async def test_fifty_prefixes_of_all_processes(faces: Faces, server: Server) -> None:
    """However many processes report, with other prefixes each: the first stay, and nothing of the rest is lost."""
    face = faces.make(server.url)
    keys, client = StatKeys("", 1), server.client()
    before: dict[str, CounterSnapshot] = {}
    for process in range(4):
        names = ["common:", OTHERS, *(f"tenant:{process}:{number}:" for number in range(30))]
        figures = [(f"{name}:{prefix}", 1) for prefix in names for name in ("hits", "redis_times.3")]
        report = Report(keys, f"p{process}", 1, (await face.totals()).at, figures)
        assert client.execute_command(*report.words())[0] == 1
        found = (await face.totals()).prefixes
        assert len(found) <= PREFIXES + 1
        assert found["common:"].hits == process + 1
        assert all(found[prefix].hits >= snapshot.hits for prefix, snapshot in before.items())
        before = dict(found)
    totals = await face.totals()
    assert len(totals.prefixes) == PREFIXES + 1
    assert (totals.all.hits, totals.all.redis_times[3]) == (4 * 32, 4 * 32)
    assert set().union(*(span.prefixes for span in await face.series(60))) == set(totals.prefixes)


async def test_clocks_may_differ(faces: Faces, redis_server: RedisServer) -> None:
    """A process whose clock is wrong counts at the time of Redis' clock."""
    face = faces.make(redis_server.url)
    face.cache._shared.reporter._offset = -5000.0
    async with reporting(face):
        await face.get("k")
    spans = [span for span in await face.series(60) if span.prefixes]
    assert [span.all.misses for span in spans] == [1]


@pytest.mark.usefixtures("often")
async def test_redis_away_is_no_error(faces: Faces, redis_server: RedisServer) -> None:
    """What is counted while Redis is away is reported when it is back, and nothing twice."""
    face = faces.make(redis_server.url, timeout=0.05)
    async with reporting(face):
        await face.get("k")
        with frozen(redis_server):
            await face.get("k")
            failed = face.cache._shared.reporter.counters
            await until(lambda: failed.errors >= 2)
        await face.get("k")
    stats = face.stats()
    assert stats.misses == 3
    assert plain((await face.totals()).all) == plain(stats)


@pytest.mark.usefixtures("often")
async def test_a_field_of_somebody_else_ends_no_report(faces: Faces, redis_server: RedisServer) -> None:
    """It is left as it is; all others are counted, once."""
    one, client = faces.make(redis_server.url, namespace="shop"), redis_server.client()
    client.hset("shop:cache:{shop:stats}:totals:v1", "misses:", "many")
    client.expire("shop:cache:{shop:stats}:totals:v1", 60)
    async with reporting(one):
        await one.set("a", "x")
        await one.get("a")
        await one.get("b")
        await reach(one, 1)
    found = (await one.totals()).all
    assert (found.hits, found.sets, found.misses) == (1, 1, 0)


@pytest.mark.usefixtures("often")
async def test_nodes_that_make_no_sense_do_not_end_it(
    faces: Faces, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look at the nodes raises is logged; figures are reported all the same, until the end."""

    def broken(connections: object) -> Any:
        raise ValueError("a server that says something else")

    monkeypatch.setattr(reporter, "nodes", broken)
    monkeypatch.setattr(reporter, "nodes_async", broken)
    one = faces.make(redis_server.url)
    async with reporting(one):
        await reach(one, 1)
        await one.get("k")
        async with asyncio.timeout(20):
            while (await one.totals()).all.reads != 1:  # noqa: ASYNC110 - Redis has no event for it
                await asyncio.sleep(0.01)


async def test_it_ends_while_redis_is_away(faces: Faces, redis_server: RedisServer) -> None:
    """The last report does not hold up the end of an application."""
    face = faces.make(redis_server.url, timeout=0.05)
    with frozen(redis_server):
        async with asyncio.timeout(2), reporting(face):
            await face.get("k")


async def test_invalidations_of_who_does_not_report(faces: Faces, server: Server) -> None:
    """A process tells of them when it closes its cache: once, of nothing else, and it is none that reports."""
    watching = faces.make(server.url, namespace="shop")
    api = watching.with_prefix("api:")
    for times in (1, 2):
        await api.set("k", "x", tags=["t"])
        face = faces.make(server.url, namespace="shop")
        face.with_prefix("api:")
        await face.get("nothing")
        await face.invalidate_tag("t")
        for _ in range(2):
            await face.close()
        found = await watching.totals()
        assert (found.processes, found.all.reads) == (0, 0)
        assert found.prefixes[""].invalidations == found.prefixes["api:"].removed == times


async def test_invalidations_are_told_once(faces: Faces, redis_server: RedisServer) -> None:
    """What was told is not reported, too, and what was not told of is reported."""
    face = faces.make(redis_server.url)
    reporter = face.cache._shared.reporter
    await face.get("k")
    await face.invalidate_tag("t")
    await face.call(face.cache._driver.run, reporter.hand_in(), reporter.counters)
    async with reporting(face):
        await face.invalidate_tag("t")
    await face.invalidate_tag("t")
    await face.close()
    found = (await faces.make(redis_server.url).totals()).all
    assert (found.invalidations, found.misses) == (3, 1)


async def test_nothing_is_told_where_nothing_was_invalidated(faces: Faces, redis_server: RedisServer) -> None:
    """Who only reads leaves no figures behind."""
    face = faces.make(redis_server.url)
    await face.set("k", "x")
    await face.get("k")
    await face.close()
    assert redis_server.client().keys("*stats*") == []


async def test_closing_while_redis_is_away(
    faces: Faces, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has invalidated is then not known to others; that is no error, and takes no longer than a read."""
    face = faces.make(redis_server.url, timeout=0.05)
    await face.invalidate_tag("t")
    with frozen(redis_server):
        async with asyncio.timeout(2):
            await face.close()
    assert not [record for record in caplog.records if "figures" in record.message]


async def test_totals_that_are_lost_begin_anew(faces: Faces, redis_server: RedisServer) -> None:
    """A flush costs what was counted, not what is counted then; and a difference to before is no negative rate."""
    face = faces.make(redis_server.url)
    async with reporting(face):
        await face.get("k")
        await face.get("k")
    before = await face.totals()
    redis_server.flush()
    async with reporting(face):
        await face.get("k")
    now = await face.totals()
    assert (now.all.misses, now.since(before).all.misses) == (1, 1)


async def test_one_reports_once(faces: Faces, redis_server: RedisServer) -> None:
    """Reporting twice at a time would be a mistake; one after the other is none."""
    face = faces.make(redis_server.url)
    for _ in range(2):
        async with reporting(face):
            with pytest.raises(UsageError, match="already"):
                async with reporting(face):
                    pass


# --- what invalidations clear -----------------------------------------------------------------------------------------


async def test_what_is_cleared_is_of_its_own_prefix(faces: Faces, server: Server) -> None:
    """By tag, key or pattern, by whatever view: an entry is of the longest prefix that this process knows."""
    face = faces.make(server.url, namespace="shop")
    views = {prefix: face.with_prefix(prefix) for prefix in ("api:", "api:{v2}:", "catalog:")}
    stranger = faces.make(server.url, namespace="shop").with_prefix("jobs:")

    async def fill() -> None:
        for view in (face, *views.values(), stranger):
            for key in ("a", "b"):
                await view.set(key, "x", tags=["t"])

    def removed() -> dict[str, int]:
        return {prefix: counted.removed for prefix, counted in face.cache.stats().items()}

    await fill()
    await views["api:"].invalidate_key("a")
    assert (await face.invalidate_tag("t")).removed == 9
    assert removed() == {"": 4, "api:": 2, "api:{v2}:": 2, "catalog:": 2}
    await fill()
    assert (await face.invalidate_pattern("api:*")).removed == 4
    assert (await face.invalidate_keys("catalog:a", "catalog:none", "b")).removed == 2
    assert removed() == {"": 5, "api:": 4, "api:{v2}:": 4, "catalog:": 3}
    assert (await views["api:"].clear()).removed == 4
    assert removed() == {"": 8, "api:": 4, "api:{v2}:": 4, "catalog:": 4}
    assert (face.stats().invalidations, face.stats("api:").invalidations) == (4, 1)


async def test_what_fails_clears_nothing(faces: Faces, redis_server: RedisServer) -> None:
    """An invalidation that Redis does not answer is an error, and no figure but that."""
    face = faces.make(redis_server.url, timeout=0.05, patient_timeout=0.1)
    await face.set("k", "x")
    with frozen(redis_server), pytest.raises(InvalidationError):
        await face.invalidate_key("k")
    assert (face.stats().invalidations, face.stats().removed) == (0, 0)


# --- what is asked for most -------------------------------------------------------------------------------------------


async def test_the_hottest(faces: Faces, server: Server) -> None:
    """The key that is asked for most, with its prefix, and the tag of most reads; none of sessions."""
    face = faces.make(server.url, namespace="shop")
    api, sessions = face.with_prefix("api:"), face.with_prefix("session:")
    for key, tag in (("{hot}", "many"), ("cold", "few")):
        await api.get_or_load(key, face.loader(1), tags=[tag])
    await sessions.set("secret", "1")
    async with reporting(face):
        for turn in range(800):
            await sessions.get("secret")
            await api.get_or_load("{hot}", face.loader(1), tags=["many"])
            if turn % 40 == 0:
                await api.get_many(["cold"])
    keys = await face.hottest(10)
    assert {key.prefix for key in keys} == {"api:"}
    assert (keys[0].key, (await face.hottest_tags())[0].tag) == ("{hot}", "many")
    assert keys[0].reads > 0
    assert len(await face.hottest(1)) == 1


async def test_the_table_is_bounded(faces: Faces, redis_server: RedisServer) -> None:
    """Of more names than there is room for, the least asked for go."""
    face = faces.make(redis_server.url)
    now = (await face.totals()).at
    client = redis_server.client()
    names = [(f"0:k{number}", number) for number in range(700)]
    assert client.execute_command(*Report(StatKeys("", 1), "p", 1, now, (), names).words())[0] == 1
    (key,) = client.keys("*keys:v1*")
    assert client.zcard(key) == 500
    assert (await face.hottest(1))[0].key == "k699"


# --- nodes ------------------------------------------------------------------------------------------------------------


async def test_nodes(faces: Faces, server: Server) -> None:
    """Each node of a cluster, replicas too, says how it is."""
    face = faces.make(server.url)
    await face.set("k", "v")
    found = await face.nodes()
    assert len(found) == len(server.nodes)
    assert all(node.up and node.memory > 0 and node.clients > 0 for node in found)
    assert sum(node.role == "primary" for node in found) == len(server.primaries())
    assert found[0].version.split()[0] in ("redis", "valkey")


async def test_a_node_that_does_not_answer_says_so(faces: Faces, redis_cluster: Server) -> None:
    """And the others are shown all the same."""
    face = faces.make(redis_cluster.url, timeout=0.2)
    await face.set("k", "v")
    down = redis_cluster.nodes[-1]
    with frozen(down):
        found = await face.nodes()
    assert [node.node.rpartition(":")[2] for node in found if not node.up] == [str(down.port)]


# --- Prometheus -------------------------------------------------------------------------------------------------------


def samples(body: bytes) -> dict[tuple[str, ...], float]:
    """Return our samples by name and the values of their labels, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("neverstale_")
    }


@pytest.mark.usefixtures("often")
async def test_exposition(faces: Faces, redis_server: RedisServer) -> None:
    """A scrape shows what was counted until then, reported or not, and the nodes."""
    face = faces.make(redis_server.url)
    view = face.with_prefix(f"{face.kind}-exposed:")
    async with reporting(face):
        await view.get_or_load("k", face.loader(1))
        await view.get_or_load("k", face.loader(1))
        found = samples(exposition(face.cache)[0])
        await until(face.cache._shared.reporter.looks.last)
        nodes = samples(exposition(view.cache)[0])
    prefix = view.cache.prefix
    assert found["neverstale_reads_total", prefix, "hit"] == 1
    assert found["neverstale_reads_total", prefix, "stale"] == 0
    assert found["neverstale_loads_total", prefix, "ok"] == 1
    assert found["neverstale_load_duration_seconds_count", prefix] == 1
    stats = face.cache.stats()[prefix]
    assert found["neverstale_redis_duration_seconds_count", prefix] == sum(stats.redis_times)
    assert found["neverstale_redis_duration_seconds_bucket", "+Inf", prefix] == sum(stats.redis_times)
    assert found["neverstale_redis_duration_seconds_sum", prefix] == pytest.approx(stats.redis_seconds)
    address = f"127.0.0.1:{redis_server.port}"
    assert nodes["neverstale_redis_up", address] == 1
    assert nodes["neverstale_redis_evicted_keys_total", address] == 0


@pytest.mark.usefixtures("often")
async def test_a_scrape_does_not_wait_for_redis(faces: Faces, redis_server: RedisServer) -> None:
    """It says that the node is down, and all that this process has counted."""
    face = faces.make(redis_server.url, timeout=0.05)
    async with reporting(face):
        with frozen(redis_server):
            looks = face.cache._shared.reporter.looks
            looks._own = None
            await until(lambda: [node for node in looks.last() if not node.up])
            found = samples(exposition(face.cache)[0])
    assert found["neverstale_redis_up", f"127.0.0.1:{redis_server.port}"] == 0
    assert not [name for name in found if name[0] == "neverstale_redis_memory_used_bytes"]


@pytest.fixture
def workers(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Cache, Cache]]:
    """Two caches, each as in a worker of its own, with a directory for both."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with (
        Cache.from_url(redis_server.url, timeout=10.0, patient_timeout=10.0) as one,
        Cache.from_url(redis_server.url, timeout=10.0, patient_timeout=10.0) as other,
    ):
        yield one, other


def look(cache: Cache) -> bool:
    """Look at the nodes if it is due; return whether it was."""
    with cache._shared.reporter.looks.turn() as mine:
        if mine:
            cache._shared.reporter.looks.keep(cache.nodes())
    return mine


def expired(cache: Cache) -> float:
    (count,) = [
        v for name, v in samples(exposition(cache)[0]).items() if name[0].endswith("expired_keys_total")
    ]
    return count


async def test_workers_show_the_same_look(
    workers: tuple[Cache, Cache], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker looks at the nodes, and then another one: neither shows what it saw before."""
    one, other = workers
    assert (look(one), look(other)) == (True, False)
    before = expired(one)
    client = redis_server.client()
    for number in range(20):
        client.set(f"x{number}", "x", px=1)
    await until(lambda: not client.dbsize())
    monkeypatch.setattr(nodes, "_EVERY", 0.0)
    assert look(other)
    assert expired(one) == expired(other) >= before + 20


async def test_one_worker_looks_at_a_time(
    workers: tuple[Cache, Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen first cannot come last; and a worker that finds out nothing does not keep its turn."""
    one, other = workers
    monkeypatch.setattr(nodes, "_EVERY", 0.0)
    with suppress(ValueError), one._shared.reporter.looks.turn() as mine:
        assert (mine, look(other)) == (True, False)
        raise ValueError("an answer that makes no sense")
    assert look(other)


async def test_a_look_that_fails_is_that_of_all(
    workers: tuple[Cache, Cache], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever worker is asked, the node is down, and it has no counters of before."""
    one, other = workers
    look(one)
    monkeypatch.setattr(nodes, "_EVERY", 0.0)
    with frozen(redis_server):
        look(other)
    address = f"127.0.0.1:{redis_server.port}"
    for cache in workers:
        found = {name: v for name, v in samples(exposition(cache)[0]).items() if name[-1] == address}
        assert found == {("neverstale_redis_up", address): 0}
    monkeypatch.setattr(nodes, "_KEPT", 0.0)
    assert one._shared.reporter.looks.last() == []


async def test_a_server_that_was_restarted_counts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that has begun anew is shown as it is: Prometheus knows what to make of it."""
    monkeypatch.setattr(nodes, "_EVERY", 0.0)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    found = binaries()
    with (
        RedisServer.start(found.get("redis") or found["valkey"]) as server,
        Cache.from_url(server.url, timeout=5) as cache,
    ):
        server.client().set("x", "x", px=1)
        await until(lambda: not server.client().dbsize())
        look(cache)
        assert expired(cache) == 1
        server.kill()
        server.restart()
        look(cache)
        assert expired(cache) == 0


@pytest.fixture
def body(redis_server: RedisServer) -> Iterator[bytes]:
    """What `/metrics` says of a cache that has done something of everything."""
    with (
        Cache.from_url(redis_server.url, prefix="linted:", timeout=10.0, patient_timeout=10.0) as cache,
        cache.reporting(),
    ):
        cache.get_or_load("k", lambda: 1)
        cache.set("k", "1")
        cache.get("k")
        cache.invalidate_key("k")
        cache._shared.reporter.looks.keep(cache.nodes())
        yield exposition(cache)[0]


def test_names(body: bytes) -> None:
    """As Prometheus' conventions ask: our own prefix, a base unit, `_total` where it grows; no label but ours."""
    families = [f for f in text_string_to_metric_families(body.decode()) if f.name.startswith("neverstale_")]
    assert len(families) > 15
    for family in families:
        assert re.fullmatch("neverstale_[a-z_]+", family.name), family.name
        assert family.documentation, family.name
        if family.name.endswith("_created"):
            continue
        units = re.search("_(milliseconds|ms|micros|minutes|kb|mb|percent)(_|$)", family.name)
        assert units is None, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert (family.type != "histogram") or family.name.endswith("_seconds")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert set(sample.labels) <= {"prefix", "result", "node", "le"}, sample


def test_promtool_is_content(body: bytes) -> None:
    """Prometheus' own tool finds nothing to say."""
    promtool = shutil.which("promtool")
    if promtool is None:
        if IN_CI:
            pytest.fail("CI must have promtool: apt-get install prometheus", pytrace=False)
        pytest.skip("no promtool on this machine: apt-get install prometheus")
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_no_label_is_empty(redis_server: RedisServer) -> None:
    """What has no prefix is said to have none: an empty label would be no label."""
    with Cache.from_url(redis_server.url, timeout=5) as cache, cache.reporting():
        cache.get_or_load("k", lambda: 1, tags=["t"])
        cache.invalidate_tag("t")
        body = exposition(cache)[0].decode()
    assert 'prefix=""' not in body
    assert re.search(r'neverstale_removed_entries_total{prefix="\(none\)"} [1-9]', body)
    assert re.search(r'neverstale_load_duration_seconds_count{prefix="\(none\)"} [1-9]', body)


async def test_asgi_and_wsgi(redis_server: RedisServer) -> None:
    """Both applications answer in the format that the scraper asks for."""
    with Cache.from_url(redis_server.url, prefix="mounted:", timeout=10.0, patient_timeout=10.0) as cache:
        cache.get("k")
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"accept", b"application/openmetrics-text; version=1.0.0")]
        scope = {"type": "http", "headers": headers, "query_string": b""}
        await metrics_app(cache)(scope, receive, send)
        start, answer = sent
        assert start["status"] == 200
        assert dict(start["headers"])[b"Content-Type"].startswith(b"application/openmetrics-text")
        assert answer["body"].endswith(b"# EOF\n")
        assert b'neverstale_reads_total{prefix="mounted:",result="miss"} 1' in answer["body"]

        told: list[Any] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
        pages = list(metrics_wsgi(cache)(environ, lambda *given: told.append(given)))
        assert told[0][0] == "200 OK"
        assert b'neverstale_reads_total{prefix="mounted:",result="miss"} 1' in b"".join(pages)


# --- several processes ------------------------------------------------------------------------------------------------


def script(code: str, *args: str, **environ: str) -> str:
    """Run Python code in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKS = """
    import os, signal, sys, time
    from neverstale import Cache
    from neverstale.metrics import exposition

    cache = Cache.from_url(sys.argv[1], prefix="api:", timeout=5)
    for _ in range(5):
        cache.get("k")  # counted, and not yet reported
    with cache.reporting():
        pipes = []
        for number in range(3):
            hear, say = os.pipe()
            pid = os.fork()
            if not pid:
                for _ in range(10):
                    cache.get("k")
                while (cache.totals().processes, cache.totals().all.misses) < (4, 35):
                    time.sleep(0.01)
                cache._shared.reporter.export()
                os.write(say, b"x")
                time.sleep(60)
            pipes.append((pid, hear))
        for _, hear in pipes:
            os.read(hear, 1)
        processes = cache.totals().processes
        for pid, _ in pipes:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        body, _ = exposition(cache)
    print(processes, cache.totals().all.misses)
    sys.stdout.write(body.decode())
"""


def test_children_of_a_process_that_reports(redis_server: RedisServer, tmp_path: Path) -> None:
    """A child reports for itself, and not again what its parent has counted; Prometheus gets all, also of the dead."""
    first, _, body = script(FORKS, redis_server.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)).partition("\n")
    assert first.split() == ["4", "35"]
    assert samples(body.encode())["neverstale_reads_total", "api:", "miss"] == 35


# Two workers, of which either answers scrapes; what each would have to say of the nodes is of another moment.
TURNS = """
    import os, sys
    from neverstale import Cache
    from neverstale.metrics import exposition, nodes, reporter
    from neverstale.testing.servers import wait_until

    reporter.INTERVAL, nodes._EVERY = 0.005, 0.02

    def expired(cache):
        lines = exposition(cache)[0].decode().splitlines()
        return [float(line.split()[1]) for line in lines if line.startswith("neverstale_redis_expired_keys_total{")]

    order, ordered = os.pipe()
    heard, hear = os.pipe()
    child = not os.fork()
    with Cache.from_url(sys.argv[1], timeout=5) as cache, cache.reporting():
        wait_until(lambda: expired(cache), "a look at the nodes")
        if child:
            while os.read(order, 1) == b"?":
                os.write(hear, repr(expired(cache)[0]).ljust(20).encode())
            os._exit(0)
        seen = []
        while len(seen) < 200 or seen[-1] == seen[0]:
            cache.set(f"x{len(seen)}", "x", ttl=0.001)
            seen += expired(cache)
            os.write(ordered, b"?")
            seen.append(float(os.read(heard, 20)))
        os.write(ordered, b".")
        os.wait()
    print(*seen)
"""


def test_counters_of_nodes_never_go_back(redis_server: RedisServer, tmp_path: Path) -> None:
    """From scrape to scrape, whichever of two workers each of them reaches."""
    seen = [float(v) for v in script(TURNS, redis_server.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)).split()]
    assert len(seen) >= 200
    assert seen == sorted(seen)


PREFIXED = """
    import os, sys
    from neverstale import Cache
    from neverstale.metrics import exposition

    with Cache.from_url(sys.argv[1], prefix="api:", timeout=5) as cache:
        for process in range(4):
            if not os.fork():
                for number in range(30):
                    cache.with_prefix(f"tenant:{process}:{number}:").get("k")
                cache.get("k")
                sys.stdout.write(exposition(cache)[0].decode() + "# next\\n")
                sys.stdout.flush()
                os._exit(0)
            os.wait()
"""


def test_fifty_prefixes_of_all_workers(redis_server: RedisServer, tmp_path: Path) -> None:
    """However many workers there are, with other prefixes each: the first stay, and no series goes back."""
    said = script(PREFIXED, redis_server.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    before: dict[tuple[str, ...], float] = {}
    misses: dict[str, float] = {}
    for process, scrape in enumerate(said.split("# next\n")[:-1]):
        found = samples(scrape.encode())
        misses = {name[1]: v for name, v in found.items() if name[0::2] == ("neverstale_reads_total", "miss")}
        assert len(misses) <= PREFIXES + 1
        assert (sum(misses.values()), misses["api:"]) == (31 * (process + 1), process + 1)
        assert all(found[name] >= value for name, value in before.items())
        before = found
    # Four times thirty-one, of which four are the common one's, and 49 are named.
    assert misses[OTHERS] == 4 * 31 - 4 - 49


def test_without_prometheus_client(redis_server: RedisServer) -> None:
    """The totals do without it; asked for `/metrics`, a cache says what to install."""
    said = script(
        """
        import sys
        sys.modules["prometheus_client"] = None
        from neverstale import Cache, MissingDependency
        from neverstale.metrics import exposition, metrics_app, metrics_wsgi
        with Cache.from_url(sys.argv[1]) as cache:
            with cache.reporting():
                cache.get("k")
            print(cache.totals().all.misses)
            for ask in (exposition, metrics_app, metrics_wsgi):
                try:
                    ask(cache)
                except MissingDependency as error:
                    print(error)
        """,
        redis_server.url,
    )
    assert said.splitlines() == [
        "1",
        *["metrics for Prometheus need prometheus_client: pip install 'neverstale[prometheus]'"] * 3,
    ]
