"""What is in the keys: found on a single node and on a cluster, with nothing changed."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from neverstale import Cache, UsageError
from neverstale.core.calls import Enlist
from neverstale.core.commands import Together
from neverstale.doctor import Scan, elsewhere, examine, mend, mendable
from neverstale.doctor import scan as scanning
from neverstale.doctor.nodes import nodes_of
from neverstale.doctor.scan import Scanner
from neverstale.testing.servers import RedisServer, Server
from tests.caches import MakeCache
from tests.doctor.conftest import codes, finding


def scanned(cache: Cache) -> Scan:
    found = examine(cache, rate=0).scan
    assert found is not None
    return found


class TestPlanted:
    @pytest.mark.plants_keys
    def test_without_ttl(self, server: Server, make_cache: MakeCache) -> None:
        """A key of the namespace without a TTL is found, on every kind of server."""
        cache = make_cache(server.url)
        for number in range(50):
            cache.set(f"fine:{number}", "x")
        for number in range(5):
            server.client().set(f"shop:v1:api:{number}", "x")
        server.client().set("elsewhere:v1:a", "x")
        report = examine(cache, rate=0)
        assert finding(report, "no-ttl").severity == "error"
        assert finding(report, "no-ttl").what.startswith("5 keys without a TTL: shop:v1:api:")
        assert report.scan is not None
        assert report.scan.lasting_count == 5

    @pytest.mark.plants_keys
    @pytest.mark.parametrize("how", ["expire", "delete"])
    def test_mend(self, server: Server, make_cache: MakeCache, how: str) -> None:
        """Mending sets a TTL or deletes; the next examination finds nothing."""
        cache, client = make_cache(server.url, ttl=600), server.client()
        client.set("shop:v1:api:1", "x")
        client.set("shop:cache:tag:{t}:stamp", "00@1")
        client.set("shop:v1:long", "x", ex=200_000)
        client.set("shop:queue", "x")
        cache.set("fine", "x", ttl=60)
        report = examine(cache, rate=0)
        assert {"no-ttl", "ttl-above-a-day", "no-ttl-foreign"} <= codes(report)
        assert report.scan is not None
        wrong = mendable([*report.scan.lasting, *report.scan.long])
        done = mend(report.primaries, wrong, cache.settings, "expire" if how == "expire" else "delete")
        assert (done.expired, done.deleted) == ((3, 0) if how == "expire" else (0, 3))
        assert not codes(examine(cache, rate=0)) & {"no-ttl", "ttl-above-a-day"}
        assert client.ttl("shop:queue") == -1  # not ours: left alone
        assert 0 < client.ttl("shop:v1:fine") <= 60
        if how == "expire":
            assert 0 < client.ttl("shop:v1:api:1") <= 600
            assert 600 < client.ttl("shop:cache:tag:{t}:stamp") <= 86_400

    @pytest.mark.plants_keys
    def test_mended_meanwhile(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """A key that got a right TTL since the scan keeps it, and is not deleted."""
        cache, client = make_cache(redis_server.url), redis_server.client()
        client.set("shop:v1:a", "x")
        report = examine(cache, rate=0)
        client.expire("shop:v1:a", 50)
        assert report.scan is not None
        for how in ("expire", "delete"):
            done = mend(
                report.primaries,
                report.scan.lasting,
                cache.settings,
                "expire" if how == "expire" else "delete",
            )
            assert (done.expired, done.deleted, done.untouched) == (0, 0, 1)
        assert 0 < client.ttl("shop:v1:a") <= 50

    @pytest.mark.plants_keys
    @pytest.mark.parametrize("planted", [None, 200_000])
    def test_replaced_meanwhile(
        self, redis_server: RedisServer, make_cache: MakeCache, planted: int | None
    ) -> None:
        """An entry that was stored since the scan, with a longer TTL than the default, keeps all of it."""
        cache, client = make_cache(redis_server.url, ttl=60), redis_server.client()
        client.set("shop:v1:a", "x", ex=planted)
        found = scanned(cache)
        cache.set("a", "new", ttl=7200)
        for how in ("expire", "delete"):
            done = mend(
                nodes_of(cache._connections),
                [*found.lasting, *found.long],
                cache.settings,
                "expire" if how == "expire" else "delete",
            )
            assert (done.expired, done.deleted, done.untouched) == (0, 0, 1)
        assert client.ttl("shop:v1:a") > 7000

    @pytest.mark.plants_keys
    def test_replaced_while_it_deletes(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Between the look at a TTL and the deletion nothing fits: what is stored at that moment stays."""
        cache, client = make_cache(redis_server.url), redis_server.client()
        names = [f"shop:v1:{number}" for number in range(3000)]
        client.mset(dict.fromkeys(names, "x"))
        found = scanned(cache).lasting

        def replace() -> None:
            with redis_server.client() as other:
                for name in names:
                    other.set(name, "new", ex=600)

        with ThreadPoolExecutor(1) as pool:
            replacing = pool.submit(replace)
            while not replacing.done():
                mend(nodes_of(cache._connections), found, cache.settings, "delete")
            replacing.result()
        assert client.exists(*names) == len(names)

    @pytest.mark.plants_keys
    def test_long_names(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """A name of a megabyte does not make a report of megabytes."""
        client = redis_server.client()
        for name in ("shop:v1:", "shop:v1:api:", "shop:"):
            client.set(name + "x" * 1_000_000 + ":", "x")
        report = examine(make_cache(redis_server.url), rate=0)
        assert finding(report, "no-ttl").severity == "error"
        assert len(json.dumps(report.as_dict())) < 100_000

    @pytest.mark.plants_keys
    def test_strange(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """What has a name of ours and is something else is told from entries, whatever its type."""
        client = redis_server.client()
        client.set("shop:v1:a", "not an entry", ex=60)
        client.rpush("shop:v1:b", "x")
        client.expire("shop:v1:b", 60)
        client.set("shop:queue", "x", ex=60)
        report = examine(make_cache(redis_server.url), rate=0)
        assert {"not-ours-inside", "foreign-keys"} <= codes(report)
        assert report.scan is not None
        assert report.scan.strange_count == 2


class TestGroups:
    def test_memory(self, server: Server, make_cache: MakeCache) -> None:
        """Memory is told by prefix, by tag and by key, every key once."""
        cache = make_cache(server.url)
        for number in range(30):
            cache.with_prefix("api:").set(str(number), "x" * 1000, tags=["all", f"t{number % 3}"])
        cache.with_prefix("price:").set("big", "x" * 2000)
        found = scanned(cache)
        assert {name: group.keys for name, group in found.prefixes.items()} == {"api:": 30, "price:": 1}
        assert {name: group.keys for name, group in found.tags.items()} == {
            "all": 30,
            "t0": 10,
            "t1": 10,
            "t2": 10,
        }
        group = found.prefixes["api:"]
        assert group.memory is not None
        assert group.memory > 30 * 1000
        assert found.biggest[0].bytes == max(big.bytes for big in found.biggest)
        assert "shop:v1:price:big" in [big.key for big in found.biggest]
        assert found.complete

    def test_many_tags(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """An entry whose tags do not fit the part that is read first is read on."""
        cache = make_cache(redis_server.url)
        cache.set("a", "x", tags=[f"a rather long name of a tag, number {number}" for number in range(200)])
        found = scanned(cache)
        assert len(found.tags) == 200
        assert found.strange_count == 0

    def test_estimated(
        self, redis_server: RedisServer, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of many keys only some are measured; the sums are scaled up, and say that they are estimates."""
        cache = make_cache(redis_server.url)
        cache.set_many({f"k:{number}": "x" * 500 for number in range(400)})
        exact = scanned(cache).prefixes["k:"].memory
        monkeypatch.setattr(scanning, "_EXACT", 40)
        found = scanned(cache)
        group = found.prefixes["k:"]
        assert found.every == 10
        assert group.measured == 40
        assert group.memory == exact
        assert found.as_dict()["by_prefix"]["k:"]["estimated"]

    def test_not_served(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Entries whose tag was invalidated without being cleared are counted as dead memory."""
        cache = make_cache(redis_server.url)
        for number in range(20):
            cache.set(f"a:{number}", "x" * 500, tags=["t"])
        assert scanned(cache).dead.keys == 0
        redis_server.client().set("shop:cache:tag:{t}:stamp", "00@1", ex=60)
        assert scanned(cache).dead.keys == 20
        assert "not-served" in codes(examine(cache, rate=0))

    def test_orphans(self, server: Server, make_cache: MakeCache) -> None:
        """Members of tags that are gone are estimated by a sample."""
        cache = make_cache(server.url)
        for number in range(4):
            cache.set(f"a:{number}", "x", tags=["t"])

        def plant():  # type: ignore[no-untyped-def]
            yield from Together(
                tuple(Enlist("shop:cache:tag:{t}", f"shop:v1:gone:{each}", 60_000) for each in range(12))
            )

        cache._driver.run(plant(), cache._counters)
        found = scanned(cache).members
        assert (found.sets, found.listed) == (1, 16)
        assert found.orphans == 12

    def test_versions(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """What other versions have left is told."""
        make_cache(redis_server.url, version=1).set("a", "x")
        report = examine(make_cache(redis_server.url, version=2), rate=0)
        assert "1 entry of version 1" in finding(report, "other-version").what

    def test_lease(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """An entry that is being loaded is no stranger."""
        cache = make_cache(redis_server.url)
        found: list[Scan] = []
        cache.get_or_load("a", lambda: found.append(scanned(cache)))
        assert (found[0].leases, found[0].strange_count) == (1, 0)

    def test_without_a_namespace(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Without a namespace other programs' keys are counted and not complained about."""
        redis_server.client().set("theirs", "x", ex=60)
        cache = make_cache(redis_server.url, namespace="")
        cache.set("a", "x")
        report = examine(cache, rate=0)
        assert not codes(report) & {"foreign-keys", "not-ours-inside", "no-ttl-foreign"}
        assert report.scan is not None
        assert report.scan.keys == 1


class TestManners:
    def test_changes_nothing(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Examining writes nothing, and asks for no value."""
        cache, client = make_cache(redis_server.url), redis_server.client()
        for number in range(50):
            cache.set(f"a:{number}", "x" * 10_000, tags=["t"])
        before = {key: client.dump(key) for key in redis_server.keys()}  # noqa: SIM118
        client.config_resetstat()
        examine(cache, rate=0)
        told = client.info("commandstats")
        assert {
            name for name in told if name.startswith("cmdstat_get") and name != "cmdstat_getrange"
        } == set()
        assert client.info("stats")["total_net_output_bytes"] < 400_000
        assert {key: client.dump(key) for key in redis_server.keys()} == before  # noqa: SIM118

    def test_rate(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """It pauses such that no more keys a second are looked at than allowed."""
        cache = make_cache(redis_server.url)
        cache.set_many({f"a:{number}": "x" for number in range(3000)})
        ends: list[float] = []

        def pause(seconds: float) -> None:
            ends.append(scanner.found.seconds + seconds)

        scanner = Scanner(cache, nodes_of(cache._connections), rate=1_000, sleep=pause)
        scanner.run()
        assert len(ends) >= 5
        # A step looks at 500 keys, so with 1,000 a second the n-th ends after n halves of a second.
        assert ends == pytest.approx([0.5 * (step + 1) for step in range(len(ends))])

    def test_progress(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Progress is told against DBSIZE."""
        cache = make_cache(redis_server.url)
        cache.set_many({f"a:{number}": "x" for number in range(2000)})
        told: list[tuple[int, int]] = []
        examine(cache, rate=0, progress=lambda scan: told.append((scan.looked_at, scan.expected)))
        assert [expected for _, expected in told] == [2000] * len(told)
        assert [done for done, _ in told] == sorted(done for done, _ in told)

    def test_beside_writers(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Keys that come and go during the scan do no harm."""
        cache, done = make_cache(redis_server.url), threading.Event()

        def write() -> None:
            number = 0
            while not done.is_set():
                cache.set(f"a:{number % 500}", "x", tags=["t"])
                if number % 100 == 0:
                    cache.invalidate_tag("t")
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                assert scanned(cache).strange_count == 0
        finally:
            done.set()
            writer.join()


class TestNothingFound:
    def test_another_namespace(self, server: Server, make_cache: MakeCache) -> None:
        """A namespace with nothing in it, beside others, is a warning that names them, on every kind of server."""
        make_cache(server.url, namespace="shop-1").set("a", "x", tags=["t"])
        make_cache(server.url, namespace="blog").set("b", "x")
        make_cache(server.url, namespace="").set("c", "x")
        server.client().set("elsewhere:of:another:program", "x", ex=60)
        report = examine(make_cache(server.url, namespace="other"), rate=0)
        found = finding(report, "nothing-found")
        assert found.severity == "warning"
        assert re.fullmatch(
            r"none of \d+ keys is of the namespace 'other'; seen: no namespace, 'blog', 'shop-1'", found.what
        )
        assert report.scan is not None
        assert report.scan.as_dict()["namespaces_seen"] == ["", "blog", "shop-1"]

    def test_without_a_namespace(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """The namespace that was forgotten is named."""
        make_cache(redis_server.url).set("a", "x")
        found = finding(examine(make_cache(redis_server.url, namespace=""), rate=0), "nothing-found")
        assert found.severity == "warning"
        assert found.what == "none of 1 key is of a cache without a namespace; seen: 'shop'"

    def test_many_namespaces(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Of many namespaces a few are named."""
        for number in range(20):
            make_cache(redis_server.url, namespace=f"shop{number:02}").set("a", "x")
        what = finding(examine(make_cache(redis_server.url, namespace="other"), rate=0), "nothing-found").what
        assert what.endswith(", ...")
        assert what.count("'shop") == 5

    @pytest.mark.plants_keys
    @pytest.mark.parametrize(
        ("key", "what"),
        [
            (None, "Redis is empty: there was no key to look at"),
            ("queue", "none of 1 key is of the namespace 'shop'"),
            ("no spaces:v1:a", "none of 1 key is of the namespace 'shop'"),
            ("shop:queue", "none of 1 key is an entry or a tag of the namespace 'shop'"),
        ],
    )
    def test_nobody(
        self, redis_server: RedisServer, make_cache: MakeCache, key: str | None, what: str
    ) -> None:
        """Where no cache has stored anything it is only to be known."""
        if key:
            redis_server.client().set(key, "x", ex=60)
        found = finding(examine(make_cache(redis_server.url), rate=0), "nothing-found")
        assert (found.severity, found.what) == ("notice", what)

    def test_something(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """Where there is one key of the namespace nobody looks for others."""
        make_cache(redis_server.url, namespace="blog").set("b", "x")
        make_cache(redis_server.url, version=2).set("a", "x")
        report = examine(make_cache(redis_server.url), rate=0)
        assert "nothing-found" not in codes(report)
        assert report.scan is not None
        assert report.scan.elsewhere == []

    def test_keeps_to_the_rate(
        self, redis_server: RedisServer, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The look at others' names pauses as the scan does, and ends after so many."""
        make_cache(redis_server.url, namespace="blog").set_many({str(each): "x" for each in range(3000)})
        (node,) = nodes_of(make_cache(redis_server.url)._connections)
        monkeypatch.setattr(elsewhere, "_ENOUGH", 2000)
        pauses: list[float] = []
        assert elsewhere.namespaces_on(node, rate=100, sleep=pauses.append) == {"blog"}
        # 500 keys a step: after the fourth it has seen enough.
        assert pauses == pytest.approx([5, 10, 15], abs=4)


class TestIgnore:
    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("no-tll", "'no-ttl'"),
            ("maxmemory", "'maxmemory-unset'"),
            ("xyz", "docs/doctor.md"),
        ],
    )
    def test_unknown(self, redis_server: RedisServer, make_cache: MakeCache, code: str, said: str) -> None:
        """A code that no finding has is refused, with those that are like it."""
        with pytest.raises(UsageError, match=f"no finding has the code '{code}': .*{said}"):
            examine(make_cache(redis_server.url), ignore=["no-ttl", code])

    def test_a_string(self, redis_server: RedisServer, make_cache: MakeCache) -> None:
        """One string is no list of codes."""
        with pytest.raises(UsageError, match=r"write ignore=\['no-ttl'\]"):
            examine(make_cache(redis_server.url), ignore="no-ttl")
