"""No answer of one user is ever shown to another: random users, routes, rules and headers, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from tests.responses.asking import Application, Ask, Reply, answer, ask

USERS = ("ann", "ben", "", "ann ", "cleo")
PATHS = ("/a", "/b")

CONTROLS = (
    None,
    "max-age=60",
    "max-age=60, must-revalidate",
    "max-age=0, stale-while-revalidate=60",
    "max-age=0, stale-if-error=60",
    "no-cache",
    "private, max-age=60",
    "no-store",
)
#: What says that an answer is for all: a handler that says so answers the same to all.
PUBLIC = ("public, max-age=60", "s-maxage=60")


@dataclass(frozen=True)
class Route:
    """How a handler answers."""

    control: str | None
    vary: tuple[str, ...]
    sets_cookie: bool
    etag: bool
    streams: bool
    status: int

    @property
    def personal(self) -> bool:
        return self.control not in PUBLIC


@dataclass(frozen=True)
class Step:
    """One request of one user: how it says who it is, and what else it says."""

    path: str
    user: str
    by: str
    control: str | None
    head: bool
    conditional: bool
    beside: bool  # begun while the one before is on its way


def mostly(common: Any, *rare: Any) -> st.SearchStrategy[Any]:
    """Mostly the common thing: what is rare hides what the rest would show."""
    return st.sampled_from((*[common] * (2 * len(rare)), *rare))


routes = st.builds(
    Route,
    st.sampled_from((*CONTROLS, "max-age=60", *PUBLIC)),
    mostly((), ("cookie",), ("accept",), ("authorization", "cookie")),
    mostly(False, True),
    mostly(False, True),
    mostly(False, True),
    mostly(200, 404, 301, 503),
)
steps = st.lists(
    st.builds(
        Step,
        mostly("/a", "/b"),
        st.sampled_from(USERS),
        st.sampled_from(("cookie", "authorization")),
        mostly(None, "no-cache", "max-stale", "max-age=0", "only-if-cached"),
        mostly(False, True),
        mostly(False, True),
        st.booleans(),
    ),
    min_size=4,
    max_size=10,
)


def who(request: Ask) -> str:
    """Whose request it is, as the handler reads it."""
    said = request.get("authorization") or request.get("cookie") or ""
    return said.removeprefix("Bearer ").removeprefix("s=")


def user_of(scope: Any) -> str | None:
    headers = dict(scope["headers"])
    said = headers.get(b"authorization", b"").decode() or headers.get(b"cookie", b"").decode()
    return said.removeprefix("Bearer ").removeprefix("s=") or None


rules = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "ttl": st.just(60),
            "soft_ttl": st.sampled_from((None, 0.001)),
            "stale_if_error": st.sampled_from((0, 60)),
            "per_user": st.sampled_from((None, None, user_of)),
            "vary": st.sampled_from(((), ("accept",))),
            "statuses": st.just((200, 301, 404)),
        }
    ),
)


class World:
    """One event loop and one cache for all examples; each has a prefix of its own."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._cache = AsyncCache.from_url(url, namespace="mix", timeout=5, patient_timeout=10)
        self._numbers = count()

    def play(self, table: dict[str, Route], said: Any, plan: list[Step]) -> None:
        rules = None if said is None else [Rule(path, **said) for path in PATHS]
        handler = Application(handler_of(table))
        app = ResponseCacheMiddleware(handler, self._cache, rules, prefix=f"api{next(self._numbers)}:")
        self._runner.run(play(app, table, plan))

    def close(self) -> None:
        self._runner.run(self._cache.close())
        self._runner.close()


@pytest.fixture
def world(redis_server: RedisServer) -> Iterator[World]:
    made = World(redis_server.url)
    yield made
    made.close()


def handler_of(table: dict[str, Route]) -> Any:
    async def handler(request: Ask) -> Reply:
        route, user = table[request.path], who(request)
        mine = user if route.personal else "all"
        await asyncio.sleep(0)
        lines: list[tuple[str, str]] = [("x-whose", mine)]
        if route.control is not None:
            lines.append(("cache-control", route.control))
        lines += [("vary", name) for name in route.vary]
        if route.sets_cookie and user:
            lines.append(("set-cookie", f"s={user}"))
        if route.etag:
            lines.append(("etag", f'"{mine}"'))
            if request.get("if-none-match") == f'"{mine}"':
                return Reply(304, lines, [b""])
        reply = answer(f"of:{mine}", route.status, lines)
        if route.streams:
            reply.headers = lines
            reply.chunks = [b"of:", mine.encode()]
        return reply

    return handler


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=st.fixed_dictionaries(dict.fromkeys(PATHS, routes)), said=rules, plan=steps)
def test_nobody_is_shown_what_is_anothers(
    world: World, table: dict[str, Route], said: Any, plan: list[Step]
) -> None:
    """Whatever handlers and clients say, an answer that was made for one user reaches only that user."""
    world.play(table, said, plan)


async def play(app: ResponseCacheMiddleware, table: dict[str, Route], plan: list[Step]) -> None:
    running: list[asyncio.Task[None]] = []
    for step in plan:
        running.append(asyncio.create_task(take(app, table, step)))
        if not step.beside:
            await asyncio.gather(*running)
            running.clear()
    await asyncio.gather(*running)


async def take(app: ResponseCacheMiddleware, table: dict[str, Route], step: Step) -> None:
    headers: list[tuple[str, str]] = [("accept", "x")]
    if step.user:
        said = {"cookie": f"s={step.user}", "authorization": f"Bearer {step.user}"}
        headers.append((step.by, said[step.by]))
    if step.control:
        headers.append(("cache-control", step.control))
    route = table[step.path]
    mine = step.user.strip() if route.personal else "all"
    if step.conditional:
        # What the client has is its own: nobody else's answer may confirm it.
        headers.append(("if-none-match", f'"{mine}"'))
    reply = await ask(app, step.path, "HEAD" if step.head else "GET", headers)
    if reply.status == 504:
        return
    assert (reply.get("x-whose") or "").strip() == mine, reply
    if reply.status == 200 and not step.head:
        assert reply.body.decode().strip() == f"of:{mine}", reply
    cookie = reply.get("set-cookie")
    assert cookie is None or cookie.strip() == f"s={step.user.strip()}", reply
