"""Code that was written for Starlette's own `SessionMiddleware` does the same under this one, but where docs say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from starlette.background import BackgroundTask
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, StreamingResponse

from neverstale import AsyncCache
from neverstale.sessions import AsyncSessions
from neverstale.testing.servers import Server
from neverstale.web.sessions import SessionMiddleware
from tests.sessions.test_middleware import browser


def flash(request: HTTPConnection, message: str) -> None:
    request.session["messages"] = [*request.session.get("messages", []), message]


def written_for_starlette() -> FastAPI:
    """An application that knows nothing of this package."""
    app = FastAPI()

    @app.get("/show")
    async def show(request: Request) -> Any:
        return dict(request.session)

    @app.get("/show-in-a-thread")
    def show_in_a_thread(request: Request) -> Any:
        return dict(request.session)

    @app.post("/do/{what}")
    async def do(what: str, request: Request) -> Any:
        session = request.session
        match what:
            case "flash":
                flash(request, "saved")
            case "flash-again":
                flash(request, "again")
            case "read-flashes":
                return session.pop("messages", [])
            case "update":
                session.update(a=1, b=[1, {"c": None}], é="ü", t=True, f=1.5)
            case "or":
                session |= {"d": {"e": 1}}
            case "del":
                del session["a"]
            case "popitem":
                session.popitem()
            case "clear":
                session.clear()
            case "clear-and-set":
                session.clear()
                session["new"] = 1
            case "big":
                session["big"] = 2**70
            case "empty-values":
                session.update(none=None, zero=0, text="", none_list=[])
            case "same":
                session["a"] = session["a"]
            case "not-found":
                session["not-found"] = 1
                raise HTTPException(404)
            case "login":
                session["user_id"] = 7
            case "logout":
                session.pop("user_id", None)
        return sorted(session)

    @app.post("/do-in-a-thread")
    def do_in_a_thread(request: Request) -> Any:
        request.session["thread"] = request.session.get("thread", 0) + 1

    async def counted(request: Request) -> int:
        request.session["visits"] = request.session.get("visits", 0) + 1
        visits: int = request.session["visits"]
        return visits

    @app.post("/dependency")
    async def dependency(visits: int = Depends(counted)) -> int:
        return visits

    @app.post("/stream")
    async def stream(request: Request) -> Response:
        request.session["before"] = 1

        async def body() -> AsyncIterator[bytes]:
            yield b"some"
            request.session["too-late"] = 1

        return StreamingResponse(body())

    @app.post("/background")
    async def background(request: Request) -> Response:
        async def later() -> None:
            await asyncio.sleep(0)
            request.session["too-late"] = 1

        return Response("", background=BackgroundTask(later))

    @app.get("/fail")
    async def fail(request: Request) -> None:
        request.session["failed"] = 1
        raise RuntimeError("on purpose")

    @app.get("/304")
    async def not_modified(request: Request) -> Response:
        request.session["etag"] = 1
        return Response(status_code=304)

    @app.head("/head")
    async def head(request: Request) -> Response:
        request.session["head"] = 1
        return Response("")

    @app.middleware("http")
    async def counts(request: Request, call_next: Any) -> Response:
        if request.url.path == "/by-middleware":
            request.session["middleware"] = 1
            return JSONResponse(request.session)
        answer: Response = await call_next(request)
        return answer

    inner = FastAPI()

    @inner.post("/mounted")
    async def mounted(request: Request) -> Any:
        request.session["mounted"] = request.session.get("mounted", 0) + 1
        return dict(request.session)

    app.mount("/sub", inner)
    return app


SCRIPTS: dict[str, list[str]] = {
    "flashes": [
        *("do/flash", "do/flash-again", "show", "do/read-flashes", "show", "do/read-flashes", "do/flash"),
        *("do/read-flashes", "show"),
    ],
    "changes": [
        *(
            "do/update",
            "show",
            "do/or",
            "show",
            "do/nested",
            "show",
            "do/same",
            "do/del",
            "show",
            "do/popitem",
        ),
        *("show", "do/clear-and-set", "show", "do/clear", "show", "do/flash", "show"),
    ],
    "odd-data": ["do/big", "do/empty-values", "show"],
    "threads": ["do-in-a-thread", "do-in-a-thread", "show-in-a-thread"],
    "dependencies": ["dependency", "dependency", "show"],
    "ways-out": [
        *(
            "stream",
            "show",
            "background",
            "show",
            "do/not-found",
            "show",
            "fail",
            "show",
            "304",
            "show",
            "head",
            "show",
        ),
        *("by-middleware", "show", "sub/mounted", "sub/mounted", "show"),
    ],
    "log-in": ["do/flash", "do/login", "show", "do/logout", "show", "do/login", "do/clear", "show"],
    "nothing": ["show", "do/clear", "show", "do/logout", "do/read-flashes", "show"],
}
READS = ("show", "show-in-a-thread", "fail", "304", "by-middleware")


async def play(app: Any, script: list[str]) -> list[Any]:
    """Return what each step answered."""
    found: list[Any] = []
    async with browser(app) as client:
        for step in script:
            method = "HEAD" if step == "head" else "GET" if step in READS else "POST"
            answer = await client.request(method, f"/{step}")
            found.append((step, answer.status_code, answer.text, answer.headers.get("vary")))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_same_under_both(redis_server: Server, name: str) -> None:
    """The same application, asked the same, answers the same."""
    theirs, ours = written_for_starlette(), written_for_starlette()
    theirs.add_middleware(StarlettesOwn, secret_key="secret", https_only=True)
    async with AsyncCache.from_url(redis_server.url, timeout=5.0) as cache:
        ours.add_middleware(SessionMiddleware, sessions=AsyncSessions(cache, type=dict[str, Any]))
        found = await play(ours, SCRIPTS[name])
    assert await play(theirs, SCRIPTS[name]) == found
