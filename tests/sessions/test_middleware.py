"""The middleware in a FastAPI application, by HTTP: cookies, `request.session` as Starlette has it, and the handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from neverstale import AsyncCache
from neverstale.errors import UsageError
from neverstale.sessions import AsyncSessions
from neverstale.testing.servers import RedisServer, Server, binaries
from neverstale.web.sessions import SessionHandle, SessionMiddleware
from tests.sessions.stores import AsyncMemoryStore

NAME = "__Host-session"


@pytest.fixture(params=["store", "redis"])
def store(request: pytest.FixtureRequest) -> AsyncMemoryStore | None:
    return AsyncMemoryStore() if request.param == "store" else None


@pytest.fixture
async def sessions(
    redis_server: Server, store: AsyncMemoryStore | None
) -> AsyncIterator[AsyncSessions[dict[str, Any]]]:
    async with AsyncCache.from_url(redis_server.url, timeout=5.0) as cache:
        yield AsyncSessions(cache, type=dict[str, Any], store=store)


async def handle_of(request: Request) -> SessionHandle[Any]:
    handle: SessionHandle[Any] = request.state.session
    return handle


Mine = Annotated[SessionHandle[Any], Depends(handle_of)]


def application(sessions: AsyncSessions[Any], **options: Any) -> FastAPI:
    """An application as it would be written for Starlette's own middleware, and some routes with the handle."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions=sessions, **options)

    @app.get("/nothing")
    async def nothing() -> str:
        return "nothing"

    @app.get("/read")
    async def read(request: Request) -> dict[str, Any]:
        return dict(request.session)

    @app.post("/set/{name}/{value}")
    async def set_field(name: str, value: str, request: Request) -> None:
        await asyncio.sleep(0)
        request.session[name] = value

    @app.post("/add/{number}")
    async def add(number: int, request: Request) -> None:
        request.session.setdefault("cart", []).append(number)

    @app.post("/remove/{name}")
    async def remove(name: str, request: Request) -> None:
        request.session.pop(name)

    @app.post("/clear")
    async def clear(request: Request) -> None:
        request.session.clear()

    @app.post("/fail/{how}")
    async def fail(how: str, request: Request) -> Response:
        request.session["lost"] = 1
        if how == "raise":
            raise RuntimeError("on purpose")
        if how == "404":
            raise HTTPException(404)
        return Response(status_code=503)

    @app.post("/login")
    async def log_in(mine: Mine) -> None:
        await mine.log_in("7")

    @app.post("/logout")
    async def log_out(mine: Mine) -> None:
        await mine.log_out()

    @app.post("/rotate")
    async def rotate(mine: Mine) -> bool:
        return await mine.rotate()

    @app.get("/who")
    async def who(mine: Mine) -> str | None:
        return mine.user

    @app.get("/list")
    async def list_them(mine: Mine) -> list[dict[str, Any]]:
        return [
            {"name": each.name, "current": each.current, "device": each.device}
            for each in await mine.sessions()
        ]

    @app.post("/end/{name}")
    async def end(name: str, mine: Mine) -> bool:
        return await mine.destroy_one(name)

    @app.post("/others")
    async def others(mine: Mine) -> None:
        await mine.destroy_others()

    @app.get("/vary")
    async def vary(request: Request) -> Response:
        return Response(str(len(request.session)), headers={"Vary": "Accept", "Cache-Control": "no-store"})

    return app


@asynccontextmanager
async def browser(app: FastAPI, device: str = "a browser") -> AsyncIterator[httpx.AsyncClient]:
    """A client with cookies."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://shop.example", headers={"user-agent": device}
    ) as client:
        yield client


@pytest.fixture
async def client(sessions: AsyncSessions[Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(application(sessions)) as found:
        yield found


def cookie_of(answer: httpx.Response) -> Any:
    """Return the cookie that an answer sets, with its attributes."""
    return SimpleCookie(answer.headers["set-cookie"])[NAME]


async def test_as_starlette_has_it(client: httpx.AsyncClient) -> None:
    """Fields that one request sets the next one reads, changes inside of a value included."""
    assert (await client.get("/read")).json() == {}
    assert NAME not in client.cookies
    await client.post("/set/a/1")
    await client.post("/add/5")
    await client.post("/add/6")
    assert (await client.get("/read")).json() == {"a": "1", "cart": [5, 6]}
    await client.post("/remove/a")
    assert (await client.get("/read")).json() == {"cart": [5, 6]}


async def test_the_cookie(client: httpx.AsyncClient) -> None:
    """Out of reach for scripts, other sites and other hosts; set when there is something new to set."""
    answer = await client.post("/set/a/1")
    found = cookie_of(answer)
    assert (found["secure"], found["httponly"], found["samesite"], found["path"], found["domain"]) == (
        True,
        True,
        "Lax",
        "/",
        "",
    )
    assert 29 * 86_400 < int(found["max-age"]) <= 30 * 86_400
    assert len(found.value) == 43
    for path in ("/set/a/2", "/set/a/2", "/add/5"):
        assert "set-cookie" not in (await client.post(path)).headers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"secure": False}, "session="),
        ({"domain": "shop.example"}, "session="),
        ({"path": "/app"}, "session="),
        ({"cookie": "sid"}, "__Host-sid="),
    ],
)
async def test_the_name_of_the_cookie(sessions: AsyncSessions[Any], options: Any, expected: str) -> None:
    """It has the prefix where browsers allow it; plain http in development needs an option."""
    async with browser(application(sessions, **options)) as client:
        said = (await client.post("/set/a/1")).headers["set-cookie"]
    assert said.startswith(expected)
    assert ("Secure" in said) == options.get("secure", True)
    assert ("Domain=shop.example" in said) == ("domain" in options)


async def test_a_cookie_for_as_long_as_the_browser_runs(sessions: AsyncSessions[Any]) -> None:
    """Without `persistent` it has no age, and other sites' cookies are refused without https."""
    async with browser(application(sessions, persistent=False)) as client:
        assert "Max-Age" not in (await client.post("/set/a/1")).headers["set-cookie"]
    with pytest.raises(UsageError):
        SessionMiddleware(application(sessions), sessions, same_site="none", secure=False)


async def test_what_caches_are_told(client: httpx.AsyncClient) -> None:
    """An answer that depends on the session says so; one that does not says nothing."""
    for path in ("/read", "/who", "/list"):
        headers = (await client.get(path)).headers
        assert (headers["vary"], headers["cache-control"]) == ("Cookie", "private")
    headers = (await client.get("/nothing")).headers
    assert "vary" not in headers
    assert "cache-control" not in headers
    headers = (await client.get("/vary")).headers
    assert (headers["vary"], headers["cache-control"]) == ("Accept, Cookie", "no-store")


async def test_a_new_id_is_for_one_client(sessions: AsyncSessions[Any]) -> None:
    """An answer that gives one is not public, whatever the handler says."""
    app = application(sessions)

    @app.get("/public")
    async def public(request: Request) -> Response:
        request.session["a"] = 1
        return Response("x", headers={"Cache-Control": "public, max-age=60"})

    async with browser(app) as client:
        assert (await client.get("/public")).headers["cache-control"] == "private"
        assert (await client.get("/public")).headers["cache-control"] == "public, max-age=60"


async def test_what_is_not_changed_is_not_written(
    client: httpx.AsyncClient, store: AsyncMemoryStore | None
) -> None:
    """Reading, and setting a field to what it is, cost no write."""
    await client.post("/set/a/1")
    for path in ("/set/a/1", "/set/a/1"):
        await client.post(path)
    await client.get("/read")
    assert store is None or "save" not in store.plain.calls


async def test_two_requests_at_once(client: httpx.AsyncClient) -> None:
    """Neither loses what the other has set."""
    await client.post("/set/a/1")
    await asyncio.gather(*(client.post(f"/set/f{number}/1") for number in range(8)))
    assert (await client.get("/read")).json() == {"a": "1", **{f"f{number}": "1" for number in range(8)}}


@pytest.mark.parametrize(("how", "kept"), [("raise", False), ("503", False), ("404", True)])
async def test_an_answer_that_fails(client: httpx.AsyncClient, how: str, kept: bool) -> None:
    """What a handler that failed has changed is not saved; "not found" is an answer like another."""
    await client.post("/set/a/1")
    await client.post(f"/fail/{how}")
    assert ("lost" in (await client.get("/read")).json()) == kept


async def test_unknown_ids(client: httpx.AsyncClient) -> None:
    """An id of the client's own making is not adopted."""
    theirs = "x" * 43
    answer = await client.post("/set/a/1", headers={"cookie": f"{NAME}={theirs}"})
    assert cookie_of(answer).value != theirs
    client.cookies.clear()
    assert (await client.get("/read", headers={"cookie": f"{NAME}={theirs}"})).json() == {}


async def test_two_cookies_of_one_name(client: httpx.AsyncClient) -> None:
    """One of them is not ours, so neither is taken."""
    value = cookie_of(await client.post("/set/a/1")).value
    client.cookies.clear()
    twice = {"cookie": f"{NAME}={value}; {NAME}={'x' * 43}"}
    assert (await client.get("/read", headers=twice)).json() == {}
    assert (await client.get("/read", headers={"cookie": f"b=1; {NAME}={value}"})).json() == {"a": "1"}


async def test_log_in_and_out(sessions: AsyncSessions[Any], client: httpx.AsyncClient) -> None:
    """The visitor's fields go along, the id does not; after the log-out nothing is left, in any process."""
    before = cookie_of(await client.post("/set/a/1")).value
    after = cookie_of(await client.post("/login")).value
    assert after != before
    assert ((await client.get("/who")).json(), (await client.get("/read")).json()) == ("7", {"a": "1"})
    old = await sessions.find(before)
    assert old is not None
    assert (old.user, old.superseded) == (None, True)
    gone = await client.post("/logout")
    assert (cookie_of(gone).value, cookie_of(gone)["max-age"]) == ("", "0")
    for session_id in (before, after):
        assert await sessions.get(session_id) is None
    assert NAME not in client.cookies


async def test_a_field_that_says_who_it_is(sessions: AsyncSessions[Any], client: httpx.AsyncClient) -> None:
    """Applications that log in by a field get another id, too, and the old one does not get the field."""
    before = cookie_of(await client.post("/set/a/1")).value
    after = cookie_of(await client.post("/set/user_id/7")).value
    assert after != before
    assert await sessions.get(before) == {"a": "1"}
    assert await sessions.get(after) == {"a": "1", "user_id": "7"}


async def test_clearing_ends_the_session(sessions: AsyncSessions[Any], client: httpx.AsyncClient) -> None:
    """As `request.session.clear()` does elsewhere; taking out the last field does so for visitors only."""
    value = cookie_of(await client.post("/set/a/1")).value
    assert cookie_of(await client.post("/clear"))["max-age"] == "0"
    assert await sessions.get(value) is None
    await client.post("/set/a/1")
    await client.post("/login")
    assert "set-cookie" not in (await client.post("/remove/a")).headers
    assert (await client.get("/who")).json() == "7"


async def test_the_list_of_sessions(sessions: AsyncSessions[Any]) -> None:
    """A user sees their own, ends one, or all others."""
    app = application(sessions)
    async with browser(app, "phone") as phone, browser(app, "laptop") as laptop, browser(app, "pad") as pad:
        for each in (phone, laptop, pad):
            await each.post("/set/a/1")
            await each.post("/login")
        found = {each["device"]: each for each in (await laptop.get("/list")).json()}
        assert {name: each["current"] for name, each in found.items()} == {
            "phone": False,
            "laptop": True,
            "pad": False,
        }
        assert (await laptop.post(f"/end/{found['phone']['name']}")).json() is True
        assert (await phone.get("/who")).json() is None
        await laptop.post("/others")
        assert [(await each.get("/who")).json() for each in (laptop, pad)] == ["7", None]


async def test_a_session_that_is_destroyed_meanwhile(sessions: AsyncSessions[Any]) -> None:
    """A request that was under way neither brings it back nor begins another one."""
    app = application(sessions)

    @app.post("/slow")
    async def slow(request: Request) -> None:
        request.session["late"] = 1
        await sessions.destroy(request.cookies[NAME])

    async with browser(app) as client:
        value = cookie_of(await client.post("/set/a/1")).value
        answer = await client.post("/slow")
        assert "set-cookie" not in answer.headers
        assert await sessions.get(value) is None


async def test_typed_data(redis_server: Server) -> None:
    """Data that are no dicts are had by the handle alone."""

    class Visit(msgspec.Struct):
        pages: int = 0

    def more(visit: Visit) -> Visit:
        return Visit(visit.pages + 1)

    async with AsyncCache.from_url(redis_server.url, timeout=5.0) as cache:
        app = FastAPI()
        app.add_middleware(SessionMiddleware, sessions=AsyncSessions(cache, type=Visit))

        @app.post("/visit")
        async def visit(request: Request) -> int:
            mine: SessionHandle[Visit] = request.state.session
            assert "session" not in request.scope
            if not await mine.update(more):
                await mine.create(Visit(1))
            assert mine.data is not None
            return mine.data.pages

        async with browser(app) as client:
            assert [(await client.post("/visit")).json() for _ in range(3)] == [1, 2, 3]


async def test_a_websocket_reads_it(sessions: AsyncSessions[Any]) -> None:
    """The session of a websocket is that of its cookie; what is neither request nor websocket passes."""
    issued = await sessions.create({"a": "1"})
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["session"]) if "session" in scope else None)

    async def nothing(*_: Any) -> Any:
        raise AssertionError("not called")

    middleware = SessionMiddleware(app, sessions)
    headers = [(b"cookie", f"{NAME}={issued.id}".encode())]
    await middleware({"type": "websocket", "headers": headers}, nothing, nothing)
    await middleware({"type": "lifespan"}, nothing, nothing)
    assert seen == [{"a": "1"}, None]


async def test_redis_away(caplog: pytest.LogCaptureFixture) -> None:
    """With a store every request works, and what could not be invalidated is when Redis is back."""
    caplog.set_level(logging.CRITICAL, "neverstale")
    store = AsyncMemoryStore()
    with RedisServer.start(binaries()["redis"]) as server:
        async with (
            AsyncCache.from_url(server.url, timeout=0.1, patient_timeout=0.3) as cache,
            AsyncCache.from_url(server.url, timeout=5.0) as elsewhere,
        ):
            other = AsyncSessions(elsewhere, type=dict[str, Any], store=store)
            async with browser(application(AsyncSessions(cache, type=dict[str, Any], store=store))) as client:
                await client.post("/set/a/1")
                value = cookie_of(await client.post("/login")).value
                assert await other.get(value) == {"a": "1"}
                server.freeze()
                assert (await client.get("/who")).json() == "7"
                assert (await client.post("/set/b/2")).status_code == 200
                assert (await client.get("/read")).json() == {"a": "1", "b": "2"}
                assert (await client.post("/logout")).status_code == 200
                assert (await client.get("/who")).json() is None
                server.thaw()
                async with asyncio.timeout(20):
                    while await other.get(value) is not None:  # noqa: ASYNC110 - another process has no event of ours
                        await asyncio.sleep(0.01)
