"""What clients, handlers and other middleware could do to have somebody shown what is not theirs, or not true."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from neverstale import AsyncCache, UsageError
from neverstale.web.asgi import ResponseCacheMiddleware, Rule, answer_key
from tests.behaviour.faces import until
from tests.responses.asking import Ask, Reply, answer, ask
from tests.responses.conftest import Make

RULES = [Rule("/{rest:path}", ttl=300)]


# --- whose is it ---


class User:
    """What an application may have by mistake where an id belongs."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __str__(self) -> str:
        return "a user"


@pytest.mark.parametrize(
    "odd", [User(1), True, False, 1.5, b"ann", ("ann",)], ids=lambda odd: type(odd).__name__
)
async def test_user_without_an_id(make: Make, odd: Any) -> None:
    """What tells no user from another is an error, not one user for all."""
    site = make(lambda _: answer("mine"), [Rule("/a", ttl=60, per_user=lambda _: odd)])
    with pytest.raises(UsageError, match="per_user"):
        await ask(site.app, "/a")
    assert site.calls == 0


@pytest.mark.parametrize("user", ["ann", 0, 7, UUID(int=1)])
async def test_users(make: Make, user: Any) -> None:
    """Texts, numbers and UUIDs tell users apart."""
    site = make(lambda _: answer("mine"), [Rule("/a", ttl=60, per_user=lambda _: user)])
    assert [(await ask(site.app, "/a")).hit for _ in range(2)] == [False, True]


@pytest.mark.parametrize("space", ["\xa0", "\x85", "\x0b", "\x0c", "\x1f", " \t"])
async def test_spaces_around_the_name_of_a_cookie(make: Make, space: str) -> None:
    """Frameworks strip whatever Python takes for space: a session behind such a space is one."""

    def handler(request: Ask) -> Reply:
        return answer(Request(request.scope).cookies.get("sid", "nobody"))

    site = make(handler, RULES, session_cookies=["sid"])
    await ask(site.app, "/a", headers=[("cookie", f"{space}sid{space}=mallory")])
    assert (await ask(site.app, "/a")).body == b"nobody"


@pytest.mark.parametrize(
    "name",
    ["proxy-authorization", "api-key", "x-forwarded-user", "x-auth-request-email", "remote-user", "x-remote-user",
     "cf-access-jwt-assertion", "x-amzn-oidc-data", "x-goog-iap-jwt-assertion", "x-ms-client-principal",
     "tailscale-user-login", "x-session-token", "x-forwarded-access-token"],
)  # fmt: skip
async def test_users_by_the_word_of_a_proxy(make: Make, name: str) -> None:
    """A proxy that logs users in says in a header of its own who asks: that is as good as Authorization."""
    site = make(lambda request: answer(request.get(name) or "nobody"), RULES)
    assert (await ask(site.app, "/a", headers=[(name, "ann")])).body == b"ann"
    assert (await ask(site.app, "/a")).body == b"nobody"
    assert (await ask(site.app, "/a", headers=[(name, "ben")])).body == b"ben"


class Known:
    is_authenticated = True


@pytest.mark.parametrize(
    "known",
    [{"user": Known()}, {"extensions": {"tls": {"client_cert_name": "CN=ann"}}}],
    ids=["user", "certificate"],
)
async def test_users_that_something_outside_has_found(make: Make, known: dict[str, Any]) -> None:
    """A request whose user is in its scope, or whose client showed a certificate, is personal without any header."""

    site = make(lambda request: answer("ann" if known.items() <= request.scope.items() else "nobody"), RULES)
    assert (await ask(site.app, "/a", **known)).body == b"ann"
    assert (await ask(site.app, "/a")).body == b"nobody"


async def test_error_of_one_user(make: Make) -> None:
    """Who waited for the run of a user is not shown how that failed."""
    go = asyncio.Event()

    async def handler(request: Ask) -> Reply:
        await go.wait()
        if request.get("cookie"):
            raise OSError("ann's secret")
        return answer("all", 200, [("cache-control", "max-age=60")])

    site = make(handler)
    first = asyncio.create_task(ask(site.app, "/a", headers=[("cookie", "s=ann")]))
    await until(lambda: site.calls == 1)
    second = asyncio.create_task(ask(site.app, "/a"))
    await until(lambda: site.api.stats()["api:"].waits == 1)
    go.set()
    with pytest.raises(OSError, match="secret"):
        await first
    assert (await second).body == b"all"


# --- what is not in the key ---


@pytest.mark.parametrize(
    "query", ["utm_source=evil", "utm%5fsource=evil&id=1", "id=1&utm_x=1;callback=evil", "utm_a"]
)
async def test_ignored_parameters_do_not_reach_the_handler(make: Make, query: str) -> None:
    """What is in no key cannot be in an answer: the handler of a run that others may share does not see it."""
    site = make(lambda request: answer(request.scope["query_string"]), [Rule("/a", ttl=60, ignore=["utm_*"])])
    reply = await ask(site.app, f"/a?{query}")
    assert b"utm" not in reply.body
    assert b"evil" not in reply.body
    assert reply.body == (b"id=1" if b"id" in query.encode() else b"")


@pytest.mark.parametrize("inner", [{"allow_origins": ["*"]}, {"allow_origins": ["https://shop.example"]}])
@pytest.mark.parametrize("first", [None, "https://evil.example", "https://shop.example"])
async def test_cors_inside(cache: AsyncCache, inner: dict[str, Any], first: str | None) -> None:
    """Answers to requests with an Origin and without one differ where CORS is decided inside."""

    def endpoint(request: Request) -> Response:
        return PlainTextResponse("x")

    def app(*outer: Middleware) -> Starlette:
        return Starlette(
            routes=[Route("/a", endpoint)], middleware=[*outer, Middleware(CORSMiddleware, **inner)]
        )

    plain, cached = app(), app(Middleware(ResponseCacheMiddleware, cache, [Rule("/a", ttl=60)]))
    for origin in (first, "https://shop.example", None, "https://evil.example"):
        headers = [] if origin is None else [("origin", origin)]
        wanted, got = [await ask(each, "/a", headers=headers) for each in (plain, cached)]
        assert got.get("access-control-allow-origin") == wanted.get("access-control-allow-origin"), origin


# --- what is not whole, or endless ---


@pytest.mark.parametrize("length", ["10", "3", "x", "4, 5"])
async def test_wrong_length(make: Make, length: str) -> None:
    """An answer that is not as long as it says is not whole, or too long: it is not stored."""
    site = make(lambda _: Reply(200, [("content-length", length)], [b"four"]), RULES)
    for _ in range(2):
        reply = await ask(site.app, "/a")
        assert (reply.body, reply.hit) == (b"four", False)
    assert site.calls == 2


async def test_unknown_parameters(make: Make) -> None:
    """Where a rule names what counts, parameters that clients make up make no entries."""
    site = make(
        lambda request: answer(request.scope["query_string"]),
        [Rule("/a", ttl=60, query=["page", "filter_*"])],
    )
    first = await ask(site.app, "/a?x=1&page=2&filter_b=3")
    assert first.body == b"page=2&filter_b=3"
    for query in ("page=2&filter_b=3", "filter_b=3&y=&page=2&&z", "page=2&filter_%62=3&Page=9"):
        reply = await ask(site.app, f"/a?{query}")
        assert (reply.hit, reply.body) == (True, first.body)
    assert not (await ask(site.app, "/a?page=3&filter_b=3")).hit
    await site.api.invalidate_key(answer_key("/a?filter_b=3&page=2&any=1", query=["page", "filter_*"]))
    assert not (await ask(site.app, "/a?page=2&filter_b=3")).hit


async def test_no_parameters(make: Make) -> None:
    """A rule may say that no parameter counts."""
    site = make(lambda request: answer(request.scope["query_string"]), [Rule("/a", ttl=60, query=())])
    assert [(await ask(site.app, f"/a?{number}")).body for number in range(3)] == [b""] * 3
    assert site.calls == 1


async def test_events_under_a_rule(make: Make) -> None:
    """Server-sent events are nobody's answer: nobody waits for their end."""
    ends = asyncio.Event()

    async def handler(request: Ask) -> None:
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        }
        await request.send(start)
        await request.send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await ends.wait()
        await request.send({"type": "http.response.body", "body": b"", "more_body": False})

    site = make(handler, RULES)
    replies = [Reply(), Reply()]
    running = [asyncio.create_task(ask(site.app, "/a", reply=reply)) for reply in replies]
    try:
        async with asyncio.timeout(2):
            await until(lambda: all(reply.body for reply in replies))
    finally:
        ends.set()
        await asyncio.gather(*running)
    assert not (await ask(site.app, "/a")).hit
