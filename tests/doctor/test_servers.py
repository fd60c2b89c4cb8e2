"""What endangers a cache, found on servers that are configured so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from neverstale import RedisUnavailable
from neverstale.doctor import Finding, exit_status, mend
from neverstale.doctor import examine as examine_all
from neverstale.doctor.checks import check_node
from neverstale.doctor.facts import Facts, gather
from neverstale.doctor.findings import ORDER, merged
from neverstale.doctor.nodes import is_loopback, nodes_of
from neverstale.doctor.report import Report
from neverstale.doctor.together import check_all
from neverstale.testing.processes import free_port, spawn
from neverstale.testing.servers import RedisCluster, RedisServer, binaries, wait_until
from tests.caches import MakeCache
from tests.doctor.conftest import StartServer, codes, finding

GOOD = ("--maxmemory", "200mb", "--maxmemory-policy", "allkeys-lru")
#: What docs/production.md recommends for an application.
RIGHTS = (
    "~shop:* &shop:cache:invalidate +ping +select +info +time +scan +eval +evalsha +publish +subscribe "
    "+get +mget +set +getrange +setrange +unlink +type +pttl +pexpire +expire +sadd +smembers +spop "
    "+hget +hset +hgetall +hincrby +hdel +zadd +zcount +zincrby +zrem +zrangebyscore +zremrangebyrank +zrevrange"
)


def examine(make_cache: MakeCache, server: RedisServer | RedisCluster, url: str = "") -> Report:
    return examine_all(make_cache(url or server.url), rate=0)


class TestMemory:
    def test_good(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A server as it should be has nothing worse than a notice."""
        report = examine(make_cache, start_server(*GOOD))
        assert {each.severity for each in report.findings} <= {"notice"}
        assert exit_status(report.findings, strict=True) == 0

    def test_valkey(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """Valkey is not taken for the Redis version that it says beside its own."""
        report = examine(make_cache, start_server(*GOOD, binary="valkey"))
        assert report.nodes[0].server[0] == "valkey"
        assert "old-server" not in codes(report)

    def test_unset(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """No maxmemory is a warning."""
        assert finding(examine(make_cache, start_server()), "maxmemory-unset").severity == "warning"

    def test_noeviction(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """noeviction is a warning, and an error once it is nearly full."""
        server = start_server("--maxmemory", "20mb", "--maxmemory-policy", "noeviction")
        assert finding(examine(make_cache, server), "noeviction").severity == "warning"
        cache = make_cache(server.url, compress_above=10_000_000)
        for number in range(18):
            cache.set(f"a:{number}", "x" * 1_000_000)
        assert finding(examine(make_cache, server), "noeviction").severity == "error"

    def test_full(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A full cache that evicts is only a notice."""
        server = start_server("--maxmemory", "20mb", "--maxmemory-policy", "allkeys-lru")
        cache = make_cache(server.url, compress_above=10_000_000)
        for number in range(30):
            cache.set(f"a:{number}", "x" * 1_000_000)
        assert finding(examine(make_cache, server), "nearly-full").severity == "notice"

    @pytest.mark.parametrize(
        ("policy", "code"),
        [
            ("volatile-ttl", "evicts-leases"),
            ("volatile-random", "evicts-at-random"),
            ("allkeys-random", "evicts-at-random"),
            ("volatile-lru", "only-the-cache-gives-way"),
            ("volatile-lfu", "only-the-cache-gives-way"),
            ("allkeys-lru", ""),
            ("allkeys-lfu", ""),
        ],
    )
    def test_policies(self, start_server: StartServer, make_cache: MakeCache, policy: str, code: str) -> None:
        """Each policy is judged by what it takes first: leases, stamps, or what nobody reads."""
        report = examine(make_cache, start_server("--maxmemory", "50mb", "--maxmemory-policy", policy))
        all_codes = {"evicts-leases", "evicts-at-random", "evicts-stamps", "only-the-cache-gives-way"}
        assert codes(report) & all_codes == ({code} if code else set())


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "code"),
        [
            (("--save", "60 1000"), "persistent"),
            (("--appendonly", "yes"), "persistent"),
            (("--timeout", "30"), "closes-idle-connections"),
            (("--tcp-keepalive", "0"), "no-keepalive"),
            (("--notify-keyspace-events", "KEA"), "keyspace-notifications"),
            (("--client-output-buffer-limit", "pubsub 1000 1000 60"), "small-pubsub-buffer"),
        ],
    )
    def test_found(
        self, start_server: StartServer, make_cache: MakeCache, options: tuple[str, ...], code: str
    ) -> None:
        """A setting that endangers the cache is found, and is not where it is not so."""
        assert code in codes(examine(make_cache, start_server(*GOOD, *options)))
        assert code not in codes(examine(make_cache, start_server(*GOOD)))

    def test_slow_commands(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """Our own commands in the slow log are told from others, and KEYS is held against whoever runs it."""
        server = start_server(*GOOD, "--slowlog-log-slower-than", "0")
        make_cache(server.url).get_or_load("a", lambda: 1, tags=["t"])
        assert "slow-commands" in codes(examine(make_cache, server))
        assert "stops-for-others" not in codes(examine(make_cache, server))
        server.client().keys("*")
        assert "stops-for-others" in codes(examine(make_cache, server))

    def test_ignored(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """What is accepted is left out."""
        report = examine_all(make_cache(start_server().url), scan=False, ignore=["maxmemory-unset"])
        assert "maxmemory-unset" not in codes(report)
        assert report.scan is None


class TestRights:
    def test_all_rights(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A user who may do everything is told what the cache does not need."""
        found = finding(examine(make_cache, start_server(*GOOD)), "dangerous-commands")
        assert "FLUSHALL" in found.what
        assert found.severity == "notice"  # on the loopback

    def test_few_rights(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """With the rights of an application the doctor says what it may not ask, and looks at the rest."""
        server = start_server(*GOOD)
        server.client().execute_command("ACL", "SETUSER", "app", "on", ">secret", *RIGHTS.split())
        url = f"redis://app:secret@127.0.0.1:{server.port}"
        cache = make_cache(url)
        with cache.reporting(), cache.listen():
            assert cache.get_or_load("a", lambda: 1, tags=["t"]) == 1
            assert cache.get_or_load("a", lambda: 2, tags=["t"]) == 1
            assert cache.invalidate_tag("t").removed == 1
            cache.set("b", "x")
            assert cache.invalidate_pattern("*").removed == 1
        cache.set("c", "x", tags=["t"])
        report = examine(make_cache, server, url)
        refused = {each.what.partition(" was")[0] for each in report.findings if each.code == "not-asked"}
        assert refused == {"CONFIG GET", "DBSIZE", "MEMORY USAGE", "SLOWLOG GET", "SRANDMEMBER"}
        assert report.scan is not None
        assert report.scan.kinds["entry"].keys == 1
        assert "dangerous-commands" not in codes(report)
        assert exit_status(report.findings, strict=True) == 0

    @pytest.mark.plants_keys
    def test_rights_of_the_page(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """With the rights that docs/doctor.md has for it, the doctor may ask for everything, and mend what it says."""
        server = start_server(*GOOD)
        page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
        told = re.search(r"^ACL SETUSER doctor .*?(?=^```)", page, re.DOTALL | re.MULTILINE)
        assert told is not None
        server.client().execute_command(*told[0].replace("\\\n", " ").split())
        make_cache(server.url).set("a", "x", tags=["t"])
        server.client().set("shop:v1:planted", "x")
        url = f"redis://doctor:PASSWORD@127.0.0.1:{server.port}"
        report = examine(make_cache, server, url)
        assert codes(report) == {"no-ttl", "not-ours-inside"}
        assert report.scan is not None
        server.client().execute_command("ACL", "SETUSER", "doctor", "+pexpire")
        cache = make_cache(url)
        assert mend(report.primaries, report.scan.lasting, cache.settings, "expire").expired == 1
        server.client().persist("shop:v1:planted")
        server.client().execute_command("ACL", "SETUSER", "doctor", "+unlink", "+eval")
        assert mend(report.primaries, report.scan.lasting, cache.settings, "delete").deleted == 1

    @pytest.mark.plants_keys
    def test_hardly_any_rights(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """Who may not even ask for TTLs is told that they were not checked."""
        server = start_server(*GOOD)
        server.client().execute_command(
            "ACL", "SETUSER", "app", "on", ">secret", "~*", "-@all", "+ping", "+scan"
        )
        server.client().set("shop:v1:a", "x")
        report = examine(make_cache, server, f"redis://app:secret@127.0.0.1:{server.port}")
        refused = {each.what.partition(" was")[0] for each in report.findings if each.code == "not-asked"}
        assert {"INFO", "CONFIG GET", "PTTL", "TIME"} <= refused
        assert exit_status(report.findings, strict=True) == 1

    def test_password_is_not_shown(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """The report has no password."""
        server = start_server(*GOOD, password="top-secret")
        assert "top-secret" not in str(examine(make_cache, server).as_dict())

    def test_open_to_the_network(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """Elsewhere than on the loopback, no password is an error, no TLS a warning, and all rights are, too."""
        server = start_server(*GOOD)
        cache = make_cache(server.url)
        (node,) = nodes_of(cache._connections)
        facts = gather(node, "shop", is_cluster=False)
        facts.loopback = False
        found = {each.code: each.severity for each in check_node(facts, cache.settings)}
        assert found["no-password"] == "error"
        assert found["no-tls"] == "warning"
        assert found["dangerous-commands"] == "warning"

    def test_listens_everywhere(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A server that listens on every address without a password is found from the loopback, too."""
        server = start_server(*GOOD)
        server.client().config_set("protected-mode", "no")
        server.client().config_set("bind", "* -::*")
        assert finding(examine(make_cache, server), "no-password").severity == "warning"

    @pytest.mark.parametrize(
        ("host", "expected"),
        [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("10.0.0.1", False)],
    )
    def test_loopback(self, host: str, expected: bool) -> None:
        """The loopback is known by all its names."""
        assert is_loopback(host) is expected


class TestReplicas:
    def test_healthy(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A replica that follows is nothing to be said, from either side."""
        primary = start_server(*GOOD, "--repl-diskless-sync-delay", "0")
        replica = start_server(*GOOD, "--replicaof", f"127.0.0.1 {primary.port}")
        wait_until(lambda: replica.client().role()[3] == b"connected", "a replica")
        wait_until(lambda: primary.client().info("replication")["slave0"]["state"] == "online", "a replica")
        for server in (primary, replica):
            assert not codes(examine(make_cache, server)) & {"replica-lag", "replica-cut-off"}

    def test_cut_off(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A replica without its primary says so."""
        primary = start_server(*GOOD, "--repl-diskless-sync-delay", "0")
        replica = start_server(*GOOD, "--replicaof", f"127.0.0.1 {primary.port}")
        wait_until(lambda: replica.client().role()[3] == b"connected", "a replica")
        primary.kill()
        wait_until(lambda: replica.client().role()[3] != b"connected", "a replica alone")
        assert finding(examine(make_cache, replica), "replica-cut-off").severity == "warning"

    def test_behind(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """A replica that answers no more is found at its primary."""
        primary = start_server(*GOOD)
        cache = make_cache(primary.url)
        (node,) = nodes_of(cache._connections)
        facts = gather(node, "shop", is_cluster=False)
        late = {"ip": "127.0.0.1", "port": 1, "state": "online", "lag": 40}
        facts.info = {**facts.info, "slave0": late}
        (found,) = [each for each in check_node(facts, cache.settings) if each.code == "replica-lag"]
        assert "40 s behind" in found.what


class TestSentinel:
    def test_primary_is_named(self, start_server: StartServer, make_cache: MakeCache, tmp_path: Path) -> None:
        """Behind Sentinels the primary is examined, by its own address."""
        server, port = start_server(*GOOD), free_port()
        configuration = tmp_path / "sentinel.conf"
        lines = (
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {tmp_path}",
            f"sentinel monitor main 127.0.0.1 {server.port} 1",
        )
        configuration.write_text("\n".join(lines) + "\n")
        process = spawn([str(binaries()["redis"]), str(configuration), "--sentinel"], tmp_path / "log")
        try:
            cache = make_cache(f"redis+sentinel://127.0.0.1:{port}/main")
            wait_until(cache.ping, "a primary that Sentinel names")
            report = examine_all(cache, rate=0)
        finally:
            process.kill()
            process.wait()
        assert [each.name for each in report.nodes] == [f"127.0.0.1:{server.port}"]
        assert not codes(report) & {"no-tls", "no-password"}

    def test_away(self, make_cache: MakeCache) -> None:
        """Without a Sentinel there is nothing to examine."""
        with pytest.raises(RedisUnavailable):
            examine_all(make_cache("redis+sentinel://127.0.0.1:1/main"))


class TestCluster:
    def test_healthy(self, redis_cluster: RedisCluster, make_cache: MakeCache) -> None:
        """Of a healthy cluster all six nodes are asked, and what several have in common is said once."""
        report = examine(make_cache, redis_cluster)
        assert len(report.nodes) == 6
        assert not codes(report) & {
            "cluster-down",
            "node-failed",
            "no-replica",
            "unreachable",
            "clocks-differ",
        }
        assert len([each for each in report.findings if each.code == "noeviction"]) <= 1
        assert len(finding(report, "dangerous-commands").where) == 6

    def test_dead_replica(self, redis_cluster: RedisCluster, make_cache: MakeCache) -> None:
        """A replica that died is missed, and the rest examined."""
        victim = next(node for node in redis_cluster.nodes if node not in redis_cluster.primaries())
        cache = make_cache(redis_cluster.url, patient_timeout=1.0)
        assert cache.ping()
        victim.kill()
        report = examine_all(cache, rate=0)
        assert finding(report, "unreachable").where == (f"127.0.0.1:{victim.port}",)
        assert exit_status(report.findings, strict=False) == 1

    def test_dead_primary(self, steady_cluster: RedisCluster, make_cache: MakeCache) -> None:
        """A primary that does not answer is an error, and the keys of the others are looked at."""
        cache = make_cache(steady_cluster.url, patient_timeout=0.5)
        cache.set_many({str(number): "x" for number in range(30)})
        victim = steady_cluster.primaries()[0]
        victim.freeze()
        report = examine_all(cache, rate=0)
        assert "unreachable" in codes(report)
        assert report.scan is not None
        # Where the cluster has noticed, and has no other primary yet, the others may refuse to be looked at.
        assert 0 < report.scan.keys < 30 or "scan-incomplete" in codes(report)

    def test_dies_during_the_scan(self, start_server: StartServer, make_cache: MakeCache) -> None:
        """What was found until then is told, and that it is not all."""
        server = start_server()
        cache = make_cache(server.url)
        cache.set_many({str(number): "x" for number in range(3000)})
        report = examine_all(cache, rate=0, progress=lambda scan: server.kill())
        assert report.scan is not None
        assert 0 < report.scan.keys < 3000
        assert not report.scan.complete
        assert finding(report, "scan-incomplete").where == (f"127.0.0.1:{server.port}",)
        assert exit_status(report.findings, strict=False) == 1

    def test_all_away(self, make_cache: MakeCache) -> None:
        """Nobody there is Redis away."""
        with pytest.raises(RedisUnavailable):
            examine_all(make_cache("redis://127.0.0.1:1"))

    def test_uncovered_and_moving(self, redis_cluster: RedisCluster, make_cache: MakeCache) -> None:
        """Slots that nobody serves, and slots on the move, are found."""
        cache = make_cache(redis_cluster.url)
        first, second = redis_cluster.primaries()[:2]
        other = second.client().execute_command("CLUSTER", "MYID").decode()
        slot = int(first.client().execute_command("CLUSTER", "SLOTS")[0][0])
        holder = redis_cluster.primary_of(_key_in(slot))
        target = other if holder is not second else first.client().execute_command("CLUSTER", "MYID").decode()
        holder.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        try:
            assert "slots-moving" in codes(examine_all(cache, scan=False))
        finally:
            holder.client().execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
        assert "slots-moving" not in codes(examine_all(cache, scan=False))


def _key_in(slot: int) -> str:
    from redis.crc import key_slot

    return next(str(number) for number in range(1_000_000) if key_slot(str(number).encode()) == slot)


class TestTogether:
    """Decisions on what cannot be had of real servers here: wrong clocks, old releases, lost slots."""

    def facts(self, name: str, **changes: object) -> Facts:
        info = {"redis_version": "7.2.4", "role": "master"}
        return dataclasses.replace(Facts(name, "primary", True, info=info), **changes)  # type: ignore[arg-type]

    def test_clock(self) -> None:
        """A clock is wrong if it is off by more than its measurement can be, and a second."""
        late = self.facts("a", offset=1.5, doubt=0.1)
        unsure = self.facts("b", offset=1.5, doubt=0.6)
        assert [each.where for each in check_all([late]) if each.code == "clock"] == [("a",)]
        assert [each for each in check_all([unsure]) if each.code == "clock"] == []

    def test_clocks_differ(self) -> None:
        """Two nodes whose clocks differ are named, though each is near ours."""
        nodes = [self.facts("a", offset=-0.8), self.facts("b", offset=0.8), self.facts("c", offset=0.0)]
        (found,) = [each for each in check_all(nodes) if each.code == "clocks-differ"]
        assert found.where == ("a", "b")

    @pytest.mark.parametrize(
        ("info", "expected"),
        [
            ({"redis_version": "6.2.14"}, True),
            ({"redis_version": "7.0.0"}, False),
            ({"redis_version": "10.1.0"}, False),
            ({"redis_version": "7.2.4", "valkey_version": "8.1.1"}, False),
        ],
    )
    def test_old(self, info: dict[str, str], expected: bool, make_cache: MakeCache) -> None:
        """Older than 7.0 is an error."""
        settings = make_cache("redis://127.0.0.1:1").settings
        found = [each.code for each in check_node(self.facts("a", info=info), settings)]
        assert ("old-server" in found) is expected

    def test_lost_slots(self) -> None:
        """A cluster without all its slots is an error."""
        down = self.facts("a", cluster={"cluster_state": "fail", "cluster_slots_ok": "10000"})
        (found,) = [each for each in check_all([down]) if each.code == "cluster-down"]
        assert "6,384 of 16,384" in found.what

    def test_writes_stopped(self, make_cache: MakeCache) -> None:
        """A failed snapshot that stops writes is an error."""
        settings = make_cache("redis://127.0.0.1:1").settings
        stopped = self.facts("a", info={"rdb_last_bgsave_status": "err"})
        assert "writes-stopped" in [each.code for each in check_node(stopped, settings)]
        goes_on = dataclasses.replace(stopped, config={"stop-writes-on-bgsave-error": "no"})
        assert "writes-stopped" not in [each.code for each in check_node(goes_on, settings)]

    @pytest.mark.parametrize(
        ("code", "changes"),
        [
            ("evicts-stamps", {"info": {"maxmemory": 1, "maxmemory_policy": "allkeys-lrm"}}),
            ("fragmented", {"info": {"used_memory": 10**9, "mem_fragmentation_ratio": 1.6}}),
            ("swapped", {"info": {"used_memory": 10**9, "mem_fragmentation_ratio": 0.5}}),
            ("many-clients", {"info": {"connected_clients": 90, "maxclients": 100}}),
            ("rejected-clients", {"info": {"rejected_connections": 3}}),
            ("loading", {"info": {"loading": 1}}),
            (
                "replica-lag",
                {"role": "replica", "info": {"master_link_status": "up", "master_last_io_seconds_ago": 30}},
            ),
            ("latency", {"latency": (1.0, 8.0)}),
            ("persistent", {"info": {"rdb_saves": 4}}),
        ],
    )
    def test_by_what_is_told(self, make_cache: MakeCache, code: str, changes: dict[str, Any]) -> None:
        """What a node says of itself is judged; a node that says nothing of it is not."""
        settings = make_cache("redis://127.0.0.1:1").settings
        assert code in [each.code for each in check_node(self.facts("a", **changes), settings)]
        assert code not in [each.code for each in check_node(self.facts("a"), settings)]

    @pytest.mark.parametrize(
        ("code", "changes"),
        [
            ("reads-when-down", {"config": {"cluster-allow-reads-when-down": "yes"}}),
            ("long-node-timeout", {"config": {"cluster-node-timeout": "60000"}}),
            (
                "no-replica",
                {"map": {"a:1": {"node_id": "x", "flags": "myself,master", "slots": [["0", "16383"]]}}},
            ),
            ("node-failed", {"map": {"a:1": {"node_id": "x", "flags": "master,fail", "slots": []}}}),
        ],
    )
    def test_by_what_a_cluster_tells(self, code: str, changes: dict[str, Any]) -> None:
        """A cluster that says that something is wrong with it is believed."""
        whole = {"cluster_state": "ok", "cluster_slots_ok": "16384"}
        assert code in [each.code for each in check_all([self.facts("a", cluster=whole, **changes)])]
        assert code not in [each.code for each in check_all([self.facts("a", cluster=whole)])]

    def test_merged(self) -> None:
        """What nodes have in common but for figures is one finding; what is not of nodes, or differs, is not."""

        def found(what: str, *where: str) -> Finding:
            return Finding("warning", "code", what, "", "", where)

        alike = [found("1.5 MiB of 20 are used", "a:1"), found("17 MiB of 20 are used", "b:2")]
        (one,) = merged(alike)
        assert (one.what, one.where) == ("1.5 MiB of 20 are used (and 1 like it)", ("a:1", "b:2"))
        assert len(merged([found("CONFIG was refused", "a:1"), found("INFO was refused", "a:1")])) == 2
        assert len(merged([found("key a1"), found("key a2")])) == 2

    def test_mixed_versions(self) -> None:
        """Nodes of different versions are an upgrade half done."""
        nodes = [self.facts("a"), self.facts("b", info={"redis_version": "7.4.0"})]
        assert "mixed-versions" in [each.code for each in check_all(nodes)]

    def test_exit_status(self) -> None:
        """Errors are 1, warnings with strict, notices never."""
        found = {name: [Finding(name, "code", "", "", "")] for name in ORDER}
        assert [exit_status(found[name], strict=False) for name in ("error", "warning", "notice")] == [
            1,
            0,
            0,
        ]
        assert [exit_status(found[name], strict=True) for name in ("error", "warning", "notice")] == [1, 1, 0]
        assert exit_status([], strict=True) == 0
