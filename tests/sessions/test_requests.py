"""Requests of one session side by side: nothing is lost; and the ways of leaving: nothing is left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from neverstale import AsyncCache
from neverstale.sessions import AsyncSessions
from neverstale.testing.servers import RedisServer, Server, binaries
from neverstale.web.sessions import SessionMiddleware
from tests.sessions.stores import AsyncMemoryStore
from tests.sessions.test_middleware import NAME, Mine, application, browser, cookie_of


@pytest.fixture(params=["store", "redis"])
def store(request: pytest.FixtureRequest) -> AsyncMemoryStore | None:
    return AsyncMemoryStore() if request.param == "store" else None


@pytest.fixture
async def sessions(
    redis_server: Server, store: AsyncMemoryStore | None
) -> AsyncIterator[AsyncSessions[dict[str, Any]]]:
    async with AsyncCache.from_url(redis_server.url, timeout=5.0) as cache:
        yield AsyncSessions(cache, type=dict[str, Any], store=store)


class Gate:
    """Holds a request in its handler, after its session was read, until it is let on."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        async with asyncio.timeout(20):
            await self.open.wait()


def gated(sessions: AsyncSessions[Any]) -> tuple[FastAPI, Gate]:
    """Return an application whose requests to /held/... wait before they do something."""
    app, gate = application(sessions), Gate()

    @app.post("/held/{what}")
    async def held(what: str, request: Request, mine: Mine) -> None:
        await gate.wait()
        if what == "pop":
            request.session.pop("flash", None)
        elif what == "login":
            await mine.log_in("7")
        elif what == "rotate":
            await mine.rotate()
        elif what == "logout-by-field":
            del request.session["user_id"]
        elif what == "set":
            request.session["late"] = 1

    return app, gate


@pytest.mark.parametrize("what", ["pop", "login", "rotate"])
async def test_what_another_request_sets_meanwhile(sessions: AsyncSessions[Any], what: str) -> None:
    """Taking out the last field, logging in and rotating keep what another request has written since."""
    app, gate = gated(sessions)
    async with browser(app) as client:
        await client.post("/set/flash/hello")
        held = asyncio.create_task(client.post(f"/held/{what}"))
        await gate.reached.wait()
        assert (await client.post("/add/5")).status_code == 200
        gate.open.set()
        assert (await held).status_code == 200
        assert (await client.get("/read")).json().get("cart") == [5]


async def test_a_request_of_the_visitor_during_the_log_in(sessions: AsyncSessions[Any]) -> None:
    """A request that still has the visitor's id, and empties it, does not end the session that took its place."""
    app, gate = gated(sessions)
    async with browser(app) as client:
        await client.post("/set/flash/hello")
        held = asyncio.create_task(client.post("/held/pop"))
        await gate.reached.wait()
        await client.post("/login")
        gate.open.set()
        await held
        assert (await client.get("/who")).json() == "7"


async def test_rotating_keeps_what_this_request_has_set(sessions: AsyncSessions[Any]) -> None:
    """`request.session["admin"] = True; await session.rotate()`: the new id has it, the old one has not."""
    app = application(sessions)

    @app.post("/rise")
    async def rise(request: Request, mine: Mine) -> None:
        request.session["admin"] = True
        del request.session["a"]
        assert await mine.rotate()

    async with browser(app) as client:
        before = cookie_of(await client.post("/set/a/1")).value
        await client.post("/rise")
        assert (await client.get("/read")).json() == {"admin": True}
        assert await sessions.get(before) == {"a": "1"}


@pytest.mark.parametrize("how", ["del", "none", "pop"])
async def test_logging_out_by_a_field(sessions: AsyncSessions[Any], how: str) -> None:
    """Who logs out by taking the field away is logged out at once, with every id: no grace shows who it was."""
    app = application(sessions)

    @app.post("/leave")
    async def leave(request: Request) -> None:
        if how == "none":
            request.session["user_id"] = None
        else:
            request.session.pop("user_id")

    async with browser(app) as client:
        await client.post("/set/a/1")
        ids = [cookie_of(await client.post("/set/user_id/7")).value]
        ids.append(cookie_of(await client.post("/rotate")).value)
        await client.post("/leave")
        for each in ids:
            assert (await sessions.get(each) or {}).get("user_id") is None
        left = (await client.get("/read")).json()
        assert (left.get("a"), left.get("user_id")) == ("1", None)


async def test_clearing_and_saying_goodbye(sessions: AsyncSessions[Any]) -> None:
    """`clear()` ends the session of a user also if something is put there again, which begins a visitor's."""
    app = application(sessions)

    @app.post("/leave")
    async def leave(request: Request) -> None:
        request.session.clear()
        request.session["flash"] = "bye"

    async with browser(app) as client:
        await client.post("/set/a/1")
        before = cookie_of(await client.post("/login")).value
        await client.post("/leave")
        assert (await client.get("/who")).json() is None
        assert (await client.get("/read")).json() == {"flash": "bye"}
        assert await sessions.get(before) is None


async def test_clearing_what_is_empty(sessions: AsyncSessions[Any]) -> None:
    """`clear()` ends the session of a user that has no fields, too."""
    async with browser(application(sessions)) as client:
        await client.post("/login")
        assert (await client.get("/who")).json() == "7"
        assert cookie_of(await client.post("/clear"))["max-age"] == "0"
        assert (await client.get("/who")).json() is None


async def test_another_user_logs_in(sessions: AsyncSessions[Any]) -> None:
    """Who logs in where somebody else is logged in does not get that one's data."""
    app = application(sessions)

    @app.post("/login-as/{user}")
    async def log_in_as(user: str, request: Request, mine: Mine) -> None:
        request.session["mine"] = user
        await mine.log_in(user)

    async with browser(app) as client:
        await client.post("/set/a/1")
        await client.post("/login-as/7")
        assert (await client.get("/read")).json() == {"a": "1", "mine": "7"}
        await client.post("/login-as/8")
        assert ((await client.get("/who")).json(), (await client.get("/read")).json()) == ("8", {"mine": "8"})
        assert await sessions.of_user("7") == []


async def test_an_answer_that_takes_the_cookie_is_private(sessions: AsyncSessions[Any]) -> None:
    """Or a cache on the way would log everybody out."""
    app = application(sessions)

    @app.get("/bye")
    async def bye(mine: Mine) -> Response:
        await mine.log_out()
        return Response("x", headers={"Cache-Control": "public, max-age=60"})

    async with browser(app) as client:
        await client.post("/login")
        answer = await client.get("/bye")
        assert ("max-age=0" in answer.headers["set-cookie"].lower(), answer.headers["cache-control"]) == (
            True,
            "private",
        )


async def test_a_client_that_goes_away_while_logging_out(caplog: pytest.LogCaptureFixture) -> None:
    """What a log-out could not invalidate is invalidated later also if nobody waits for the answer any more."""
    store = AsyncMemoryStore()
    with RedisServer.start(binaries()["redis"]) as server:
        async with (
            AsyncCache.from_url(server.url, timeout=0.1, patient_timeout=0.5) as cache,
            AsyncCache.from_url(server.url, timeout=5.0) as elsewhere,
        ):
            other = AsyncSessions(elsewhere, type=dict[str, Any], store=store)
            async with browser(application(AsyncSessions(cache, type=dict[str, Any], store=store))) as client:
                value = cookie_of(await client.post("/login")).value
                assert await other.get(value) == {}
                server.freeze()
                leaving = asyncio.create_task(client.post("/logout"))
                async with asyncio.timeout(20):
                    while store.plain.rows:  # noqa: ASYNC110 - the store has no event
                        await asyncio.sleep(0.001)
                leaving.cancel()
                await asyncio.wait((leaving,))
                async with asyncio.timeout(20):
                    while "not invalidated yet" not in caplog.text:  # noqa: ASYNC110 - nor has logging
                        await asyncio.sleep(0.01)
                    server.thaw()
                    while await other.get(value) is not None:  # noqa: ASYNC110 - another process has no event of ours
                        await asyncio.sleep(0.01)


async def test_a_read_that_redis_did_not_answer() -> None:
    """A session that could not be read is not replaced by a new one: nobody is logged out by a hiccup."""
    with RedisServer.start(binaries()["redis"]) as server:
        async with AsyncCache.from_url(server.url, timeout=0.2, patient_timeout=5.0) as cache:
            sessions = AsyncSessions(cache, type=dict[str, Any])
            app, gate = gated(sessions)
            async with browser(app) as client:
                await client.post("/set/a/1")
                value = cookie_of(await client.post("/login")).value
                server.freeze()
                held = asyncio.create_task(client.post("/held/set"))
                await gate.reached.wait()
                server.thaw()
                async with asyncio.timeout(20):
                    while await sessions.get(value) is None:  # noqa: ASYNC110 - Redis has no event of ours
                        await asyncio.sleep(0.01)
                gate.open.set()
                answer = await held
                assert "set-cookie" not in answer.headers
                assert (await client.get("/who")).json() == "7"


LOOKS: dict[str, Any] = {
    "items": lambda session: list(session.items()),
    "keys": lambda session: list(session.keys()),
    "values": lambda session: list(session.values()),
    "len": len,
    "bool": bool,
    "copy": lambda session: session.copy(),
    "==": lambda session: session == {"a": "2"},
    "|": lambda session: session | {},
    "**": lambda session: dict(**session),
    "pop": lambda session: session.pop("b", None),
    "setdefault": lambda session: session.setdefault("a", "1"),
    "repr": repr,
    "in": lambda session: "a" in session,
    "reversed": lambda session: list(reversed(session)),
}


@pytest.mark.parametrize("how", sorted(LOOKS))
async def test_however_it_is_looked_at(sessions: AsyncSessions[Any], how: str) -> None:
    """Whatever takes the session from the scope, and looks at it in whatever way, makes the answer a private one."""
    app = application(sessions)

    @app.get("/look")
    async def look(request: Request) -> str:
        return str(LOOKS[how](request.scope["session"]))

    async with browser(app) as client:
        await client.post("/set/a/1")
        assert (await client.get("/look")).headers.get("vary") == "Cookie"


@pytest.mark.parametrize("around", ["\xa0", "\x85", "\x1c", "\x0b"])
async def test_names_that_only_look_like_the_cookie(sessions: AsyncSessions[Any], around: str) -> None:
    """Browsers let other hosts set a cookie whose name has an odd blank in front of `__Host-`; it is not ours."""
    issued = await sessions.create({"a": "1"})
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["session"]))

    async def nothing(*_: Any) -> Any:
        raise AssertionError("not called")

    for name, blanks in ((around + NAME, ""), (NAME, " ")):
        sent = f"b=1;{blanks}{name}={issued.id}".encode("latin-1")
        await SessionMiddleware(app, sessions)(
            {"type": "websocket", "headers": [(b"cookie", sent)]}, nothing, nothing
        )
    assert seen == [{}, {"a": "1"}]


async def test_many_at_once_change_many_fields(sessions: AsyncSessions[Any]) -> None:
    """Of twenty requests that set, remove and change fields side by side nothing is lost."""
    async with browser(application(sessions)) as client:
        await client.post("/set/keep/1")
        await asyncio.gather(*(client.post(f"/set/old{number}/1") for number in range(8)))
        await asyncio.gather(
            *(client.post(f"/remove/old{number}") for number in range(8)),
            *(client.post(f"/set/new{number}/1") for number in range(8)),
            client.post("/set/keep/2"),
        )
        expected = {"keep": "2", **{f"new{number}": "1" for number in range(8)}}
        assert (await client.get("/read")).json() == expected


async def test_what_it_costs() -> None:
    """A hit is one command and a request without the cookie none, whether the session is looked at or not."""
    with RedisServer.start(binaries()["redis"]) as server:
        async with AsyncCache.from_url(server.url, timeout=5.0) as cache:
            sessions = AsyncSessions(cache, type=dict[str, Any], store=AsyncMemoryStore())
            async with browser(application(sessions)) as client, browser(application(sessions)) as stranger:
                await client.post("/set/a/1")
                await client.post("/login")
                await client.get("/read")
                for asks, path, expected in (
                    (client, "/read", {"cmdstat_mget": 1}),
                    (client, "/nothing", {"cmdstat_mget": 1}),
                    (stranger, "/read", {}),
                ):
                    server.client().config_resetstat()
                    assert (await asks.get(path)).status_code == 200
                    stats: dict[str, Any] = server.client().info("commandstats")
                    asked = {name: each["calls"] for name, each in stats.items() if "config" not in name}
                    assert {name: calls for name, calls in asked.items() if "client" not in name} == expected
