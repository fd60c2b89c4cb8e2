"""One way to call both faces, so that each behaviour is written down once.

`Face` calls `AsyncCache` directly and `Cache` on threads; a `Loader` runs as the face runs loaders, counts its
calls, and stays inside a call for as long as a test holds it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Literal

from neverstale import AsyncCache, Cache, CounterSnapshot, Events
from neverstale.receipt import Receipt

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, Kind] = ("sync", "async")

#: More than any test has callers at a time: a caller that waits keeps its thread.
THREADS = 120
#: No condition of a healthy run takes this long, also on a busy machine.
LIMIT = 20.0
#: The limit of a read in tests that are not about time: a busy machine is not Redis being away.
CALM = 5.0


async def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit:g} s: {inspect.getsource(condition).strip()}"
        await asyncio.sleep(0.001)


async def cancel_what_runs() -> None:
    """End what a test that has failed half way holds, or its caches would wait for it for ever when they are closed."""
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=LIMIT)


class Loader:
    """A loader that counts how often it is called.

    Args:
        values: given one after the other, the last one again and again. An exception is raised; what can be
            called is called, and what it returns is given.
        held: whether each call waits until `let_go`.
    """

    def __init__(self, kind: Kind, values: tuple[Any, ...], held: bool) -> None:
        self._kind = kind
        self._values = values
        self._gate = threading.Event()
        self._lock = threading.Lock()
        self.calls = 0
        self.running = 0
        self.most_at_once = 0
        if not held:
            self._gate.set()

    def __call__(self) -> Any:
        with self._lock:
            mine = min(self.calls, len(self._values) - 1)
            self.calls += 1
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        return self._async(mine) if self._kind == "async" else self._sync(mine)

    def let_go(self) -> None:
        """Let the calls go on, those to come as well."""
        self._gate.set()

    async def begun(self, calls: int = 1) -> None:
        """Wait until it has been called so often."""
        await until(lambda: self.calls >= calls)

    def _sync(self, mine: int) -> Any:
        try:
            assert self._gate.wait(LIMIT), "nobody let the loader go"
            return self._give(mine)
        finally:
            with self._lock:
                self.running -= 1

    async def _async(self, mine: int) -> Any:
        try:
            await until(self._gate.is_set)
            return self._give(mine)
        finally:
            with self._lock:
                self.running -= 1

    def _give(self, mine: int) -> Any:
        value = self._values[mine]
        if isinstance(value, BaseException):
            raise value
        return value() if callable(value) else value


class FaceCached:
    """A decorated function of either face."""

    def __init__(self, face: Face, decorated: Any) -> None:
        self._face = face
        self.decorated = decorated

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self._face.call(self.decorated, *args, **kwargs)

    async def invalidate(self, *args: Any, **kwargs: Any) -> Receipt:
        receipt: Receipt = await self._face.call(self.decorated.invalidate, *args, **kwargs)
        return receipt

    def key(self, *args: Any, **kwargs: Any) -> str:
        key: str = self.decorated.key(*args, **kwargs)
        return key


class Face:
    """A cache of either face: `await face.get(key)`, whichever it is."""

    def __init__(self, cache: Cache | AsyncCache, threads: ThreadPoolExecutor, loaders: list[Loader]) -> None:
        self.cache: Any = cache
        self.kind: Kind = "async" if isinstance(cache, AsyncCache) else "sync"
        self._threads = threads
        self._loaders = loaders

    def __repr__(self) -> str:
        return f"<Face of {self.cache!r}>"

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(self.call, getattr(self.cache, name))

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method as this face is called."""
        if self.kind == "async":
            return await function(*args, **kwargs)
        work = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def start(self, name: str, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Begin a call, and go on beside it."""
        return asyncio.create_task(self._named(name, *args, **kwargs))

    async def _named(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await self.call(getattr(self.cache, name), *args, **kwargs)

    def loader(self, *values: Any, held: bool = False) -> Loader:
        """Make a loader, see `Loader`."""
        loader = Loader(self.kind, values, held)
        self._loaders.append(loader)
        return loader

    def cached(self, function: Callable[..., Any], **options: Any) -> FaceCached:
        """Decorate a plain function; for the asynchronous face it is made a coroutine function first."""
        return FaceCached(self, self.cache.cached(**options)(self.fitting(function)))

    def fitting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make a plain function one that this face decorates."""
        if self.kind == "sync":
            return function

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return coroutine

    def with_prefix(self, prefix: str) -> Face:
        return Face(self.cache.with_prefix(prefix), self._threads, self._loaders)

    def stats(self, prefix: str = "") -> CounterSnapshot:
        """Return what was counted under a prefix."""
        found: CounterSnapshot = self.cache.stats()[prefix]
        return found

    @property
    def events(self) -> Events:
        events: Events = self.cache.events
        return events

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen to other processes while the block runs."""
        if self.kind == "async":
            async with self.cache.listen():
                yield
            return
        listening = self.cache.listen()
        await self.call(listening.__enter__)
        try:
            yield
        finally:
            await self.call(listening.__exit__, None, None, None)


class Faces:
    """Makes caches of one face, and closes them all in the end."""

    def __init__(self, kind: Kind, url: str) -> None:
        self.kind = kind
        self._url = url
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="test")
        self._made: list[Face] = []
        self._loaders: list[Loader] = []

    def make(self, url: str = "", **options: Any) -> Face:
        """Make a cache, as if in a process of its own: it shares no load with others."""
        options = {"timeout": CALM, "patient_timeout": 2 * CALM, **options}
        kind: Any = AsyncCache if self.kind == "async" else Cache
        face = Face(kind.from_url(url or self._url, **options), self._threads, self._loaders)
        self._made.append(face)
        return face

    async def close(self) -> None:
        for loader in self._loaders:
            loader.let_go()
        await cancel_what_runs()
        for face in self._made:
            await face.close()
        self._threads.shutdown()


@asynccontextmanager
async def open_faces(kind: Kind, url: str) -> AsyncIterator[Faces]:
    """Give what makes caches of a face, for the length of a block."""
    faces = Faces(kind, url)
    try:
        yield faces
    finally:
        await faces.close()
