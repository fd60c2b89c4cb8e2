"""No answer of one user is ever shown to another: random users, routes, rules and headers, on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
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
    "private",
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


routes = st.builds(
    Route,
    st.sampled_from((*CONTROLS, *PUBLIC)),
    st.sampled_from(((), ("cookie",), ("accept",), ("authorization", "cookie"))),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from((200, 200, 200, 404, 301, 503)),
)
steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(PATHS),
        st.sampled_from(USERS),
        st.sampled_from(("cookie", "authorization")),
        st.sampled_from((None, None, "no-cache", "max-stale", "max-age=0", "only-if-cached")),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    min_size=2,
    max_size=8,
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
            "per_user": st.sampled_from((None, user_of)),
            "vary": st.sampled_from(((), ("accept",))),
            "statuses": st.just((200, 301, 404)),
        }
    ),
)


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    return [0]


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[AsyncCache]:
    async with AsyncCache.from_url(redis_server.url, namespace="mix", timeout=5, patient_timeout=10) as cache:
        yield cache


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
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(table=st.fixed_dictionaries(dict.fromkeys(PATHS, routes)), said=rules, plan=steps)
def test_nobody_is_shown_what_is_anothers(
    redis_server: RedisServer, numbers: list[int], table: dict[str, Route], said: Any, plan: list[Step]
) -> None:
    """Whatever handlers and clients say, an answer that was made for one user reaches only that user."""
    numbers[0] += 1
    asyncio.run(play(redis_server.url, f"mix{numbers[0]}", table, said, plan))


async def play(url: str, namespace: str, table: dict[str, Route], said: Any, plan: list[Step]) -> None:
    async with AsyncCache.from_url(url, namespace=namespace, timeout=5, patient_timeout=10) as cache:
        table_rules = None if said is None else [Rule(path, **said) for path in PATHS]
        app = ResponseCacheMiddleware(Application(handler_of(table)), cache, table_rules)
        running: list[asyncio.Task[None]] = []
        for step in plan:
            task = asyncio.create_task(take(app, table, step))
            running.append(task)
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
