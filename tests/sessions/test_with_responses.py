"""Sessions and the cache of answers around one application, in either order: nobody is shown another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from neverstale import AsyncCache
from neverstale.sessions import AsyncSessions
from neverstale.testing.servers import Server
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from neverstale.web.sessions import SessionMiddleware
from tests.sessions.test_middleware import NAME, Mine, browser


@pytest.fixture
async def cache(redis_server: Server) -> AsyncIterator[AsyncCache]:
    async with AsyncCache.from_url(redis_server.url, timeout=5.0) as found:
        yield found


@pytest.fixture(params=["sessions-outside", "sessions-inside"])
def order(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["rules", "headers"])
def how(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["any", "named", "misnamed"])
def cookies(request: pytest.FixtureRequest) -> list[str] | None:
    return {"any": None, "named": [NAME], "misnamed": ["session"]}[request.param]


@pytest.fixture
def app(cache: AsyncCache, order: str, how: str, cookies: list[str] | None) -> FastAPI:
    sessions = AsyncSessions(cache, type=dict[str, Any])
    app = FastAPI()
    app.state.runs = 0
    rules = [Rule("/{page}", ttl=60)] if how == "rules" else None

    def add_cache() -> None:
        app.add_middleware(ResponseCacheMiddleware, cache=cache, rules=rules, session_cookies=cookies)

    if order == "sessions-outside":
        add_cache()
    app.add_middleware(SessionMiddleware, sessions=sessions)
    if order == "sessions-inside":
        add_cache()

    headers = {} if how == "rules" else {"Cache-Control": "max-age=60"}

    @app.post("/login/{user}")
    async def log_in(user: str, request: Request, mine: Mine) -> None:
        request.session["name"] = user
        await mine.log_in(user)

    @app.post("/visit/{name}")
    async def visit(name: str, request: Request) -> None:
        request.session["name"] = name

    @app.get("/fields")
    async def fields(request: Request) -> Response:
        await asyncio.sleep(0.01)
        return Response(str(request.session.get("name")), headers=headers)

    @app.get("/handle")
    async def handle(mine: Mine) -> Response:
        await asyncio.sleep(0.01)
        return Response(str(mine.user), headers=headers)

    @app.get("/begin")
    async def begin(request: Request) -> Response:
        request.session["seen"] = 1
        return Response(str(request.session.get("name")), headers=headers)

    @app.get("/public")
    async def public() -> Response:
        app.state.runs += 1
        return Response("the same for all", headers=headers)

    return app


@pytest.mark.parametrize("path", ["/fields", "/handle", "/begin"])
async def test_no_answer_of_one_is_given_to_another(app: FastAPI, path: str) -> None:
    """Users, visitors with a session and clients without one, one after another and at the same time."""
    async with browser(app) as ada, browser(app) as bob, browser(app) as eve, browser(app) as nobody:
        await ada.post("/login/ada")
        await bob.post("/login/bob")
        await eve.post("/visit/eve")
        expected = {ada: "ada", bob: "bob", eve: "eve" if path != "/handle" else "None", nobody: "None"}
        for clients in ([ada, bob, eve, nobody], [nobody, eve, bob, ada]):
            for client in clients:
                assert (await client.get(path)).text == expected[client]
            answers = await asyncio.gather(*(client.get(path) for client in clients * 3))
            assert [answer.text for answer in answers] == [expected[client] for client in clients * 3]


async def test_no_cookie_is_given_to_another(app: FastAPI) -> None:
    """Whoever begins a session gets an id of their own, however many begin one at the same time."""

    async def begin() -> str:
        async with browser(app) as client:
            return (await client.get("/begin")).headers["set-cookie"]

    found = [await begin() for _ in range(3)] + list(await asyncio.gather(*(begin() for _ in range(5))))
    assert len(set(found)) == 8


async def test_what_is_public_is_cached(app: FastAPI) -> None:
    """What does not look at the session is cached for those without one."""
    async with browser(app) as client:
        for _ in range(3):
            answer = await client.get("/public")
            assert (answer.text, "set-cookie" in answer.headers) == ("the same for all", False)
    assert app.state.runs == 1
