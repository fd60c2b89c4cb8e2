"""What other cache libraries do where a write meets a load, shown by running them: the table of docs/comparison.md.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install . django cashews aiocache dogpile.cache flask flask-caching \\
        fastapi fastapi-cache2 'hishel[async]' 'redis>=8.1'
    /tmp/peers/bin/python bench/peers.py

They are no dependencies of ours: this file runs in an environment of its own, against a Redis that it starts.

**A write during a load**: a reader misses and reads the database. Before it is done, the value is changed there and
invalidated, in the way that the library's documents show. Then the reader is done. Is who asks now told the old value?

**Twenty at once**: as many ask for a value that nobody has cached. How often is it loaded?
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from neverstale.testing.servers import RedisServer, binaries

READERS = 20
#: Seconds that a load takes where many ask at once: long enough that all of them do.
LOAD = 0.3

Ask = Callable[[], Any]
Found = tuple[bool, int]


class Database:
    """One value, which can be slow to read."""

    def __init__(self) -> None:
        self.value = "old"
        self.loads = 0
        self.pause = 0.0
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def load(self) -> str:
        """Read it, on a thread."""
        self.loads += 1
        value = self.value
        self.reading.set()
        self.go_on.wait()
        if self.pause:
            threading.Event().wait(self.pause)
        return value

    async def aload(self) -> str:
        """Read it, on an event loop."""
        return await asyncio.to_thread(self.load)


def on_threads(database: Database, ask: Ask, invalidate: Ask) -> Found:
    """Do both to a library without an event loop."""
    with ThreadPoolExecutor(READERS) as threads:
        with _held(database):
            reader = threads.submit(ask)
            database.reading.wait()
            database.value = "new"
            invalidate()
        reader.result()
        stale = ask() == "old"
        invalidate()
        database.loads, database.pause = 0, LOAD
        list(threads.map(lambda _: ask(), range(READERS)))
        return stale, database.loads


async def on_a_loop(
    database: Database, ask: Callable[[], Awaitable[Any]], invalidate: Callable[[], Awaitable[Any]]
) -> Found:
    """Do both to a library with one."""
    with _held(database):
        reader = asyncio.ensure_future(ask())
        await asyncio.to_thread(database.reading.wait)
        database.value = "new"
        await invalidate()
    await reader
    stale = await ask() == "old"
    await invalidate()
    database.loads, database.pause = 0, LOAD
    await asyncio.gather(*(ask() for _ in range(READERS)))
    return stale, database.loads


@contextmanager
def _held(database: Database) -> Iterator[None]:
    database.go_on.clear()
    try:
        yield
    finally:
        database.go_on.set()


# --- the libraries ------------------------------------------------------------------------------------------------


def django_get_or_set(url: str) -> Found:
    """`cache.get_or_set` and `cache.delete`."""
    from django.conf import settings

    if not settings.configured:
        backend = "django.core.cache.backends.redis.RedisCache"
        settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": url}})
    from django.core.cache import cache

    database = Database()
    return on_threads(
        database, lambda: cache.get_or_set("price", database.load, 60), lambda: cache.delete("price")
    )


def cashews_tags(url: str, **options: Any) -> Found:
    """`@cache(ttl, tags)` and `cache.delete_tags`."""
    from cashews import Cache

    async def main() -> Found:
        cache = Cache()
        cache.setup(url)
        database = Database()

        @cache(ttl="1m", key="price", tags=["prices"], **options)
        async def price() -> str:
            return await database.aload()

        return await on_a_loop(database, price, lambda: cache.delete_tags("prices"))

    return asyncio.run(main())


def aiocache_cached(url: str, *, stampede: bool = False) -> Found:
    """`@cached` and `cache.delete`."""
    from aiocache import Cache, cached, cached_stampede

    port = int(url.rpartition(":")[2])

    async def main() -> Found:
        database = Database()
        decorate = cached_stampede if stampede else cached
        lease = {"lease": 5} if stampede else {}

        @decorate(ttl=60, key="price", cache=Cache.REDIS, endpoint="127.0.0.1", port=port, **lease)
        async def price() -> str:
            return await database.aload()

        found = await on_a_loop(database, price, lambda: price.cache.delete("price"))
        await price.cache.close()
        return found

    return asyncio.run(main())


def dogpile(url: str, *, region: bool = False) -> Found:
    """`@region.cache_on_arguments` and its `invalidate`, or that of the whole region."""
    from dogpile.cache import make_region

    arguments = {"url": url, "distributed_lock": True, "thread_local_lock": False, "lock_timeout": 30}
    made = make_region().configure("dogpile.cache.redis", expiration_time=60, arguments=arguments)
    database = Database()

    @made.cache_on_arguments()
    def price() -> str:
        return database.load()

    return on_threads(database, price, made.invalidate if region else price.invalidate)


def flask_caching(url: str, *, whole: bool = False) -> Found:
    """`@cache.memoize` and `cache.delete_memoized`, with the arguments, or for the whole function."""
    from flask import Flask
    from flask_caching import Cache

    app = Flask("peers")
    cache = Cache(app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": url})
    database = Database()

    @cache.memoize(60)
    def price(product: int) -> str:
        return database.load()

    def ask() -> str:
        with app.app_context():
            return str(price(7))

    def invalidate() -> None:
        with app.app_context():
            cache.delete_memoized(price) if whole else cache.delete_memoized(price, 7)

    return on_threads(database, ask, invalidate)


def fastapi_cache(url: str) -> Found:
    """`@cache` and `FastAPICache.clear`."""
    from fastapi_cache import FastAPICache
    from fastapi_cache.backends.redis import RedisBackend
    from fastapi_cache.decorator import cache
    from redis.asyncio import Redis

    async def main() -> Found:
        async with Redis.from_url(url) as client:
            FastAPICache.reset()
            FastAPICache.init(RedisBackend(client), prefix="peers")
            database = Database()

            @cache(expire=60, namespace="prices")
            async def price() -> str:
                return await database.aload()

            return await on_a_loop(database, price, lambda: FastAPICache.clear(namespace="prices"))

    return asyncio.run(main())


def hishel_asgi(url: str) -> Found:
    """The ASGI middleware by RFC 9111: a POST to the same URL invalidates."""
    from hishel import AsyncRedisStorage
    from hishel.asgi import ASGICacheMiddleware
    from redis.asyncio import Redis

    async def main() -> Found:
        async with Redis.from_url(url) as client:
            database = Database()
            middleware = ASGICacheMiddleware(_application(database), storage=AsyncRedisStorage(client))
            return await on_a_loop(
                database, lambda: _request(middleware, "GET"), lambda: _request(middleware, "POST")
            )

    return asyncio.run(main())


def neverstale_cached(url: str) -> Found:
    """`@cache.cached` and `cache.invalidate_tag`."""
    from neverstale import AsyncCache

    async def main() -> Found:
        async with AsyncCache.from_url(url, namespace="peers") as cache:
            database = Database()

            @cache.cached(ttl=60, tags=["prices"], key=lambda: "price")
            async def price() -> str:
                return await database.aload()

            return await on_a_loop(database, price, lambda: cache.invalidate_tag("prices"))

    return asyncio.run(main())


def neverstale_responses(url: str) -> Found:
    """The ASGI middleware: a POST to the same URL invalidates."""
    from neverstale import AsyncCache
    from neverstale.web.asgi import ResponseCacheMiddleware

    async def main() -> Found:
        async with AsyncCache.from_url(url, namespace="peers") as cache:
            database = Database()
            middleware = ResponseCacheMiddleware(_application(database), cache)
            return await on_a_loop(
                database, lambda: _request(middleware, "GET"), lambda: _request(middleware, "POST")
            )

    return asyncio.run(main())


def _application(database: Database) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b"" if scope["method"] == "POST" else (await database.aload()).encode()
        headers = [(b"cache-control", b"public, max-age=60"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def _request(app: Any, method: str) -> str:
    body = b""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal body
        body += message.get("body", b"")

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": "/price",
        "raw_path": b"/price", "query_string": b"", "root_path": "", "headers": [(b"host", b"peers")],
        "server": ("peers", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    return body.decode()


LIBRARIES: tuple[tuple[str, str, Callable[[str], Found]], ...] = (
    ("Django", "`get_or_set`, `delete`", django_get_or_set),
    ("cashews", "`@cache(tags=)`, `delete_tags`", cashews_tags),
    ("cashews", "the same, `lock=True`", lambda url: cashews_tags(url, lock=True)),
    ("aiocache", "`@cached`, `delete`", aiocache_cached),
    ("aiocache", "`@cached_stampede`, `delete`", lambda url: aiocache_cached(url, stampede=True)),
    ("dogpile.cache", "`cache_on_arguments`, its `invalidate`", dogpile),
    ("dogpile.cache", "the same, `region.invalidate`", lambda url: dogpile(url, region=True)),
    ("Flask-Caching", "`memoize`, `delete_memoized(f, 7)`", flask_caching),
    ("Flask-Caching", "the same, `delete_memoized(f)`", lambda url: flask_caching(url, whole=True)),
    ("fastapi-cache2", "`@cache`, `clear`", fastapi_cache),
    ("hishel", "ASGI, GET and POST", hishel_asgi),
    ("neverstale", "`@cached(tags=)`, `invalidate_tag`", neverstale_cached),
    ("neverstale", "ASGI, GET and POST", neverstale_responses),
)


def main() -> None:
    """Run them all, and print the table."""
    found = binaries()
    head = ("library", "by", "after a write during a load", f"loads for {READERS} at once")
    # hishel logs each answer of the twenty that another has overtaken.
    logging.disable()
    print(f"Python {sys.version.split()[0]}\n")
    for cells in (head, ("---",) * len(head)):
        print(f"| {' | '.join(cells)} |")
    with RedisServer.start(found.get("redis") or found["valkey"]) as server:
        for name, by, run in LIBRARIES:
            server.flush()
            try:
                stale, loads = run(server.url)
                cells = ("**the old value**" if stale else "the new value", str(loads))
            except Exception as problem:  # noqa: BLE001 - one that is not there, or not as it was, is left out
                cells = (f"{type(problem).__name__}: {problem}", "")
            version = importlib.metadata.version(name)
            print(f"| {name} {version} | {by} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
