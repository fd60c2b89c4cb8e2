"""What a request pays for the middleware: an answer from the cache, and the session that it is asked with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import redis.asyncio

from bench.measure import Contender, Section, contest, sequential
from bench.product import product
from neverstale import AsyncCache
from neverstale.sessions import AsyncSessions
from neverstale.testing.servers import Server
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from neverstale.web.sessions import SessionMiddleware

#: One page of a list: some 6 KB of JSON.
BODY = msgspec.json.encode([product(number) for number in range(24)])
_COOKIE = "session"
_ASKED = ((b"host", b"127.0.0.1:8000"), (b"accept", b"*/*"), (b"user-agent", b"bench"))

App = Callable[..., Awaitable[None]]


async def responses(server: Server, rounds: int) -> Section:
    """Compare answers from the cache with the same application that takes them from Redis by hand, and without."""
    client = redis.asyncio.Redis.from_url(server.url)
    await client.set("bare", BODY, ex=3600)

    async def by_hand() -> bytes:
        found: Any = await client.get("bare")
        body: bytes = found
        return body

    async with AsyncCache.from_url(server.url, namespace="bench", timeout=5) as cache:
        # Given by a function, as where the cache is made while the application starts.
        rules = [Rule("/list", ttl=3600, tags=("list",))]
        cached = ResponseCacheMiddleware(_app(_nothing), cache, rules)
        etag = (await _ask(cached, "/list"))[b"etag"]
        contenders = {
            "the app, redis-py GET by hand": Contender(_turns(_app(by_hand), "/list")),
            "the app, nothing cached": Contender(_turns(_app(_nothing), "/list")),
            "middleware, no rule for it": Contender(_turns(cached, "/other")),
            "middleware, hit, 1 tag": Contender(_turns(cached, "/list")),
            "middleware, hit, a query of 3": Contender(
                _turns(cached, "/list", query=b"sort=price&page=2&q=oak")
            ),
            "middleware, hit, 304": Contender(_turns(cached, "/list", (b"if-none-match", etag))),
        }
        await _ask(cached, "/list")
        section = await contest("one cached answer after the other", contenders, rounds, per_second=False)
    await client.aclose()
    server.flush()
    return section


async def sessions(server: Server, rounds: int) -> Section:
    """Compare requests with their session with the same application that asks Redis by hand, and without."""
    client = redis.asyncio.Redis.from_url(server.url)
    await client.set("bare", msgspec.json.encode({"user": 7, "cart": [1, 2, 3]}), ex=3600)

    async def by_hand() -> bytes:
        found: Any = await client.get("bare")
        msgspec.json.decode(found)
        return BODY

    async with AsyncCache.from_url(server.url, namespace="bench", timeout=5) as cache:
        own: AsyncSessions[dict[str, Any]] = AsyncSessions(cache, type=dict[str, Any], seen_every=3600)
        issued = await own.log_in(None, "7", {"user": 7, "cart": [1, 2, 3]})
        cookie = (b"cookie", f"{_COOKIE}={issued.id}".encode())
        wrapped = SessionMiddleware(_app(_nothing), own, cookie=_COOKIE, secure=False)
        looking = SessionMiddleware(_app(_nothing, look=True), own, cookie=_COOKIE, secure=False)
        contenders = {
            "the app, redis-py GET by hand": Contender(_turns(_app(by_hand), "/", cookie)),
            "the app, no session": Contender(_turns(_app(_nothing), "/", cookie)),
            "middleware, no cookie": Contender(_turns(wrapped, "/")),
            "middleware, session not looked at": Contender(_turns(wrapped, "/", cookie)),
            "middleware, session read": Contender(_turns(looking, "/", cookie)),
        }
        section = await contest(
            "one request with its session after the other", contenders, rounds, per_second=False
        )
    await client.aclose()
    server.flush()
    return section


async def _nothing() -> bytes:
    return BODY


def _app(body: Callable[[], Awaitable[bytes]], *, look: bool = False) -> App:
    """Return an application without a framework: what is compared is what stands around it."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given = await body()
        if look:
            assert scope["session"]["user"] == 7
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.body", "body": given})

    return app


def _turns(
    app: App, path: str, *headers: tuple[bytes, bytes], query: bytes = b""
) -> Callable[[int], Awaitable[int]]:
    return sequential(lambda: _ask(app, path, *headers, query=query))


async def _ask(app: App, path: str, *headers: tuple[bytes, bytes], query: bytes = b"") -> dict[bytes, bytes]:
    """Ask an application, and return the headers of its answer."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [*_ASKED, *headers],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, _never, send)
    head, body = sent
    assert (head["status"], len(body["body"])) in ((200, len(BODY)), (304, 0))
    return dict(head["headers"])


async def _never() -> Any:
    raise AssertionError("nothing is asked of the client")
