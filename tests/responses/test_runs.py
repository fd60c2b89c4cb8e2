"""One run of a handler for many clients, streams, and clients who leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from tests.behaviour.faces import until
from tests.responses.asking import Ask, Reply, answer, ask
from tests.responses.conftest import Make, Site

RULES = [Rule("/{rest:path}", ttl=300)]
NO_STORE = ("cache-control", "no-store")


class Gate:
    """A handler that waits until it is let go."""

    def __init__(self, *headers: tuple[str, str], fails: bool = False) -> None:
        self._open = asyncio.Event()
        self._headers = headers
        self._fails = fails
        self.running = 0
        self.most = 0

    def let_go(self) -> None:
        self._open.set()

    async def __call__(self, request: Ask) -> Reply:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._open.wait()
            if self._fails:
                raise OSError("the handler is broken")
            return answer("done", 200, self._headers)
        finally:
            self.running -= 1


def start(site: Site, url: str = "/a", **options: Any) -> asyncio.Task[Reply]:
    return asyncio.create_task(ask(site.app, url, **options))


async def waiting(site: Site, count: int) -> None:
    """Wait until so many clients wait for another's load."""
    await until(lambda: site.api.stats()["api:"].waits >= count)


async def test_one_run_for_all(make: Make) -> None:
    """However many clients ask for what is not there, the handler runs once."""
    gate = Gate()
    site = make(gate, RULES)
    asked = [start(site) for _ in range(50)]
    await waiting(site, 49)
    gate.let_go()
    replies = await asyncio.gather(*asked)
    assert site.calls == 1
    assert {reply.body for reply in replies} == {b"done"}
    assert sum("collapsed" in reply.cache for reply in replies) == 49


async def test_one_run_for_each_variant(make: Make) -> None:
    """Who waited for an answer that proves to be another variant waits for one run of their own variant."""
    go = asyncio.Event()

    async def handler(request: Ask) -> Reply:
        await go.wait()
        return answer(request.get("accept-language") or "", 200, [("vary", "accept-language")])

    site = make(handler, RULES)
    tongues = ["en", "de", "fr"] * 10
    asked = [start(site, headers=[("accept-language", tongue)]) for tongue in tongues]
    await waiting(site, 29)
    go.set()
    assert [(await each).body.decode() for each in asked] == tongues
    assert site.calls == 3


async def test_stale_is_no_help_in_mid_answer(make: Make) -> None:
    """An answer that has begun and fails is not followed by a stale one."""
    broken: list[bool] = []

    async def handler(request: Ask) -> Reply | None:
        if not broken:
            return answer("old", 200, [("cache-control", "max-age=0, stale-if-error=60")])
        await begin(request, (b"cache-control", b"no-store"))
        await chunk(request, b"half")
        raise OSError("broken")

    site, reply = make(handler), Reply()
    await ask(site.app, "/a")
    broken.append(True)
    with pytest.raises(OSError, match="broken"):
        await ask(site.app, "/a", reply=reply)
    assert reply.body == b"half"


async def test_client_leaves(make: Make) -> None:
    """Who caused the run may leave: the others get its answer, and it is stored."""
    gate = Gate()
    site = make(gate, RULES)
    first = start(site)
    await until(lambda: site.calls == 1)
    second = start(site)
    await waiting(site, 1)
    first.cancel()
    gate.let_go()
    assert (await second).body == b"done"
    assert (site.calls, site.handler.cancelled) == (1, 0)
    assert (await ask(site.app, "/a")).hit


async def test_disconnect_is_not_told(make: Make) -> None:
    """A run that others share does not hear that the client who caused it has gone."""
    heard: list[str] = []
    go = asyncio.Event()

    async def handler(request: Ask) -> Reply:
        async def listen() -> None:
            while True:
                heard.append((await request.receive())["type"])

        listener = asyncio.create_task(listen())
        await go.wait()
        listener.cancel()
        return answer("done")

    gone = asyncio.Event()
    site = make(handler, RULES)
    first = start(site, gone=gone)
    await until(lambda: heard)
    second = start(site)
    await waiting(site, 1)
    gone.set()
    go.set()
    assert [(await first).body, (await second).body] == [b"done", b"done"]
    assert heard == ["http.request"]


async def test_uncacheable_is_not_serialized(make: Make) -> None:
    """Who waited for what cannot be shared asks at once, all side by side; for a while nobody waits at all."""
    gate = Gate(NO_STORE)
    site = make(gate, RULES)
    asked = [start(site) for _ in range(10)]
    await waiting(site, 9)
    await until(lambda: gate.running)
    assert gate.most == 1
    gate.let_go()
    await asyncio.gather(*asked)
    assert site.calls == 10
    gate._open.clear()
    again = [start(site) for _ in range(10)]
    await until(lambda: gate.running == 10)
    gate.let_go()
    assert {reply.body for reply in await asyncio.gather(*again)} == {b"done"}


async def test_error_is_shared(make: Make) -> None:
    """A handler that raises raises for all who waited, and nothing is stored."""
    gate = Gate(fails=True)
    site = make(gate, RULES)
    asked = [start(site) for _ in range(5)]
    await waiting(site, 4)
    gate.let_go()
    replies = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(reply) for reply in replies] == [OSError] * 5
    assert site.calls == 1


def _has(reply: Reply, body: bytes) -> bool:
    return reply.body == body


async def chunk(request: Ask, body: bytes, more: bool = True) -> None:
    await request.send({"type": "http.response.body", "body": body, "more_body": more})


async def begin(request: Ask, *headers: tuple[bytes, bytes]) -> None:
    await request.send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def test_event_stream(make: Make) -> None:
    """A stream that is not to be stored reaches its client piece by piece, and hears when that leaves."""
    steps: asyncio.Queue[bytes] = asyncio.Queue()
    ended: list[str] = []

    async def handler(request: Ask) -> None:
        await begin(request, (b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"))
        await request.receive()

        async def listen() -> None:
            ended.append((await request.receive())["type"])
            steps.put_nowait(b"")

        listener = asyncio.create_task(listen())
        while piece := await steps.get():
            await chunk(request, piece)
        await listener

    gone, reply = asyncio.Event(), Reply()
    site = make(handler, RULES)
    running = start(site, gone=gone, reply=reply)
    whole = b""
    for piece in (b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"):
        steps.put_nowait(piece)
        whole += piece
        await until(partial(_has, reply, whole))
    gone.set()
    await running
    assert ended == ["http.disconnect"]
    assert reply.body == whole


async def test_stream_is_handed_on_and_stored(make: Make) -> None:
    """Pieces of an answer without a length are given at once, and what they make together is stored."""
    more = asyncio.Event()

    async def handler(request: Ask) -> None:
        await begin(request)
        await chunk(request, b"one ")
        await more.wait()
        await chunk(request, b"two")
        await chunk(request, b"", False)

    reply = Reply()
    site = make(handler, RULES)
    running = start(site, reply=reply)
    await until(lambda: reply.body == b"one ")
    other = start(site)
    await waiting(site, 1)
    more.set()
    await running
    assert (reply.complete, (await other).body, site.calls) == (True, b"one two", 1)
    again = await ask(site.app, "/a")
    assert (again.hit, again.body) == (True, b"one two")


async def test_client_of_a_shared_stream_leaves(make: Make) -> None:
    """A stream that is collected for others goes on without the client who caused it."""
    more = asyncio.Event()

    async def handler(request: Ask) -> None:
        await begin(request)
        await chunk(request, b"one ")
        await more.wait()
        await chunk(request, b"two", False)

    reply = Reply()
    site = make(handler, RULES)
    running = start(site, reply=reply)
    await until(lambda: reply.body)
    other = start(site)
    await waiting(site, 1)
    running.cancel()
    await asyncio.wait([running])
    more.set()
    assert (await other).body == b"one two"


async def test_client_of_its_own_run_leaves(make: Make) -> None:
    """A run that is for one client only ends with it."""

    async def handler(request: Ask) -> None:
        await begin(request, (b"cache-control", b"no-store"))
        while True:
            await chunk(request, b"x")
            await asyncio.sleep(0)

    reply = Reply()
    site = make(handler, RULES)
    running = start(site, reply=reply)
    await until(lambda: reply.body)
    running.cancel()
    await until(lambda: site.handler.cancelled)


async def test_slow_client_slows_its_own_run(make: Make) -> None:
    """What is passed on goes as fast as the client takes it: nothing piles up."""
    sent = 0

    async def handler(request: Ask) -> None:
        nonlocal sent
        await begin(request, (b"cache-control", b"no-store"))
        for _ in range(5):
            await chunk(request, b"x")
            sent += 1
        await chunk(request, b"", False)

    site = make(handler, RULES)
    take = asyncio.Event()
    taken: list[Any] = []

    async def slow_send(message: Any) -> None:
        taken.append(message)
        await take.wait()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/a", "query_string": b"", "headers": []}
    running = asyncio.create_task(site.app(scope, receive, slow_send))
    await until(lambda: taken)
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent == 0
    take.set()
    await running
    assert (sent, len(taken)) == (5, 7)


@pytest.mark.parametrize("with_length", [True, False])
async def test_too_long(make: Make, with_length: bool) -> None:
    """A body above the limit is handed on as a whole, and not stored; who waited asks for itself."""
    body = b"0123456789" * 30

    async def handler(request: Ask) -> None:
        await begin(request, *([(b"content-length", b"%d" % len(body))] if with_length else []))
        for at in range(0, len(body), 10):
            await chunk(request, body[at : at + 10], at + 10 < len(body))

    site = make(handler, RULES, max_body_bytes=100)
    replies = await asyncio.gather(*(ask(site.app, "/a") for _ in range(3)))
    assert {(reply.body, reply.complete) for reply in replies} == {(body, True)}
    assert not (await ask(site.app, "/a")).hit


def broken(after_start: bool) -> Callable[[Ask], Any]:
    async def handler(request: Ask) -> None:
        if after_start:
            await begin(request)
            await chunk(request, b"half")

    return handler


@pytest.mark.parametrize("after_start", [True, False])
async def test_half_an_answer(make: Make, after_start: bool) -> None:
    """An answer that is not whole is an error, and never stored."""
    site = make(broken(after_start), RULES)
    for _ in range(2):
        reply = Reply()
        with pytest.raises(RuntimeError, match="whole answer"):
            await ask(site.app, "/a", reply=reply)
        assert not reply.complete
    assert site.api.stats()["api:"].fills == 0


async def test_error_in_mid_stream(make: Make) -> None:
    """An error after the start of a passing answer reaches the server, as it would without a cache."""

    async def handler(request: Ask) -> None:
        await begin(request, (b"cache-control", b"no-store"))
        await chunk(request, b"half")
        raise OSError("broken")

    site, reply = make(handler, RULES), Reply()
    with pytest.raises(OSError, match="broken"):
        await ask(site.app, "/a", reply=reply)
    assert (reply.body, reply.complete) == (b"half", False)


async def test_background_task(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What a handler does after its answer does not hold that up, and its error is logged."""
    go = asyncio.Event()

    async def handler(request: Ask) -> None:
        await begin(request, (b"content-length", b"4"))
        await chunk(request, b"done", False)
        await go.wait()
        raise OSError("afterwards")

    site = make(handler, RULES)
    assert (await ask(site.app, "/a")).body == b"done"
    go.set()
    await until(lambda: "afterwards" in caplog.text)


async def test_extensions(make: Make) -> None:
    """A run that may be shared is not offered what only one connection can do."""

    def handler(request: Ask) -> Reply:
        assert request.scope["extensions"] == {"tls": {}}
        return answer("x")

    site = make(handler, RULES)
    extensions: dict[str, Any] = {"http.response.pathsend": {}, "http.response.trailers": {}, "tls": {}}
    assert (await ask(site.app, "/a", extensions=extensions)).body == b"x"


async def test_other_message(make: Make) -> None:
    """A message that is neither start nor body makes the run its client's alone."""
    seen = []

    async def handler(request: Ask) -> None:
        await begin(request)
        await request.send({"type": "http.response.pathsend", "path": "/x"})

    site = make(handler, RULES)

    async def send(message: Any) -> None:
        seen.append(message["type"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/a", "query_string": b"", "headers": []}
    await site.app(scope, receive, send)
    assert seen == ["http.response.start", "http.response.pathsend"]


async def test_other_scopes_pass(make: Make) -> None:
    """Websockets are not this middleware's matter."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    site = make(lambda _: None, RULES)
    site.app.app = app
    for kind in ("websocket", "lifespan"):
        await site.app({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == ["websocket", "lifespan"]


async def test_shutdown_waits_for_background_tasks(cache: AsyncCache) -> None:
    """A server waits for what handlers do after their answers, before the application is told to end."""
    done: list[str] = []
    go = asyncio.Event()

    async def afterwards() -> None:
        await go.wait()
        done.append("mail")

    def endpoint(request: Request) -> Response:
        return PlainTextResponse("x", background=BackgroundTask(afterwards))

    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        done.append("closed")

    app = Starlette(
        routes=[Route("/a", endpoint)],
        middleware=[Middleware(ResponseCacheMiddleware, cache, [Rule("/a", ttl=60)])],
        lifespan=asynccontextmanager(lifespan),
    )
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    said: list[str] = []

    async def send(message: Any) -> None:
        said.append(message["type"])

    living = asyncio.create_task(app({"type": "lifespan", "state": {}}, told.get, send))
    told.put_nowait({"type": "lifespan.startup"})
    await until(lambda: said)
    assert (await ask(app, "/a")).body == b"x"
    told.put_nowait({"type": "lifespan.shutdown"})
    for _ in range(20):
        await asyncio.sleep(0)
    go.set()
    await living
    assert done == ["mail", "closed"]


async def test_slow_handler(redis_server: RedisServer) -> None:
    """A handler that is slower than others' loads may be, and than its lease, runs once nevertheless."""
    async with AsyncCache.from_url(
        redis_server.url, namespace="web", timeout=5, patient_timeout=10, lease_ttl=0.1, wait_limit=0.05
    ) as cache:

        async def handler(request: Ask) -> Reply:
            await asyncio.sleep(0.5)
            return answer("done")

        site = Site(handler, cache, RULES)
        replies = await asyncio.gather(*(ask(site.app, "/a") for _ in range(50)))
        assert {reply.body for reply in replies} == {b"done"}
        assert site.calls == 1
