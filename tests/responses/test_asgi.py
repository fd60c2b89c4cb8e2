"""The middleware as its clients see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import count

import pytest
from starlette.middleware.gzip import GZipMiddleware

from neverstale import AsyncCache, UsageError
from neverstale.responses.keys import answer_key
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from tests.behaviour.faces import until
from tests.responses.asking import Ask, Reply, answer, ask, until_stored
from tests.responses.conftest import Make, Site

FRESH = ("cache-control", "max-age=300")


def numbered(*headers: tuple[str, str], status: int = 200) -> Callable[[Ask], Reply]:
    """A handler whose every answer is another."""
    numbers = count(1)

    def handler(request: Ask) -> Reply:
        return answer(f"{request.path} {next(numbers)}", status, headers)

    return handler


async def bodies(site: Site, url: str, *headers: list[tuple[str, str]]) -> list[bytes]:
    return [(await ask(site.app, url, headers=lines)).body for lines in headers]


class TestRules:
    RULES = (
        Rule("/api/products", ttl=300, tags=["products"], ignore=["utm_*"]),
        Rule("/api/products/{id}", ttl=300, tags=["products", "product:{id}"]),
        Rule(
            "/api/me",
            ttl=300,
            per_user=lambda scope: dict(scope["headers"]).get(b"x-user", b"").decode() or None,
        ),
        Rule("/api/public", ttl=300, public=True),
    )

    async def test_second_is_a_hit(self, make: Make) -> None:
        """The second request is answered from Redis, with the same bytes."""
        site = make(numbered(("x-own", "1")), self.RULES)
        first, second = [await ask(site.app, "/api/products?page=2&category=3") for _ in range(2)]
        assert site.calls == 1
        assert (first.status, first.body, first.get("x-own")) == (
            second.status,
            second.body,
            second.get("x-own"),
        )
        assert first.cache == "neverstale; fwd=uri-miss; fwd-status=200; stored"
        assert second.cache.startswith("neverstale; hit; ttl=")
        assert second.get("age") == "0"
        assert await site.api.delete("GET:/api/products?category=3&page=2")

    async def test_untouched(self, make: Make) -> None:
        """A path without a rule is not touched, not even its Cache-Tag."""
        site = make(numbered(FRESH, ("cache-tag", "x")), self.RULES)
        first, second = [await ask(site.app, "/api/other") for _ in range(2)]
        assert (first.body, second.body) == (b"/api/other 1", b"/api/other 2")
        assert (first.cache, first.get("cache-tag"), first.get("etag")) == ("", "x", None)

    @pytest.mark.parametrize("tag", ["products", "product:7"])
    async def test_tags(self, make: Make, tag: str) -> None:
        """Invalidating a tag of the rule or of the path reaches the answer."""
        site = make(numbered(), self.RULES)
        for _ in range(2):
            await ask(site.app, "/api/products/7")
        await site.cache.invalidate_tag(tag)
        assert (await ask(site.app, "/api/products/7")).body == b"/api/products/7 2"

    @pytest.mark.parametrize("odd", ["007", "+7", "%207", "7.0", "7_0", "%D9%A7"])
    async def test_odd_numbers_pass(self, make: Make, odd: str) -> None:
        """What a handler may read as the number 7, and has another tag, is not stored."""
        site = make(numbered(), self.RULES)
        replies = [await ask(site.app, f"/api/products/{odd}") for _ in range(2)]
        assert [reply.hit for reply in replies] == [False, False]

    async def test_tags_of_the_handler(self, make: Make) -> None:
        """Tags in Cache-Tag are those of the answer, and are not shown to the client."""
        site = make(numbered(("cache-tag", "shelf:1, shelf:2")), self.RULES)
        await site.cache.invalidate_tags("shelf:1", "shelf:2")
        await until_stored(site.app, "/api/products")
        assert (await ask(site.app, "/api/products")).get("cache-tag") is None
        await site.cache.invalidate_tag("shelf:2")
        assert not (await ask(site.app, "/api/products")).hit

    async def test_tags_outlive_validation(self, make: Make) -> None:
        """An answer that a 304 has confirmed has the tags that it had."""

        def handler(request: Ask) -> Reply:
            if request.get("if-none-match"):
                return Reply(304, [("cache-control", "max-age=60")], [b""])
            lines = [("etag", '"1"'), ("cache-control", "max-age=0"), ("cache-tag", "shelf")]
            return answer("x", 200, lines)

        site = make(handler)
        await site.cache.invalidate_tag("shelf")
        await until_stored(site.app, "/a")
        await site.cache.invalidate_tag("shelf")
        assert not (await ask(site.app, "/a")).hit

    async def test_tag_that_cannot_be(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        """An answer with a tag that cannot be invalidated is given, and not stored."""
        site = make(numbered(("cache-tag", "x" * 300)), self.RULES)
        replies = [await ask(site.app, "/api/products") for _ in range(2)]
        assert [(reply.status, reply.hit) for reply in replies] == [(200, False)] * 2
        assert "Cache-Tag" in caplog.text

    async def test_ignored_parameters(self, make: Make) -> None:
        """Named parameters make no difference."""
        site = make(numbered(), self.RULES)
        urls = ("/api/products?utm_source=a&page=1", "/api/products?page=1&utm_medium=b")
        assert len({(await ask(site.app, url)).body for url in urls}) == 1

    @pytest.mark.parametrize(
        "lines", [[("cookie", "a=1")], [("authorization", "Basic x")], [("x-api-key", "1")]]
    )
    async def test_sessions_pass(self, make: Make, lines: list[tuple[str, str]]) -> None:
        """A request with a session or credentials is not given what is stored, and leaves nothing."""
        site = make(numbered(), self.RULES)
        got = await bodies(site, "/api/products", [], lines, lines, [])
        assert got == [b"/api/products 1", b"/api/products 2", b"/api/products 3", b"/api/products 1"]

    async def test_public(self, make: Make) -> None:
        """What a rule says is the same for all is given to all."""
        site = make(numbered(), self.RULES)
        assert (
            len(set(await bodies(site, "/api/public", [("cookie", "a=1")], [], [("authorization", "x")])))
            == 1
        )

    async def test_per_user(self, make: Make) -> None:
        """Each user has an answer, a request of nobody passes, and the base key forgets them all."""
        site = make(numbered(), self.RULES)
        ann, ben = [("x-user", "ann"), ("cookie", "s=1")], [("x-user", "ben"), ("cookie", "s=2")]
        assert await bodies(site, "/api/me", ann, ben, ann, ben, [], ann) == [
            b"/api/me 1", b"/api/me 2", b"/api/me 1", b"/api/me 2", b"/api/me 3", b"/api/me 1",
        ]  # fmt: skip
        await site.api.invalidate_key("GET:/api/me")
        assert await bodies(site, "/api/me", ann, ben) == [b"/api/me 4", b"/api/me 5"]

    @pytest.mark.parametrize(
        "headers",
        [
            [("set-cookie", "s=1")],
            [("cache-control", "no-store")],
            [("cache-control", "private")],
            [("cache-control", "no-cache")],
            [("vary", "*")],
        ],
    )
    async def test_handler_wins(self, make: Make, headers: list[tuple[str, str]]) -> None:
        """What the handler says may not be stored is not, whatever the rule says."""
        site = make(numbered(*headers), self.RULES)
        assert not any([(await ask(site.app, "/api/public")).hit for _ in range(3)])
        assert site.calls == 3

    @pytest.mark.parametrize("status", [404, 500, 301])
    async def test_other_statuses(self, make: Make, status: int) -> None:
        """Only what the rule names is stored: by default 200."""
        site = make(numbered(status=status), self.RULES)
        assert [(await ask(site.app, "/api/products")).status for _ in range(2)] == [status] * 2
        assert site.calls == 2

    async def test_soft_ttl(self, make: Make) -> None:
        """Past its soft TTL an answer is served at once, and renewed in the background."""
        site = make(numbered(), [Rule("/p", ttl=300, soft_ttl=0.01)])
        await ask(site.app, "/p")
        await asyncio.sleep(0.02)
        stale = await ask(site.app, "/p")
        assert (stale.body, stale.hit) == (b"/p 1", True)
        await until(lambda: site.calls == 2)
        assert site.api.stats()["api:"].stale_hits == 1

    async def test_head(self, make: Make) -> None:
        """HEAD is answered from GET, with the body that the server leaves out, and leaves what GET can use."""
        site = make(numbered(), self.RULES)
        head = await ask(site.app, "/api/products", "HEAD")
        whole = await ask(site.app, "/api/products")
        assert (head.body, head.get("content-length")) == (whole.body, str(len(whole.body)))
        assert (whole.hit, site.calls, site.handler.asked[0].method) == (True, 1, "GET")

    @pytest.mark.parametrize("accepted", ["gzip", "identity"])
    async def test_head_is_compressed_as_get_is(self, make: Make, accepted: str) -> None:
        """GZip around the cache makes the same headers of both, for it makes them of the body."""
        site = make(lambda _: answer("long " * 200), self.RULES)
        packing = GZipMiddleware(site.app)
        for _ in range(2):
            head, whole = [
                await ask(packing, "/api/products", method, [("accept-encoding", accepted)])
                for method in ("HEAD", "GET")
            ]
            for name in ("content-encoding", "content-length", "vary"):
                assert head.get(name) == whole.get(name)

    async def test_counters(self, make: Make) -> None:
        """Hits, misses and loads are counted under the prefix."""
        site = make(numbered(), self.RULES)
        for _ in range(3):
            await ask(site.app, "/api/products")
        stats = site.cache.stats()["api:"]
        assert (stats.hits, stats.misses, stats.loads, stats.fills) == (2, 1, 1, 1)

    async def test_maker(self, cache: AsyncCache, make: Make) -> None:
        """The cache may be made later; until then requests go to the handler."""
        made: list[AsyncCache] = []
        site = make(numbered(), self.RULES)
        app = ResponseCacheMiddleware(site.handler, lambda scope: made[0] if made else None, self.RULES)
        assert [(await ask(app, "/api/products")).cache for _ in range(2)] == ["", ""]
        made.append(cache)
        assert [(await ask(app, "/api/products")).hit for _ in range(2)] == [False, True]


class TestHeaders:
    async def test_only_what_says_so(self, make: Make) -> None:
        """Without rules, an answer that says nothing of it is not stored."""
        site = make(numbered())
        assert not any([(await ask(site.app, "/a")).hit for _ in range(2)])

    async def test_max_age(self, make: Make) -> None:
        """An answer is served as long as it says."""
        site = make(numbered(FRESH))
        assert [(await ask(site.app, "/a")).hit for _ in range(2)] == [False, True]

    @pytest.mark.parametrize("lines", [[("cookie", "a=1")], [("authorization", "x")]])
    @pytest.mark.parametrize(
        ("said", "allowed"),
        [
            ("max-age=60", False),
            ("max-age=60, must-revalidate", False),
            ("max-age=60, public", True),
            ("s-maxage=60", True),
        ],
    )
    async def test_sessions(self, make: Make, lines: list[tuple[str, str]], said: str, allowed: bool) -> None:
        """Only an answer that is explicitly for all is given to, or taken from, a request with a session."""
        site = make(numbered(("cache-control", said)))
        assert [(await ask(site.app, "/to", headers=line)).hit for line in ([], lines)] == [False, allowed]
        assert [(await ask(site.app, "/of", headers=line)).hit for line in (lines, [])] == [False, allowed]

    async def test_named_session_cookies(self, make: Make) -> None:
        """Where the session cookies are named, others make no session."""
        site = make(numbered(FRESH), session_cookies=["sid"])
        await ask(site.app, "/a")
        assert (await ask(site.app, "/a", headers=[("cookie", "theme=dark; x=1")])).hit
        assert not (await ask(site.app, "/a", headers=[("cookie", "theme=dark; sid=1")])).hit

    async def test_hosts_are_apart(self, make: Make) -> None:
        """What was made for one host is not shown on another; a key can be made of a URL."""
        site = make(numbered(FRESH))
        replies = [await ask(site.app, "/a", host=host) for host in ("a.example", "b.example", "a.example")]
        assert [reply.hit for reply in replies] == [False, False, True]
        await site.api.invalidate_key(answer_key("http://A.example/a"))
        assert not (await ask(site.app, "/a", host="a.example")).hit
        assert (await ask(site.app, "/a", host="b.example")).hit

    async def test_vary(self, make: Make) -> None:
        """Variants are kept side by side, and all die with the base key."""
        numbers = count(1)

        def handler(request: Ask) -> Reply:
            return answer(
                f"{request.get('accept-language')} {next(numbers)}", 200, [FRESH, ("vary", "Accept-Language")]
            )

        site = make(handler, host_in_key=False)
        wants = [[("accept-language", each)] for each in ("en", "de", "fr")]
        first = await bodies(site, "/a", *wants)
        assert first == [b"en 1", b"de 2", b"fr 3"]
        assert await bodies(site, "/a", *wants) == first
        assert (await ask(site.app, "/a", headers=wants[1])).hit
        await site.api.invalidate_key("GET:/a")
        assert await bodies(site, "/a", *wants) == [b"en 4", b"de 5", b"fr 6"]

    async def test_vary_miss_is_said(self, make: Make) -> None:
        """Cache-Status tells a new variant from a new URL."""
        site = make(numbered(FRESH, ("vary", "x")))
        assert "uri-miss" in (await ask(site.app, "/a")).cache
        assert "vary-miss" in (await ask(site.app, "/a", headers=[("x", "1")])).cache

    async def test_conditions(self, make: Make) -> None:
        """A client that has the answer is told so; If-None-Match is stronger than If-Modified-Since."""
        site = make(numbered(FRESH))
        first = await ask(site.app, "/a")
        tag = first.get("etag")
        assert tag is not None
        assert tag.startswith('W/"')
        for wanted in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
            reply = await ask(site.app, "/a", headers=[("if-none-match", wanted)])
            assert (reply.status, reply.body, reply.get("etag")) == (304, b"", tag)
        later = ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")
        for lines in ([("if-none-match", '"x"'), later], [later]):
            assert (await ask(site.app, "/a", headers=lines)).status == 200
        assert site.calls == 1

    async def test_condition_on_a_miss(self, make: Make) -> None:
        """Who has the answer that the handler makes again is told so; the handler hears of no condition."""

        def handler(request: Ask) -> Reply:
            assert request.get("if-none-match") is None
            return answer("same", 200, [FRESH])

        site = make(handler)
        tag = (await ask(site.app, "/a")).get("etag") or ""
        await site.api.invalidate_pattern("*")
        reply = await ask(site.app, "/a", headers=[("if-none-match", tag)])
        assert (reply.status, site.calls) == (304, 2)

    async def test_validation(self, make: Make) -> None:
        """What has to be validated is: a 304 renews headers and lifetime, and the client gets the body."""

        def handler(request: Ask) -> Reply:
            if request.get("if-none-match") == '"1"':
                return Reply(304, [("etag", '"1"'), ("x", "new"), ("cache-control", "max-age=60")], [b""])
            return answer("body", 200, [("etag", '"1"'), ("x", "old"), ("cache-control", "no-cache")])

        site = make(handler)
        replies = [await ask(site.app, "/a") for _ in range(3)]
        assert [(reply.status, reply.body, reply.get("x")) for reply in replies] == [
            (200, b"body", "old"), (200, b"body", "new"), (200, b"body", "new"),
        ]  # fmt: skip
        assert [reply.hit for reply in replies] == [False, False, True]
        assert site.calls == 2

    @pytest.mark.parametrize(
        ("asked", "hit"),
        [
            ("no-cache", False),
            ("max-age=0", False),
            ("max-age=100", True),
            ("min-fresh=100", True),
            ("min-fresh=1000", False),
            ("only-if-cached", True),
            ("no-store", False),
            ("max-stale", True),
        ],
    )
    async def test_client_directives(self, make: Make, asked: str, hit: bool) -> None:
        """A client may ask for something newer, unless that is not listened to."""
        lines = [("cache-control", asked)]
        site = make(numbered(FRESH))
        await ask(site.app, "/a")
        assert (await ask(site.app, "/a", headers=lines)).hit == hit
        deaf = make(numbered(FRESH), ignore_reload=True)
        await ask(deaf.app, "/b")
        assert (await ask(deaf.app, "/b", headers=lines)).hit

    async def test_reload_is_stored(self, make: Make) -> None:
        """What a client has reloaded is what the next one gets."""
        site = make(numbered(FRESH))
        await ask(site.app, "/a")
        reloaded = await ask(site.app, "/a", headers=[("pragma", "no-cache")])
        assert "fwd=request" in reloaded.cache
        again = await ask(site.app, "/a")
        assert (again.body, again.hit) == (b"/a 2", True)

    async def test_only_if_cached(self, make: Make) -> None:
        """Who wants nothing but the cache's answer is told that there is none."""
        site = make(numbered(FRESH))
        reply = await ask(site.app, "/a", headers=[("cache-control", "only-if-cached")])
        assert (reply.status, site.calls) == (504, 0)

    async def test_range_passes(self, make: Make) -> None:
        """A range is the handler's matter, and a part is not stored."""

        def handler(request: Ask) -> Reply:
            part = request.get("range") is not None
            return answer("par" if part else "whole", 206 if part else 200, [FRESH])

        site = make(handler)
        assert (await ask(site.app, "/a", headers=[("range", "bytes=0-2")])).status == 206
        assert (await ask(site.app, "/a")).body == b"whole"
        assert (await ask(site.app, "/a", headers=[("range", "bytes=0-2")])).body == b"par"

    async def test_stale_if_error(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        """Where the answer allows it, a stale one is served if the handler fails, by an answer or an exception."""
        fails: list[object] = []

        def handler(request: Ask) -> Reply:
            if fails and isinstance(fails[-1], Exception):
                raise fails[-1]
            return answer("x", 503 if fails else 200, [("cache-control", "max-age=0, stale-if-error=60")])

        site = make(handler)
        await ask(site.app, "/a")
        fails.append(503)
        reply = await ask(site.app, "/a")
        assert (reply.status, reply.cache) == (200, "neverstale; hit; fwd=stale; fwd-status=503")
        assert (await ask(site.app, "/a")).status == 200
        await site.api.invalidate_pattern("*")
        assert (await ask(site.app, "/a")).status == 503
        fails.clear()
        await ask(site.app, "/a")
        fails.append(OSError("away"))
        assert (await ask(site.app, "/a")).status == 200
        assert "away" in caplog.text

    async def test_swr(self, make: Make) -> None:
        """stale-while-revalidate: served at once, renewed behind."""
        site = make(numbered(("cache-control", "max-age=0, stale-while-revalidate=60")))
        await ask(site.app, "/a")
        assert (await ask(site.app, "/a")).body == b"/a 1"
        await until(lambda: site.api.stats()["api:"].fills == 2)
        assert (await ask(site.app, "/a")).body == b"/a 2"

    async def test_head_of_a_miss(self, make: Make) -> None:
        """HEAD of what is not stored is the handler's own matter; of what is stored it is answered from there."""
        site = make(numbered(FRESH))
        await ask(site.app, "/a", "HEAD")
        assert site.handler.asked[0].method == "HEAD"
        whole = await ask(site.app, "/a")
        head = await ask(site.app, "/a", "HEAD")
        assert (head.hit, head.body, site.calls) == (True, whole.body, 2)

    async def test_made_date_settles(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """A made Last-Modified is not shown before it can be no other answer's, and matches only exactly."""
        now = time.time_ns() // 1_000_000
        monkeypatch.setattr("neverstale.web.asgi.now_ms", lambda: now)
        site = make(numbered(FRESH))
        await ask(site.app, "/a")
        assert (await ask(site.app, "/a")).get("last-modified") is None
        now += 10_000
        made = (await ask(site.app, "/a")).get("last-modified") or ""
        assert (await ask(site.app, "/a", headers=[("if-modified-since", made)])).status == 304
        later = (
            made.replace(":", ":")[:-6] + "59 GMT" if not made.endswith("59 GMT") else made[:-6] + "58 GMT"
        )
        assert (await ask(site.app, "/a", headers=[("if-modified-since", later)])).status == 200


class TestUsage:
    @pytest.mark.parametrize(
        "make_it",
        [
            lambda app, cache: ResponseCacheMiddleware(app, "redis://x"),  # type: ignore[arg-type]
            lambda app, cache: ResponseCacheMiddleware(app, cache, ["/a"]),  # type: ignore[list-item]
            lambda app, cache: ResponseCacheMiddleware(app, cache, session_cookies="sid"),
            lambda app, cache: ResponseCacheMiddleware(app, cache, [Rule("/a", ttl=1), Rule("/a", ttl=2)]),
        ],
    )
    async def test_wrong(self, cache: AsyncCache, make_it: object) -> None:
        """A wrong argument is said when the middleware is made."""

        async def app(*_: object) -> None: ...

        with pytest.raises(UsageError):
            make_it(app, cache)  # type: ignore[operator]
