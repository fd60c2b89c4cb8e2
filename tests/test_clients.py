"""The clients against real servers: how long they take when Redis is away, and who shares what."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import ClusterDownError

from neverstale.config import Settings
from neverstale.drive.clients import (
    REDIS_ERRORS,
    AsyncConnections,
    Connections,
    shared,
    shared_async,
)
from neverstale.drive.cluster import AsyncBoundedCluster, BoundedCluster
from neverstale.events import ConnectionEvent
from neverstale.health import health, health_async
from neverstale.testing.servers import (
    RedisCluster,
    RedisServer,
    Server,
    binaries,
    free_port,
    frozen,
    wait_until,
)

# The limit of 50 ms, several times over: what is told apart here is tens of milliseconds from seconds, on a
# machine that may be busy.
SOON = 0.4


@pytest.fixture
def connections(server: Server) -> Iterator[Connections]:
    opened = shared(Settings.from_url(server.url))
    yield opened
    opened.close()


def put(client: Any, key: str = "k", value: str = "v") -> None:
    client.execute_command("SET", key, value, "PX", 60_000)


async def aput(client: Any, key: str = "k", value: str = "v") -> None:
    await client.execute_command("SET", key, value, "PX", 60_000)


def fails(call: Callable[[], object]) -> float:
    """Return how long it takes to fail, the best of three: one may find the machine busy."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with pytest.raises(REDIS_ERRORS):
            call()
        times.append(time.perf_counter() - began)
    return min(times)


async def afails(call: Callable[[], Awaitable[object]]) -> float:
    """Return how long it takes to fail, the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with pytest.raises(REDIS_ERRORS):
            await call()
        times.append(time.perf_counter() - began)
    return min(times)


# --- what works ---------------------------------------------------------------------------------------------------


def test_both_clients_reach_redis(connections: Connections, server: Server) -> None:
    """Fast and patient see the same data, as bytes, on every kind of server."""
    assert connections.is_cluster == server.is_cluster
    put(connections.fast)
    assert connections.patient.get("k") == b"v"
    assert connections.ping() is True


async def test_both_clients_reach_redis_async(server: Server) -> None:
    """The same on an event loop."""
    connections = shared_async(Settings.from_url(server.url))
    assert connections.is_cluster == server.is_cluster
    await aput(connections.fast)
    assert await connections.patient.get("k") == b"v"
    assert await connections.ping() is True
    await connections.close()


def test_making_connections_does_no_io() -> None:
    """A cache can be made while Redis is away, of any kind."""
    for url in (
        "redis://127.0.0.1:1",
        "redis://127.0.0.1:1?cluster=true",
        "redis+sentinel://127.0.0.1:1/main",
    ):
        began = time.perf_counter()
        opened = shared(Settings.from_url(url))
        on_loops = shared_async(Settings.from_url(url))
        assert time.perf_counter() - began < SOON
        assert fails(lambda opened=opened: opened.fast.get("k")) < SOON  # type: ignore[misc]
        assert opened.ping() is False
        opened.close()
        asyncio.run(on_loops.close())


async def test_node_clients_of_an_async_cluster_answer(redis_cluster: RedisCluster) -> None:
    """A driver can send to one node of a cluster, by a pool that waits."""
    connections = shared_async(Settings.from_url(redis_cluster.url))
    fast = connections.fast
    assert isinstance(fast, AsyncBoundedCluster)
    await fast.initialize()
    await aput(fast, "k")
    holder = fast.get_node_from_key("k")
    assert holder is not None
    node = fast.get_redis_connection(holder)
    assert await node.get("k") == b"v"
    assert node is fast.get_redis_connection(holder)
    await connections.close()


def test_a_unix_socket_is_reached(redis_server: RedisServer) -> None:
    """unix:// works like any other address, sync and async."""
    url = f"unix://{redis_server.path}?db=3"
    connections = shared(Settings.from_url(url))
    heard: list[ConnectionEvent] = []
    connections.events.subscribe(heard.append, ConnectionEvent)
    put(connections.fast)
    assert connections.fast.get("k") == b"v"
    assert health(connections).mode == "unix"
    connections.close()
    assert {event.address for event in heard} == {str(redis_server.path)}

    async def read() -> Any:
        connections = shared_async(Settings.from_url(url))
        try:
            return await connections.fast.get("k")
        finally:
            await connections.close()

    assert asyncio.run(read()) == b"v"


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server that speaks TLS, and the certificate to trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    key.chmod(0o644)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-auth-clients", "no")
    files = (
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(certificate),
    )
    with RedisServer.start(binaries()["redis"], *options, *files):
        yield f"rediss://127.0.0.1:{port}", certificate


def test_tls_is_verified_unless_said_otherwise(tls_server: tuple[str, Path]) -> None:
    """An unknown certificate is refused; a trusted one, or the explicit wish, is not."""
    url, certificate = tls_server
    strict, trusting, careless = (
        shared(Settings.from_url(url + query, timeout=1))
        for query in ("", f"?ssl_ca_certs={certificate}", "?ssl_cert_reqs=none")
    )
    assert "CERTIFICATE_VERIFY_FAILED" in health(strict).redis
    assert [trusting.ping(), careless.ping()] == [True, True]
    for each in (strict, trusting, careless):
        each.close()


async def test_tls_is_verified_unless_said_otherwise_async(tls_server: tuple[str, Path]) -> None:
    """The same on an event loop."""
    url, certificate = tls_server
    strict, trusting, careless = (
        shared_async(Settings.from_url(url + query, timeout=1))
        for query in ("", f"?ssl_ca_certs={certificate}", "?ssl_cert_reqs=none")
    )
    assert "CERTIFICATE_VERIFY_FAILED" in (await health_async(strict)).redis
    assert [await trusting.ping(), await careless.ping()] == [True, True]
    for each in (strict, trusting, careless):
        await each.close()


# --- Redis away ---------------------------------------------------------------------------------------------------


def test_a_frozen_redis_costs_tens_of_milliseconds(connections: Connections, server: Server) -> None:
    """Every node frozen: reads fail soon, and work again as soon as Redis does."""
    put(connections.fast)
    unused = shared(Settings.from_url(server.url, pool_size=3))
    with frozen(server):
        assert fails(lambda: connections.fast.get("k")) < SOON
        # Also where no connection had been made, and the slots of a cluster are not known.
        assert fails(lambda: unused.fast.get("k")) < SOON
        assert health(connections).redis.startswith("TimeoutError: ")
        assert connections.ping() is False
    wait_until(lambda: unused.ping() and connections.fast.get("k") == b"v", "Redis is back", limit=5)
    unused.close()


async def test_a_frozen_redis_costs_tens_of_milliseconds_async(server: Server) -> None:
    """The same on an event loop."""
    connections = shared_async(Settings.from_url(server.url))
    unused = shared_async(Settings.from_url(server.url, pool_size=3))
    await aput(connections.fast)
    with frozen(server):
        assert await afails(lambda: connections.fast.get("k")) < SOON
        assert await afails(lambda: unused.fast.get("k")) < SOON
        assert (await health_async(connections)).redis.startswith("TimeoutError: ")
        assert await connections.ping() is False
    async with asyncio.timeout(5):
        while not (await unused.ping() and await connections.ping()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert await connections.fast.get("k") == b"v"
    await connections.close()
    await unused.close()


def test_one_frozen_primary_costs_nobody_else_anything(redis_cluster: RedisCluster) -> None:
    """The other primaries of a cluster answer at once; the frozen one's keys fail soon."""
    connections = shared(Settings.from_url(redis_cluster.url))
    keys = {redis_cluster.primary_of(key).port: key for key in map(str, range(50))}
    assert len(keys) == 3
    for key in keys.values():
        put(connections.fast, key)
    port, lost = keys.popitem()
    with frozen(next(node for node in redis_cluster.nodes if node.port == port)):
        assert fails(lambda: connections.fast.get(lost)) < SOON
        assert [connections.fast.get(key) for key in keys.values()] == [b"v", b"v"]
        assert str(port) in health(connections).redis
    wait_until(lambda: connections.ping(), "the primary is back", limit=5)
    connections.close()


def test_many_threads_share_one_attempt_to_learn_a_clusters_slots(redis_cluster: RedisCluster) -> None:
    """A hundred threads that find a cluster away do not wait for each other in a row."""
    connections = shared(Settings.from_url(redis_cluster.url))
    times: list[float] = []

    def read() -> None:
        began = time.perf_counter()
        with pytest.raises(REDIS_ERRORS):
            connections.fast.get("k")
        times.append(time.perf_counter() - began)

    with frozen(redis_cluster):
        threads = [threading.Thread(target=read) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(times) == 100
    # One after the other they would have needed 5 s.
    assert max(times) < 1.5
    connections.close()


async def test_many_tasks_share_one_attempt_and_none_ends_it(redis_cluster: RedisCluster) -> None:
    """A task that is cancelled while it waits for a cluster's slots does not take them from the others."""
    connections = shared_async(Settings.from_url(redis_cluster.url))
    read: Any = connections.fast.get
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(read("k")) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert done[1::2] == [None] * 50
    assert {type(result) for result in done[::2]} == {asyncio.CancelledError}
    await connections.close()


def test_a_failover_is_noticed(redis_cluster: RedisCluster) -> None:
    """When a replica has taken over, the fast client finds it without being told."""
    connections = shared(Settings.from_url(redis_cluster.url))
    put(connections.fast)
    before = redis_cluster.primary_of("k")
    before.kill()
    wait_until(lambda: works(lambda: put(connections.fast, value="new")), "the replica serves", limit=30)
    assert connections.fast.get("k") == b"new"
    connections.close()


async def test_a_failover_is_noticed_async(redis_cluster: RedisCluster) -> None:
    """The same on an event loop."""
    connections = shared_async(Settings.from_url(redis_cluster.url))
    await aput(connections.fast)
    redis_cluster.primary_of("k").kill()
    async with asyncio.timeout(30):
        while True:
            try:
                await aput(connections.fast, value="new")
                break
            except REDIS_ERRORS:
                await asyncio.sleep(0.02)
    assert await connections.fast.get("k") == b"new"
    await connections.close()


def works(call: Callable[[], object]) -> bool:
    """Say whether a call succeeds."""
    try:
        call()
    except REDIS_ERRORS:
        return False
    return True


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that neither accepts nor refuses: its queue is full, and further SYNs are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for each in waiting:
            each.close()


@pytest.mark.parametrize("query", ["", "?cluster=true"])
async def test_a_black_hole_costs_tens_of_milliseconds(black_hole: int, query: str) -> None:
    """Packets that vanish are waited for no longer than the limit, sync and async."""
    settings = Settings.from_url(f"redis://127.0.0.1:{black_hole}{query}")
    connections, on_loop = shared(settings), shared_async(settings)
    assert fails(lambda: connections.fast.get("k")) < SOON
    assert await afails(lambda: on_loop.fast.get("k")) < SOON
    connections.close()
    await on_loop.close()


def test_a_restart_costs_the_patient_client_nothing(redis_server: RedisServer) -> None:
    """Connections that died with the server are replaced without an error."""
    connections = shared(Settings.from_url(redis_server.url))
    assert connections.fast.ping()
    assert connections.patient.ping()
    redis_server.restart()
    assert connections.patient.ping()
    assert connections.fast.ping()
    connections.close()


def test_clusterdown_is_a_broken_connection_at_once(redis_cluster: RedisCluster) -> None:
    """redis-py sleeps for a quarter of a second where a cluster says that it is down."""
    connections = shared(Settings.from_url(redis_cluster.url, pool_size=5))
    put(connections.fast)
    node = redis_cluster.primary_of("k")
    # A node that has lost sight of all others says so after cluster-node-timeout.
    others = [other for other in redis_cluster.nodes if other is not node]
    for other in others:
        other.freeze()
    client = node.client()

    def down() -> bool:
        try:
            client.get("k")
        except ClusterDownError:
            return True
        return False

    wait_until(down, "the node says CLUSTERDOWN", limit=30)
    assert fails(lambda: connections.fast.get("k")) < 0.2
    with pytest.raises(redis.ConnectionError, match="cluster is down"):
        connections.fast.get("k")
    for other in others:
        other.thaw()
    wait_until(lambda: works(lambda: connections.fast.get("k")), "the cluster is up", limit=30)
    connections.close()


# --- pools --------------------------------------------------------------------------------------------------------


def test_an_exhausted_pool_waits_and_then_fails(redis_server: RedisServer) -> None:
    """A caller gets the connection that becomes free in time, and an error where none does."""
    connections = shared(Settings.from_url(redis_server.url, pool_size=1))
    clients: list[Any] = [connections.fast, connections.patient]
    # The patient pool has one more, for whoever listens.
    pools = [clients[0].connection_pool, *[clients[1].connection_pool] * 2]
    held = [pool.get_connection() for pool in pools]
    assert fails(lambda: connections.fast.get("k")) < SOON
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(connections.patient.ping()))
    waiter.start()
    wait_until(lambda: bool(pools[1].pool.not_empty._waiters), "the call waits")
    assert answers == []
    for pool, connection in zip(pools, held, strict=True):
        pool.release(connection)
    waiter.join()
    assert answers == [True]
    connections.close()


async def test_an_exhausted_pool_waits_and_then_fails_async(redis_server: RedisServer) -> None:
    """The same on an event loop."""
    connections = shared_async(Settings.from_url(redis_server.url, pool_size=1))
    clients: list[Any] = [connections.fast, connections.patient]
    pools = [clients[0].connection_pool, *[clients[1].connection_pool] * 2]
    held = [await pool.get_connection() for pool in pools]
    assert await afails(lambda: connections.fast.get("k")) < SOON
    call = asyncio.create_task(clients[1].ping())
    while not pools[1]._condition._waiters:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for pool, connection in zip(pools, held, strict=True):
        await pool.release(connection)
    assert await call is True
    await connections.close()


async def test_more_tasks_than_connections_all_get_their_answer(server: Server) -> None:
    """Three hundred reads at a time through two connections: nobody hears of an exhausted pool."""
    connections = shared_async(Settings.from_url(server.url, pool_size=2, timeout=5))
    await aput(connections.fast)
    assert await asyncio.gather(*(connections.fast.get("k") for _ in range(300))) == [b"v"] * 300
    await connections.close()


SLOW_SCRIPT = """
local function now() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end
local start = now()
repeat until now() - start > 150000
return 'late'
"""


@pytest.mark.parametrize("which", ["fast", "patient"])
@pytest.mark.parametrize("kind", ["redis_server", "sentinel"])
def test_a_late_reply_is_never_read_by_the_next_command(
    kind: str, which: str, request: pytest.FixtureRequest
) -> None:
    """A connection on which a read timed out is closed: what still arrives there belongs to nobody."""
    connections = shared(Settings.from_url(request.getfixturevalue(kind).url, patient_timeout=0.05))
    client: Any = getattr(connections, which)
    put(client, "a", "1")
    put(client, "b", "2")
    with pytest.raises(redis.TimeoutError):
        client.eval(SLOW_SCRIPT, 0)
    wait_until(lambda: works(client.ping), "the script ends")
    assert [client.get("a"), client.get("b")] == [b"1", b"2"]
    connections.close()


# --- events -------------------------------------------------------------------------------------------------------


def test_connect_error_and_close_are_events(server: Server) -> None:
    """Every node's connections tell what happens to them."""
    connections = shared(Settings.from_url(server.url))
    heard: list[ConnectionEvent] = []
    connections.events.subscribe(heard.append, ConnectionEvent)
    put(connections.fast)
    assert {event.kind for event in heard} == ({"connect", "close"} if server.is_cluster else {"connect"})
    with frozen(server):
        fails(lambda: connections.fast.get("k"))
    errors = [event for event in heard if event.kind == "error"]
    assert {event.error is not None and event.error.startswith("TimeoutError: ") for event in errors} == {
        True
    }
    assert {event.address for event in heard} <= {f"127.0.0.1:{node.port}" for node in server.nodes}
    assert connections.ping() is True
    heard.clear()
    connections.close()
    assert {event.kind for event in heard} == {"close"}


async def test_connect_error_and_close_are_events_async(server: Server) -> None:
    """The same on an event loop."""
    connections = shared_async(Settings.from_url(server.url))
    heard: list[ConnectionEvent] = []
    connections.events.subscribe(heard.append, ConnectionEvent)
    await aput(connections.fast)
    assert "connect" in {event.kind for event in heard}
    with frozen(server):
        await afails(lambda: connections.fast.get("k"))
    errors = [event for event in heard if event.kind == "error"]
    assert {event.error is not None and event.error.startswith("TimeoutError: ") for event in errors} == {
        True
    }
    assert {event.address for event in heard} <= {f"127.0.0.1:{node.port}" for node in server.nodes}
    assert await connections.ping() is True
    heard.clear()
    await connections.close()
    assert {event.kind for event in heard} == {"close"}


def test_one_failure_is_one_error_event(redis_server: RedisServer) -> None:
    """A failed connection attempt passes several hands and is told once."""
    connections = shared(Settings.from_url(redis_server.url))
    heard: list[ConnectionEvent] = []
    connections.events.subscribe(heard.append, ConnectionEvent)
    redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        connections.fast.get("k")
    assert [event.kind for event in heard] == ["error"]
    connections.close()


# --- who shares what ----------------------------------------------------------------------------------------------


def test_equal_settings_share_connections_until_the_last_user_closes(redis_server: RedisServer) -> None:
    """Namespaces and TTLs are no matter of connections; limits and addresses are."""
    url = redis_server.url
    first = shared(Settings.from_url(url, namespace="a"))
    second = shared(Settings.from_url(url, namespace="b", ttl=5))
    other = shared(Settings.from_url(url, timeout=0.5))
    assert first.fast is second.fast
    assert first.events is second.events
    assert first.fast is not other.fast
    first.close()
    first.close()
    assert second.fast.ping()
    with pytest.raises(redis.ConnectionError, match="closed"):
        _ = first.fast
    client = second.fast
    second.close()
    third = shared(Settings.from_url(url))
    assert third.fast is not client
    third.close()
    other.close()


async def test_equal_settings_share_connections_until_the_last_user_closes_async(
    redis_server: RedisServer,
) -> None:
    """The same on an event loop."""
    url = redis_server.url
    first = shared_async(Settings.from_url(url, namespace="a"))
    second = shared_async(Settings.from_url(url, namespace="b", ttl=5))
    assert first.fast is second.fast
    await first.close()
    await first.close()
    assert await second.fast.ping()
    with pytest.raises(redis.ConnectionError, match="closed"):
        _ = first.fast
    await second.close()


def test_different_passwords_share_nothing() -> None:
    """The masked URL is the same; the connections are not."""
    first, second = (shared(Settings.from_url(f"redis://:{word}@h")) for word in ("a", "b"))
    assert first.fast is not second.fast
    first.close()
    second.close()


def test_each_loop_has_its_own_client_and_closes_it_when_it_ends(redis_server: RedisServer) -> None:
    """asyncio.run, again and again, leaves no open connection behind, and nothing has to be closed by hand."""
    connections = shared_async(Settings.from_url(redis_server.url))
    clients = set()

    async def use() -> None:
        assert await connections.fast.ping()
        clients.add(id(connections.fast))
        assert connections.fast is connections.fast

    before = len(redis_server.client().client_list())
    for _ in range(3):
        asyncio.run(use())
    wait_until(lambda: len(redis_server.client().client_list()) == before, "all connections are closed")
    assert len(connections._clients._pairs) <= 1
    asyncio.run(connections.close())


def test_a_connection_that_another_thread_closes_is_not_ready(redis_server: RedisServer) -> None:
    """The parser has lost its socket, and the connection does not know it yet: that is no error of the caller's."""
    connections = shared(Settings.from_url(redis_server.url))
    client: Any = connections.fast
    connection = client.connection_pool.get_connection()
    assert connection.ready()
    connection._parser._sock = None
    assert connection.ready() is False
    connection.disconnect()
    client.connection_pool.release(connection)
    connections.close()


def test_a_client_outside_a_loop_is_an_error() -> None:
    """An asynchronous client without an event loop would belong to none."""
    connections = shared_async(Settings())
    with pytest.raises(RuntimeError, match="no running event loop"):
        _ = connections.fast
    asyncio.run(connections.close())


FORK = """
import asyncio, os, sys, threading, warnings
from neverstale.config import Settings
from neverstale.drive.clients import shared, shared_async

warnings.simplefilter("ignore", DeprecationWarning)  # forking beside a thread: the point of it
settings = Settings.from_url(sys.argv[1], timeout=2)
threads, on_loop = shared(settings), shared_async(settings)
loop = asyncio.new_event_loop()


def ids(loop):
    async def ask():
        client = on_loop.fast
        await client.ping() if on_loop.is_cluster else None
        node = client.get_redis_connection(client.get_primaries()[0]) if on_loop.is_cluster else client
        return await node.client_id()

    client = threads.fast
    node = client.get_redis_connection(client.get_primaries()[0]) if threads.is_cluster else client
    return node.client_id(), loop.run_until_complete(ask())


before = ids(loop)
events = []
threads.events.subscribe(events.append)
on_loop.events.subscribe(events.append)
# A thread that holds every lock at the fork, and is not there afterwards.
held, go = threading.Event(), threading.Event()


def hold():
    from neverstale.drive import clients

    with clients._threads._lock, clients._loops._lock, threads._clients._pair.fast._lock, on_loop._clients._lock:
        held.set()
        go.wait()


holder = threading.Thread(target=hold, daemon=True)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    status = 1
    try:
        mine = asyncio.new_event_loop()
        assert not set(ids(mine)) & set(before), "the child uses a connection of its parent"
        threads.close()
        mine.run_until_complete(on_loop.close())
        assert {event.kind for event in events} == {"connect", "close"}, events
        status = 0
    except BaseException as problem:
        print(repr(problem), flush=True)
    finally:
        os._exit(status)
go.set()
_, status = os.waitpid(child, 0)
assert status == 0, f"the child failed: {status}"
assert ids(loop) == before, "a connection of the parent was closed"
assert events == [], events
threads.close()
loop.run_until_complete(on_loop.close())
loop.close()
print("done")
"""


@pytest.mark.parametrize("kind", ["redis_server", "redis_cluster"])
def test_a_fork_has_its_own_connections(kind: str, request: pytest.FixtureRequest) -> None:
    """A child uses and closes its own; the parent's go on, and locks held at the fork hold up nobody."""
    server: Server = request.getfixturevalue(kind)
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(FORK), server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


# --- Sentinel -----------------------------------------------------------------------------------------------------


@dataclass
class Sentinel:
    """A Sentinel that watches a primary."""

    url: str
    primary: RedisServer
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path, primary: RedisServer) -> Sentinel:
        port = free_port()
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        command = [str(binaries()["redis"]), str(configuration), "--sentinel"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        sentinel = cls(f"redis+sentinel://127.0.0.1:{port}/main/0", primary, process)
        with sentinel.client() as client:
            wait_until(lambda: works(client.ping), "Sentinel answers")
        return sentinel

    def client(self) -> redis.Redis:
        port = Settings.from_url(self.url).port
        assert port is not None
        return redis.Redis(port=port, decode_responses=True, protocol=2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinel]:
    """A Sentinel and a primary without a replica: nothing takes over while a test freezes it."""
    with RedisServer.start(binaries()["redis"]) as primary:
        started = Sentinel.start(tmp_path_factory.mktemp("sentinel"), primary)
        yield started
        started.stop()


def dict_of(reply: Any) -> dict[str, str]:
    """Read a list of names and values, or what a client has already made of it."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def test_sentinel_names_the_primary(tmp_path: Path) -> None:
    """The clients go to the primary, and follow a failover."""
    binary = binaries()["redis"]
    with (
        RedisServer.start(binary) as primary,
        RedisServer.start(binary, "--replicaof", "127.0.0.1", str(primary.port)) as replica,
    ):
        sentinel = Sentinel.start(tmp_path, primary)
        connections = shared(Settings.from_url(sentinel.url, pool_size=2))
        put(connections.fast)
        assert connections.patient.get("k") == b"v"
        assert primary.client().get("k") == b"v"
        assert health(connections).as_dict()["mode"] == "sentinel"
        with sentinel.client() as client:

            def ready() -> bool:
                replicas: Any = client.execute_command("SENTINEL REPLICAS", "main")
                return any(dict_of(each)["master-link-status"] == "ok" for each in replicas)

            wait_until(ready, "Sentinel knows the replica")
            client.execute_command("SENTINEL FAILOVER", "main")
        wait_until(lambda: primary.client().info("replication")["role"] == "slave", "the failover is over")
        wait_until(lambda: works(lambda: put(connections.fast, value="new")), "writes arrive", limit=20)
        assert replica.client().get("k") == b"new"
        connections.close()
        sentinel.stop()


async def test_sentinel_names_the_primary_async(sentinel: Sentinel) -> None:
    """The same on an event loop; a frozen primary costs tens of milliseconds."""
    connections = shared_async(Settings.from_url(sentinel.url, pool_size=2))
    await aput(connections.fast)
    assert await connections.patient.get("k") == b"v"
    assert (await health_async(connections)).redis == "ok"
    with frozen(sentinel.primary):
        assert await afails(lambda: connections.fast.get("k")) < SOON
    await connections.close()


def test_frozen_servers_behind_a_sentinel_cost_tens_of_milliseconds(sentinel: Sentinel) -> None:
    """Also when nothing is known yet and the primary does not answer."""
    connections = shared(Settings.from_url(sentinel.url))
    with frozen(sentinel.primary):
        assert fails(lambda: connections.fast.get("k")) < SOON
    connections.close()


def test_types_are_what_drivers_expect(connections: Connections, server: Server) -> None:
    """A single node's client is redis-py's own; a cluster's is a subclass of it."""
    expected = BoundedCluster if server.is_cluster else redis.Redis
    assert (type(connections.fast), type(connections.patient)) == (expected, expected)
    assert issubclass(BoundedCluster, redis.RedisCluster)
    assert issubclass(AsyncBoundedCluster, redis.asyncio.RedisCluster)
    assert AsyncConnections is not None
