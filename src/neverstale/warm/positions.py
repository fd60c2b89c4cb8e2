"""Where a run of warming notes which jobs are done, so that the next run goes on after a kill.

A position is a hint. Lost, it costs reading again what is in the cache; and a job that it names is not run again,
although an invalidation may have removed what it had filled: then the first reader fills it. So it does not live long.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from neverstale.cache import Cache
from neverstale.cache_async import AsyncCache
from neverstale.core.calls import Enlist
from neverstale.core.commands import Drop, Flow, Together
from neverstale.core.swap import Members
from neverstale.errors import RedisUnavailable, UsageError

__all__ = ["FilePosition", "Position", "RedisPosition"]

logger = logging.getLogger("neverstale")

#: One hour: as long as entries live by default, so what an older position names may be gone.
_LIFE: Final = 3600.0


class Position(Protocol):
    """What a run asks of a position."""

    async def load(self) -> set[str]:
        """Return the names of the jobs that are done."""
        ...

    async def add(self, names: Iterable[str]) -> None:
        """Note that more are done."""
        ...

    async def clear(self) -> None:
        """Forget everything: the run is complete."""
        ...


class RedisPosition:
    """A position in the cache's own Redis: found from every machine, and gone when the cache is.

    Redis away is no error: nothing is noted.

    Args:
        cache: whose Redis, namespace and version: another version begins anew.
        run: a name for this kind of run, of the characters A-Z a-z 0-9 _ . -
        life: seconds after the last note for which it is kept, at most a day.

    Raises:
        UsageError: this is no name for a run.
    """

    def __init__(self, cache: Cache | AsyncCache, run: str = "warm", *, life: float = _LIFE) -> None:
        if not re.fullmatch("[A-Za-z0-9_.-]{1,64}", run):
            raise UsageError(f"a run is named by 1 to 64 of the characters A-Z a-z 0-9 _ . -, not {run!r}")
        settings = cache.settings
        space = f"{settings.namespace}:" if settings.namespace else ""
        self._cache = cache
        self._key = f"{space}cache:warm:v{settings.version}:{run}"
        self._life_ms = round(min(life, settings.max_ttl) * 1000)

    async def load(self) -> set[str]:
        """Return the names of the jobs that are done."""
        found = await self._run(self._load())
        return {name.decode() for name in found or ()}

    async def add(self, names: Iterable[str]) -> None:
        """Note that more are done."""
        await self._run(self._add(tuple(names)))

    async def clear(self) -> None:
        """Forget everything: the run is complete."""
        await self._run(self._clear())

    async def _run(self, flow: Flow[Any]) -> Any:
        try:
            if isinstance(self._cache, AsyncCache):
                return await self._cache._driver.run(flow, self._cache._counters, patient=True)
            driver, counters = self._cache._driver, self._cache._counters
            return await asyncio.to_thread(lambda: driver.run(flow, counters, patient=True))
        except RedisUnavailable as problem:
            logger.warning("the position of warming could not be kept: %s", problem)
            return None

    def _load(self) -> Flow[list[bytes]]:
        (members,) = yield from Together((Members(self._key),))
        found: list[bytes] = members
        return found

    def _add(self, names: tuple[str, ...]) -> Flow[None]:
        # The script that lists a tag's entries: the SET and its TTL in one step.
        yield from Together(tuple(Enlist(self._key, name, self._life_ms) for name in names))

    def _clear(self) -> Flow[None]:
        yield from Drop((self._key,))


class FilePosition:
    """A position in a file of this machine.

    Args:
        path: is made when there is something to note, and removed at the end of a complete run.
        about: what it is a position of, such as namespace and version: another text begins anew.
        life: seconds after its beginning for which it counts.
    """

    def __init__(self, path: Path | str, about: str = "", *, life: float = _LIFE) -> None:
        self._path = Path(path)
        self._about = about
        self._life = life
        self._begun = False

    async def load(self) -> set[str]:
        """Return the names of the jobs that are done.

        Raises:
            OSError: the file is there and cannot be read.
        """
        return await asyncio.to_thread(self._load)

    async def add(self, names: Iterable[str]) -> None:
        """Note that more are done; raises OSError."""
        await asyncio.to_thread(self._add, tuple(names))

    async def clear(self) -> None:
        """Forget everything: the run is complete."""
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _load(self) -> set[str]:
        if not self._path.exists():
            return set()
        first, *lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        with suppress(ValueError, TypeError, KeyError):
            head = json.loads(first)
            if head["about"] == self._about and 0 <= time.time() - head["began"] < self._life:
                self._begun = True
        if not self._begun:
            return set()
        found = set()
        for line in lines:
            # The last line may be half of one.
            with suppress(ValueError):
                found.add(str(json.loads(line)))
        return found

    def _add(self, names: tuple[str, ...]) -> None:
        text = "".join(f"{json.dumps(name)}\n" for name in names)
        if not self._begun:
            text = json.dumps({"about": self._about, "began": time.time()}) + "\n" + text
        else:
            # Ends what a kill may have left of a line.
            text = f"\n{text}"
        with self._path.open("a" if self._begun else "w", encoding="utf-8") as file:
            file.write(text)
        self._begun = True
