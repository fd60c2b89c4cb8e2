"""Random walks against a model: readers, writers and users at once, several processes' caches, one real Redis.

Every answer says which version it was made of. A reader that begins after a change was answered must never be told an
older version, whatever ways of asking, storing and invalidating were going on meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from neverstale import AsyncCache
from neverstale.testing.servers import RedisServer
from neverstale.web.asgi import ResponseCacheMiddleware, Rule, answer_key
from tests.responses.asking import Application, Ask, Reply, answer, ask

PATHS = ("/plain/1", "/plain/2", "/varied/1", "/mine/1", "/soft/1", "/named/1")
USERS = ("", "ann", "ben")


def user_of(scope: Any) -> str | None:
    said = dict(scope["headers"]).get(b"authorization")
    return None if said is None else said.decode()


RULES = [
    Rule("/plain/{id}", ttl=60, tags=["plain:{id}"], public=True, invalidates=["plain:{id}"]),
    Rule("/varied/{id}", ttl=60, public=True, invalidates_target=True, stale_if_error=60),
    Rule("/mine/{id}", ttl=60, tags=["mine"], per_user=user_of, invalidates=["mine"], vary=["accept"]),
    Rule("/soft/{id}", ttl=60, soft_ttl=0.001, tags=["soft"], public=True, invalidates=["soft"]),
    Rule("/named/{id}", ttl=0.02, stale_if_error=60, public=True, invalidates_target=True),
]


class Truth:
    """What is true, and the handler that tells it: slowly, sometimes not at all."""

    def __init__(self, chance: random.Random) -> None:
        self.versions = dict.fromkeys(PATHS, 0)
        self._chance = chance

    async def __call__(self, request: Ask) -> Reply:
        path, chance = request.path, self._chance
        if request.method not in ("GET", "HEAD"):
            await self._pause()
            made = self.versions[path] = self.versions[path] + 1
            await self._pause()
            return answer(str(made), chance.choice((200, 201, 303, 500)))
        version = self.versions[path]
        await self._pause()
        if chance.random() < 0.05:
            return answer("broken", 503)
        if chance.random() < 0.02:
            raise OSError("broken")
        lines = []
        who = request.get("authorization") if path.startswith("/mine") else ""
        if path.startswith("/varied"):
            lines.append(("vary", "accept"))
        if path.startswith("/soft"):
            lines.append(("etag", f'"{version}"'))
            if request.get("if-none-match") == f'"{version}"':
                return Reply(304, lines, [b""])
        accept = request.get("accept") if path.startswith(("/varied", "/mine")) else ""
        reply = answer(f"{version} {who} {accept}", 200, lines)
        if chance.random() < 0.1:
            reply.headers, reply.chunks = lines, [reply.body[:1], reply.body[1:]]
        return reply

    async def _pause(self) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.random() * 0.004)


class Walk:
    """Readers and writers at once."""

    def __init__(self, caches: list[AsyncCache], seed: int) -> None:
        self.chance = random.Random(seed)
        self.truth = Truth(self.chance)
        self.caches = caches
        self.apps = [ResponseCacheMiddleware(Application(self.truth), cache, RULES) for cache in caches]
        #: What readers may rely on: changes that have been answered.
        self.settled = dict.fromkeys(PATHS, 0)
        self.etags: dict[str, dict[str, int]] = {path: {} for path in PATHS}
        self.answered = 0
        self.hits = 0

    async def reader(self, count: int) -> None:
        for _ in range(count):
            await self.read()

    async def read(self) -> None:
        chance = self.chance
        path, user, accept = chance.choice(PATHS), chance.choice(USERS), chance.choice(("a", "b"))
        headers = [("accept", accept)]
        if user:
            headers.append(("authorization", user))
        if chance.random() < 0.05:
            headers.append(
                ("cache-control", chance.choice(("no-cache", "max-age=0", "max-stale", "no-store")))
            )
        known = self.etags[path]
        if known and chance.random() < 0.3:
            headers.append(("if-none-match", chance.choice(list(known))))
        head = chance.random() < 0.1
        least = self.settled[path]
        try:
            reply = await ask(chance.choice(self.apps), path, "HEAD" if head else "GET", headers)
        except OSError:
            return
        if reply.status == 503:
            return
        etag = reply.get("etag")
        self.hits += reply.hit
        if reply.status == 304:
            assert etag is not None
            assert known[etag] >= least, (path, reply, least)
            return
        assert reply.status == 200, reply
        if head:
            return
        version, who, wanted = reply.body.decode().split(" ")
        assert int(version) >= least, (path, reply, least)
        self.answered += 1
        if path.startswith("/mine"):
            assert who == (user or "None"), (user, reply)
        if path.startswith(("/varied", "/mine")):
            assert wanted == accept, (accept, reply)
        if etag is not None:
            known[etag] = int(version)

    async def writer(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(self.chance.random() * 0.01)
            await self.write()

    async def write(self) -> None:
        chance = self.chance
        path = chance.choice(PATHS)
        way = chance.random()
        if way < 0.7:
            method = chance.choice(("POST", "PUT", "DELETE"))
            made = int((await ask(chance.choice(self.apps), path, method)).body)
        else:
            made = self.truth.versions[path] = self.truth.versions[path] + 1
            api = chance.choice(self.caches).with_prefix("api:")
            if way < 0.8:
                await api.invalidate_key(answer_key(path))
            elif way < 0.9:
                await api.invalidate_pattern(f"GET:{path}*")
            else:
                await api.delete(answer_key(path))
        self.settled[path] = max(self.settled[path], made)

    async def close(self) -> None:
        for app in self.apps:
            await app._changes.close()
        for cache in self.caches:
            await cache.close()

    async def walk(self, readers: int, writers: int, count: int) -> None:
        await asyncio.gather(
            *(self.reader(count) for _ in range(readers)), *(self.writer(count // 2) for _ in range(writers))
        )


@pytest.mark.parametrize("seed", range(3))
async def test_random_walk(redis_server: RedisServer, seed: int) -> None:
    """Nobody is told what was true before a change that has been answered, nor what is another's."""
    caches = [
        AsyncCache.from_url(redis_server.url, namespace="walk", timeout=5, patient_timeout=10)
        for _ in range(2)
    ]
    walk = Walk(caches, seed)
    try:
        await walk.walk(readers=20, writers=2, count=60)
    finally:
        await walk.close()
    assert walk.answered > 500
    assert walk.hits > 100


async def test_random_walk_with_pauses_of_redis(redis_server: RedisServer) -> None:
    """The same while Redis stands still now and then."""
    caches = [
        AsyncCache.from_url(redis_server.url, namespace="walk", timeout=0.05, patient_timeout=5)
        for _ in range(2)
    ]
    walk = Walk(caches, 7)

    async def disturb() -> None:
        while True:
            await asyncio.sleep(0.1)
            redis_server.freeze()
            await asyncio.sleep(0.15)
            redis_server.thaw()

    disturbing = asyncio.create_task(disturb())
    try:
        await walk.walk(readers=10, writers=2, count=60)
    finally:
        disturbing.cancel()
        await asyncio.wait([disturbing])
        redis_server.thaw()
        await walk.close()
    assert walk.answered > 200
