"""Bring the invalidations of other processes to this one's subscribers, by Redis' publish and subscribe.

Events are news: what is published while the connection is away is lost, and nothing that is cached depends on it. A
lost connection is logged, and made again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from .announce import Announcer
from .clients import REDIS_ERRORS, AsyncConnections, Connections

__all__ = ["listening", "listening_async"]

logger = logging.getLogger("neverstale")

#: How long one wait for a message lasts, in seconds: so long may the end of listening take.
_POLL: Final = 0.25
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0


@contextmanager
def listening(connections: Connections, announcer: Announcer) -> Generator[None, None, None]:
    """Listen on a thread while the block runs; subscribed when it begins, if Redis is there."""
    over, tried = threading.Event(), threading.Event()

    def listen() -> None:
        pause = _FIRST_PAUSE
        while not over.is_set():
            subscription = None
            try:
                client: Any = connections.patient
                if connections.is_cluster:  # what is published on one node reaches all
                    client = client.get_redis_connection(random.choice(client.get_nodes()))
                subscription = client.pubsub()
                subscription.subscribe(announcer.channel)
                while not over.is_set():
                    message = subscription.get_message(timeout=_POLL)
                    if message is not None and message["type"] == "message":
                        announcer.hear(message["data"])
                    elif message is not None:
                        pause = _FIRST_PAUSE
                        tried.set()
            except REDIS_ERRORS as error:
                logger.warning("invalidations of other processes are not heard: %s", error)
            finally:
                tried.set()
                if subscription is not None:
                    with contextlib.suppress(*REDIS_ERRORS):
                        subscription.close()
            over.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    thread = threading.Thread(target=listen, name="neverstale-listen", daemon=True)
    thread.start()
    try:
        tried.wait(connections.settings.patient_timeout)
        yield
    finally:
        over.set()
        thread.join()


@asynccontextmanager
async def listening_async(connections: AsyncConnections, announcer: Announcer) -> AsyncGenerator[None, None]:
    """Listen in a task while the block runs; subscribed when it begins, if Redis is there."""
    tried = asyncio.Event()

    async def listen() -> None:
        pause = _FIRST_PAUSE
        while True:
            subscription = None
            try:
                client: Any = connections.patient
                if connections.is_cluster:
                    await client.initialize()
                    client = client.get_redis_connection(random.choice(client.get_nodes()))
                subscription = client.pubsub()
                await subscription.subscribe(announcer.channel)
                while True:
                    message = await subscription.get_message(timeout=_POLL)
                    if message is not None and message["type"] == "message":
                        announcer.hear(message["data"])
                    elif message is not None:
                        pause = _FIRST_PAUSE
                        tried.set()
            except REDIS_ERRORS as error:
                logger.warning("invalidations of other processes are not heard: %s", error)
            finally:
                tried.set()
                if subscription is not None:
                    with contextlib.suppress(*REDIS_ERRORS):
                        await subscription.aclose()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    task = asyncio.create_task(listen())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(connections.settings.patient_timeout):
                await tried.wait()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
