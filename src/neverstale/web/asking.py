"""Asking the application for an answer, once for all who want it, and what becomes of what it says.

Rules:
- It is asked under the lease of the entry that its answer belongs to: one run, for all who wait, here and elsewhere.
- What a run may be shared by hears of no client's conditions, and of no extension that belongs to one connection.
- What is stored is decided by its headers before its body is there (`_keeps`). A user's answer, or failure, that
  nothing makes everybody's is neither stored nor given to those who wait.
- Whoever gets the answer that another has caused looks whether it is for them: headers, user, session. If not, they
  ask for themselves.
- If the handler fails, what was there before is served where that is allowed.
- Nobody waits for an answer that could not be stored the last time (`Unkept`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from neverstale.base import MISS, Found
from neverstale.core.keys import check_tags
from neverstale.errors import HeldOff, UsageError
from neverstale.lifetime import Lifetime
from neverstale.limits import Limits
from neverstale.loading import Answer
from neverstale.responses.fields import Headers
from neverstale.responses.keys import without
from neverstale.responses.serving import Use, judge, selects, validators
from neverstale.responses.stored import Flag, Stored, StoredSealer, new_ident
from neverstale.responses.storing import (
    FAILURES,
    HeaderPolicy,
    Keep,
    by_headers,
    by_rule,
    is_whole,
    make,
    merge,
    tags_in,
)

from .giving import Call, Giver
from .run import App, Client, HandlerFailed, Run, Scope, Verdict

__all__ = ["Asker", "Place", "Unkept", "now_ms"]

log = logging.getLogger("neverstale.web")

#: What a run for several clients does not hear of: it answers as a whole, to a request without conditions.
_NOT_ASKED: Final = frozenset(
    (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range", b"range")
)
#: So many keys are remembered whose answers could not be stored; the oldest are forgotten.
_UNKEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer belongs, and what was found there.

    Attributes:
        sealer: encodes and decodes it.
        key: of the entry.
        ident: of the base entry; empty if there is none yet.
        found: what was read under the key.
        stored: the answer in it, if it is one to this request.
    """

    sealer: StoredSealer
    key: str
    ident: str
    found: Found
    stored: Stored | None


class Unkept:
    """The keys whose answers could not be stored the last time, for users or for all others.

    Args:
        seconds: so long one is remembered.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # By the hashes of their keys: clients make these, of any length.
        self._until: dict[int, float] = {}

    def has(self, key: str, personal: bool) -> bool:
        until = self._until.get(hash((key, personal)))
        return until is not None and until > time.monotonic()

    def note(self, key: str, personal: bool) -> None:
        name = hash((key, personal))
        self._until.pop(name, None)
        self._until[name] = time.monotonic() + self._seconds
        while len(self._until) > _UNKEPT:
            with suppress(KeyError, StopIteration, RuntimeError):
                del self._until[next(iter(self._until))]


class Asker:
    """Has an application make answers.

    Args:
        app: the application.
        giver: sends them.
        policy: what is stored where no rule says it.
        most: bytes of a body that is stored.
        validators: whether `ETag` and `Last-Modified` are made for answers that have none.
        unkept: what nobody waits for.
        wait_limit: seconds that a client waits for the run that another has caused.
    """

    def __init__(
        self,
        app: App,
        giver: Giver,
        policy: HeaderPolicy,
        *,
        most: int,
        validators: bool,
        unkept: Unkept,
        wait_limit: float,
    ) -> None:
        self._app = app
        self._giver = giver
        self._policy = policy
        self._most = most
        self._validators = validators
        self._unkept = unkept
        self._wait_limit = wait_limit
        self._tasks: set[asyncio.Task[None]] = set()

    async def settle(self) -> None:
        """Wait until all handlers have ended that still run: some do something after their answers."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def fetch(self, call: Call, place: Place, why: str, *, fallback: bool) -> Stored | None:
        """Have an answer made, under the lease of its entry, and give it; or what there was, if that fails.

        Args:
            call: the request.
            place: where the answer belongs.
            why: what `Cache-Status` says of why the handler is asked.
            fallback: whether what is stored there may be given if the handler fails.

        Returns:
            None: the client has been answered. Else the base entry that another's run has made, by which it is now
            known what answers differ by: the client has not been answered, and there is a variant to look for.
        """
        cache, request = call.cache, call.request
        key, found, stored = place.key, place.found, place.stored
        cache._counters.misses += 1
        if "only-if-cached" in request.control:
            await self._giver.refusal(call, why)
            return None
        if call.scope["method"] == "HEAD" and call.options is None:
            # Whether the handler knows HEAD, and what it says then, is its own matter.
            await self._giver.bypass(self._app, call.scope, call.receive, call.send, why)
            return None
        client = Client(call.receive)
        personal = request.session or request.authorized
        loading = asyncio.ensure_future(
            cache._load(
                key,
                self._loader(call, place, client, fallback),
                Lifetime(1),
                call.tags,
                place.sealer,
                found,
                renew=found.value is not MISS,
                wait=not self._unkept.has(key, personal),
                fallback=fallback,
                limits=Limits(round(cache.settings.lease_ttl * 1000), self._wait_limit),
            )
        )
        try:
            await asyncio.wait((loading, client.live), return_when=asyncio.FIRST_COMPLETED)
            if client.live.done():
                loading.add_done_callback(_seen)
                await client.pump(call.send, self._giver.changing(call, why))
                return None
            value = loading.result()
            if call.failed is not None:
                raise call.failed
        except asyncio.CancelledError:
            loading.add_done_callback(_seen)
            client.leave()
            raise
        except HeldOff as held:
            await self._giver.fallback(call, stored, why, held, now_ms())
            return None
        except HandlerFailed as failed:
            if fallback:
                await self._giver.fallback(call, stored, why, failed, now_ms())
            else:
                await self._giver.bypass(self._app, call.scope, call.receive, call.send, why)
            return None
        except Exception as error:
            # What has begun to be sent cannot be taken back.
            if not fallback or client.live.done():
                raise
            await self._giver.fallback(call, stored, why, error, now_ms())
            return None
        finally:
            if client.live.done():
                client.leave()
        now = now_ms()
        call.kept = call.kept and found.seen is not None  # without Redis nothing is
        if call.run is not None:
            await self._giver.own(call, why)
            return None
        shared = value
        if isinstance(shared, Stored) and not shared.flags & Flag.PER_USER:
            if not selects(shared, request):
                if key == call.key and not call.again:
                    # Now that it is known what answers differ by, there is a variant to look for, or to wait for.
                    call.again = True
                    return shared
            elif judge(shared, request, now, obey=False, owner=call.owner) in (Use.HIT, Use.STALE):
                await self._giver.stored(call, shared, now, why, "collapsed")
                return None
        await self._giver.bypass(self._app, call.scope, call.receive, call.send, why)
        return None

    def renew(self, call: Call, place: Place) -> None:
        """Have an answer renewed in the background, while it is served."""
        load = self._loader(call, place, None, True)
        call.cache._renew(place.key, load, Lifetime(1), call.tags, place.sealer, place.found)

    def _loader(self, call: Call, place: Place, client: Client | None, fallback: bool) -> Callable[[], Any]:
        """Return what asks the handler and makes of its answer what is stored."""
        key, ident, found, stored = place.key, place.ident, place.found, place.stored
        scope, asked = _shared_scope(call, stored)

        async def load() -> Answer:
            chosen = ident or new_ident()
            if stored is not None and key == call.key:
                # Under the lease: what was deleted since it was read, with all its variants, must not come back by
                # its id. If it is there still, whatever deletes it from now on cancels this load's fill, too.
                now_there = (await call.cache._find(key, place.sealer, call.tags)).value
                if now_there is MISS or now_there.ident != ident:
                    chosen = new_ident()
            began = now_ms()
            personal = call.request.session or call.request.authorized
            keep: Keep | None = None

            def verdict(status: int, headers: list[tuple[bytes, bytes]]) -> Verdict:
                nonlocal keep
                if stored is not None and asked and status == 304:
                    return Verdict.COLLECT
                if fallback and status in FAILURES:
                    return Verdict.FAILED
                keep = self._keeps(status, headers, call, began)
                return Verdict.PASS if keep is None else Verdict.COLLECT

            run = Run(self._app, scope, verdict, self._most, client, self._tasks)
            if client is not None:
                call.run = run
            try:
                whole = await run.collect()
            except Exception as error:
                if client is None or not _is_personal(call):
                    raise
                # How it failed for a user is no answer for those who wait.
                call.failed = error
                return Answer(None, keep=False, forget=False)
            now = now_ms()
            headers = run.headers
            names = tags_in(headers)
            if whole and stored is not None and asked and run.status == 304:
                headers = merge(stored, run.headers)
                run.status, run.headers, run._chunks = stored.status, headers, [stored.body]
                keep = self._keeps(run.status, headers, call, began)
                # The answer is the old one: what has made that invalid makes it so still.
                if found.seen is not None and found.seen.entry is not None:
                    names += tuple(tag for tag, _ in found.seen.entry.stamps)
            elif whole and not is_whole(headers, len(run.body)):
                log.warning("the answer to %r is not stored: it is not as long as it says", key)
                keep = None
            if not whole or keep is None or not _are_tags(names, key):
                self._unkept.note(key, personal)
                # What a user is told for themselves says nothing of what all the others may still be told.
                return Answer(None, keep=False, forget=not personal and run.status not in FAILURES)
            made = make(
                chosen,
                run.status,
                headers,
                run.body,
                keep,
                call.request,
                now,
                owner=call.owner,
                validators=self._validators,
                before=stored,
            )
            call.made, call.kept = made, True
            return Answer(made, keep.life, names)

        return load

    def _keeps(self, status: int, headers: Headers, call: Call, began: int) -> Keep | None:
        """Return how an answer is to be kept; None: not at all."""
        now = now_ms()
        # By whatever cookie, or without one as yet.
        call.request.session |= _looked_at_session(call.scope)
        if call.options is None:
            return by_headers(status, headers, call.request, self._policy, began, now)
        if _is_personal(call):
            return None  # it should not have come so far: what would be stored here may be a user's
        return by_rule(status, headers, call.options, began, now)


def _is_personal(call: Call) -> bool:
    """Return whether a user asks, and nothing said before says what others have to do with that."""
    if not (call.request.session or call.request.authorized):
        return False
    return not call.owner and (call.options is None or not call.options.public)


def _shared_scope(call: Call, stored: Stored | None) -> tuple[Scope, bool]:
    """Return the request for a run that several may share, and whether it only asks if something still holds."""
    scope = call.scope
    headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_ASKED]
    conditions = [] if stored is None else validators(stored)
    extensions = {
        name: value
        for name, value in (scope.get("extensions") or {}).items()
        if not name.startswith("http.response.")
    }
    shared = {
        **scope,
        "method": "GET",
        "headers": [*headers, *conditions],
        "extensions": extensions,
    }
    if call.options is not None and "query_string" in scope:
        shared["query_string"] = without(scope["query_string"], call.options.ignored)
    return shared, bool(conditions)


def _looked_at_session(scope: Scope) -> bool:
    """Return whether the handler has looked at `request.session` or `request.state.session`, where these say so.

    Those of Neverstale and of Starlette do. An answer that depends on a session says that in its headers only further
    out, if the middleware of sessions is further out than this one.
    """
    state = scope.get("state")
    handle = state.get("session") if isinstance(state, Mapping) else None
    return any(getattr(each, "accessed", False) is True for each in (scope.get("session"), handle))


def now_ms() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _are_tags(names: tuple[str, ...], key: str) -> bool:
    """Return whether these can be tags: an answer with others is not stored, for nothing would invalidate it."""
    try:
        check_tags(names)
    except UsageError as error:
        log.warning("the answer to %r is not stored: Cache-Tag: %s", key, error)
        return False
    return True


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at how a task ended that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
