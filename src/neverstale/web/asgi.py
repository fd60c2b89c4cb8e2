"""`ResponseCacheMiddleware`: a shared cache for the answers of one application, as pure ASGI.

What is decided is in `neverstale.responses`; this asks the cache and the application, in this order:

1. Is it a GET or HEAD that a rule, a marked endpoint or (without rules) its answer's own headers may make cacheable?
   If not, it goes to the application untouched. What changes something invalidates.
2. Look: the base entry of the request's key, in one round trip. Where answers differ by request headers or by user,
   the base leads to the entry of this variant. Its key has the base's random id in it: whatever deletes the base makes
   all variants unreachable.
3. A usable answer is given, perhaps as 304, perhaps renewed in the background.
4. Else the application is asked, under the lease of that entry: once for all who wait (`run`). Whoever gets the
   answer that another has caused looks whether it is for them: headers, user, session. If not, they ask for themselves.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias
from uuid import UUID

from neverstale import AsyncCache
from neverstale.base import MISS, Found
from neverstale.core.keys import check_tags
from neverstale.errors import HeldOff, UsageError
from neverstale.lifetime import DAY_MS, Lifetime
from neverstale.limits import Limits
from neverstale.loading import Answer
from neverstale.responses.fields import Headers
from neverstale.responses.keys import NOTHING, answer_key, variant_key, without
from neverstale.responses.requests import Request, selected
from neverstale.responses.rules import Options, Rule, RuleBook
from neverstale.responses.serving import (
    Use,
    falls_back,
    judge,
    left,
    validators,
)
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

from .changes import Changes, Naming
from .giving import Call, Giver
from .routes import Marked, cache_response
from .run import App, Client, HandlerFailed, Message, Receive, Run, Scope, Send, Verdict

__all__ = ["ResponseCacheMiddleware", "Rule", "answer_key", "cache_response"]

log = logging.getLogger("neverstale.web")

#: A cache, or a function of the scope that returns one (None: not now): some applications make it while they start.
CacheOrMaker: TypeAlias = "AsyncCache | Callable[[Scope], AsyncCache | None]"

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
#: What a run for several clients does not hear of: it answers as a whole, to a request without conditions.
_NOT_ASKED: Final = frozenset(
    (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range", b"range")
)
#: So many keys are remembered whose answers could not be stored; the oldest are forgotten.
_UNKEPT: Final = 10_000
#: So many caches are known, if a function returns several: one for each tenant, perhaps.
_VIEWS: Final = 100


class ResponseCacheMiddleware:
    """Cache the answers of an ASGI application in Redis.

    With rules, paths without one are not touched; endpoints marked by `cache_response` are found by themselves.
    Without rules, whatever the headers of an answer make cacheable is cached (RFC 9111), and nothing else.

    Never stored, and never served across users: answers that set cookies; to requests with `Authorization` or a
    session, unless a rule says `public` or `per_user` or (without rules) the answer's `Cache-Control` does.

    Redis away or slow costs a request milliseconds: it goes to the handler.

    Args:
        app: the application.
        cache: a cache, or a function of the ASGI scope that returns one, or None for a request that is not to be
            cached.
        rules: what is cached; None: what the answers' own headers say.
        prefix: of the keys.
        name: stands in `Cache-Status`; empty: none is sent.
        session_cookies: names of the cookies that make a session. None: any cookie does.
        ignore_reload: whether a client's `no-cache`, `no-store` and `max-age` count for nothing: they are a way to
            have handlers run again and again.
        host_in_key: whether scheme and host are part of keys. None: without rules. With rules, answers must not
            depend on the host that a client names (or a rule has vary=["host"]): see docs/responses.md.
        max_body_bytes: larger ones are not stored. 1 MB: larger answers are files, which are better served otherwise.
        validators: whether `ETag` and `Last-Modified` are made for answers that have none.
        heuristics: without rules: whether an answer that says nothing is fresh for a tenth of the time since it
            changed.
        keep: without rules: seconds past its time that an answer is kept that its handler can validate.
        stale_if_error: without rules: seconds past its time that an answer is served if the handler fails, where the
            answer itself says nothing of it.
        targeted: without rules: header fields stronger than `Cache-Control`, the strongest first (RFC 9213): this
            cache acts for the origin, as a CDN does.
        uncacheable_for: seconds for which nobody waits for an answer that could not be stored the last time.
        wait_limit: seconds that a client waits for the run that another has caused, then it has one of its own. 25:
            below the 30 s after which proxies commonly give up; after a shorter time all who wait for a slow handler
            would have it run at once.

    Raises:
        UsageError: an argument is wrong.
    """

    def __init__(
        self,
        app: App,
        cache: CacheOrMaker,
        rules: Iterable[Rule] | None = None,
        *,
        prefix: str = "api:",
        name: str = "neverstale",
        session_cookies: Iterable[str] | None = None,
        ignore_reload: bool = False,
        host_in_key: bool | None = None,
        max_body_bytes: int = 1_000_000,
        validators: bool = True,
        heuristics: bool = False,
        keep: float = 3600.0,
        stale_if_error: float = 0.0,
        targeted: Iterable[str] = ("CDN-Cache-Control",),
        uncacheable_for: float = 5.0,
        wait_limit: float = 25.0,
    ) -> None:
        if not isinstance(cache, AsyncCache) and not callable(cache):
            raise UsageError(
                f"cache is an AsyncCache, or a function that returns one: not {type(cache).__name__}"
            )
        if isinstance(session_cookies, str) or isinstance(targeted, str):
            raise UsageError("session_cookies and targeted are lists of names, not one string")
        if not callable(app):
            raise UsageError("app is an ASGI application")
        self.app = app
        self._given = cache
        self._views: dict[int, tuple[AsyncCache, AsyncCache, StoredSealer]] = {}
        self._book = RuleBook(() if rules is None else rules)
        self._by_headers = rules is None
        self._prefix = prefix
        self._name = name
        self._sessions = (
            None if session_cookies is None else frozenset(each.encode() for each in session_cookies)
        )
        self._obey = not ignore_reload
        self._naming = Naming(self._by_headers if host_in_key is None else host_in_key)
        self._giver = Giver(name)
        self._most = max_body_bytes
        self._validators = validators
        self._policy = HeaderPolicy(
            heuristics,
            min(round(keep * 1000), DAY_MS),
            min(round(stale_if_error * 1000), DAY_MS),
            tuple(each.lower().encode() for each in targeted),
        )
        self._marked = Marked(app)
        self._unkept_for = uncacheable_for
        self._wait_limit = wait_limit
        # By the hashes of their keys: clients make these, of any length.
        self._unkept: dict[int, float] = {}
        self._changes = Changes(app, self._naming, name)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._live(scope, receive, send)
                return
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        method = scope["method"]
        rule = self._book.find(path) if len(self._book) else None
        if method not in _SAFE:
            if rule is not None or self._by_headers:
                await self._change(scope, receive, send, rule)
            else:
                await self.app(scope, receive, send)
            return
        found: tuple[Options, Mapping[str, Any]] | None = rule or self._marked.find(scope)
        options = None if found is None else found[0]
        if (
            method not in ("GET", "HEAD")
            or not path.startswith("/")
            or (options is None and not self._by_headers)
            or (options is not None and options.lifetime is None)
        ):
            await self.app(scope, receive, send)
            return
        cache = self._view(scope)
        if cache is None:
            await self.app(scope, receive, send)
            return
        tags = () if found is None else found[0].tags_for(found[1])
        request = Request(scope["headers"], self._sessions)
        if _is_known(scope):
            request.session = True
        owner = await self._may_ask(scope, request, options)
        if owner is None or tags is None:
            await self._giver.bypass(self.app, scope, receive, send, "fwd=bypass")
            return
        try:
            key = self._naming.key(scope, NOTHING if options is None else options.ignored)
        except UnicodeEncodeError:
            await self._giver.bypass(self.app, scope, receive, send, "fwd=bypass")
            return
        await self._answer(Call(cache[0], scope, receive, send, request, options, tags, key, owner), cache[1])

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application end only after what its handlers do after their answers, as a server does."""

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._changes.close()
            return message

        await self.app(scope, receiving, send)

    async def _change(
        self, scope: Scope, receive: Receive, send: Send, rule: tuple[Rule, dict[str, Any]] | None
    ) -> None:
        view = self._view(scope)
        if view is None:
            await self.app(scope, receive, send)
            return
        options = rule or self._marked.find(scope)
        ignored = NOTHING if options is None else options[0].ignored
        await self._changes.hand_on(view[0], scope, receive, send, rule, ignored)

    # --- before looking -----------------------------------------------------------------------------------------

    def _view(self, scope: Scope) -> tuple[AsyncCache, StoredSealer] | None:
        given = self._given if isinstance(self._given, AsyncCache) else self._given(scope)
        if given is None:
            return None
        known = self._views.get(id(given))
        if known is None or known[0] is not given:
            view = given.with_prefix(self._prefix)
            settings = given.settings
            sealer = StoredSealer(
                compress_above=settings.compress_above, max_value_bytes=settings.max_value_bytes
            )
            known = (given, view, sealer)
            if len(self._views) >= _VIEWS:
                self._views.clear()
            self._views[id(given)] = known
        return known[1], known[2]

    async def _may_ask(self, scope: Scope, request: Request, options: Options | None) -> bytes | None:
        """Return for whom to look: b"" for nobody in particular, None for a request that passes by the cache."""
        if request.passes or (self._obey and "no-store" in request.control):
            return None
        if options is None or options.public:
            return b""
        if options.per_user is not None:
            user: Any = options.per_user(scope)
            if inspect.isawaitable(user):
                user = await user
            if user is None or (isinstance(user, str) and not user):
                return None
            if isinstance(user, bool) or not isinstance(user, str | int | UUID):
                # Two users whose texts are the same would be one.
                raise UsageError(
                    f"per_user returns a user's id (text, a number, a UUID) or None: not {type(user).__name__}"
                )
            return hashlib.blake2b(str(user).encode(errors="surrogatepass"), digest_size=16).digest()
        return None if request.authorized or request.session else b""

    # --- looking --------------------------------------------------------------------------------------------------

    async def _answer(self, call: Call, sealer: StoredSealer, base: Stored | None = None) -> None:
        """Answer from the cache or, if it has nothing, from the handler.

        Args:
            base: the base entry, where another's run has just made it: in Redis it may not be yet.
        """
        cache, request = call.cache, call.request
        key, ident, missing = call.key, "", "uri-miss"
        if call.owner:
            ident = await self._base_of_users(call, sealer)
            assert call.options is not None
            what = b"user:" + call.owner + selected(request.headers, call.options.vary_names)
            key = variant_key(call.key, ident, what)
        found = Found(MISS, None)
        if base is None:
            found = await cache._find(key, sealer, call.tags)
            base = None if found.value is MISS else found.value
        stored = base
        if base is not None and base.flags & Flag.PER_USER:
            # A rule has changed: the fact that stands there is of another one.
            stored = None
        elif base is not None and not _selects(base, request):
            if not call.owner:
                ident, missing = base.ident, "vary-miss"
                key = variant_key(call.key, ident, _digest(base, request))
                found = await cache._find(key, sealer, call.tags)
                stored = None if found.value is MISS else found.value
            if stored is not None and not _selects(stored, request):
                # The handler selects by yet other headers than last time: its newest answer counts.
                stored = None
        now = _now_ms()
        if stored is None:
            await self._fetch(call, sealer, key, ident, found, None, f"fwd={missing}", fallback=False)
            return
        use = judge(stored, request, now, obey=self._obey, owner=call.owner)
        if use is Use.HIT or use is Use.STALE:
            if use is Use.STALE:
                cache._counters.stale_hits += 1
                self._renew(call, sealer, key, found, stored)
            else:
                cache._counters.hits += 1
            await self._giver.stored(call, stored, now, "hit", f"ttl={left(stored, now)}")
        elif use is Use.CLOSED:
            await self._giver.bypass(self.app, call.scope, call.receive, call.send, "fwd=bypass")
        else:
            fallback = use is Use.VALIDATE and falls_back(stored, now)
            why = "fwd=stale" if use is Use.VALIDATE else "fwd=request"
            await self._fetch(call, sealer, key, stored.ident, found, stored, why, fallback=fallback)

    async def _base_of_users(self, call: Call, sealer: StoredSealer) -> str:
        """Return the id of the entry that says that answers differ by user: theirs hang on it."""
        found = await call.cache._find(call.key, sealer, call.tags)
        marker = found.value
        if marker is MISS or not marker.flags & Flag.PER_USER:
            marker = await call.cache._load(
                call.key,
                lambda: Stored(new_ident(), Flag.PER_USER),
                # It outlives what hangs on it.
                Lifetime(DAY_MS),
                call.tags,
                sealer,
                found,
                renew=marker is not MISS,
            )
        ident: str = marker.ident
        return ident

    # --- asking the handler -----------------------------------------------------------------------------------------

    async def _fetch(
        self,
        call: Call,
        sealer: StoredSealer,
        key: str,
        ident: str,
        found: Found,
        stored: Stored | None,
        why: str,
        *,
        fallback: bool,
    ) -> None:
        """Have an answer made, under the lease of its entry, and give it; or what there was, if that fails."""
        cache, request = call.cache, call.request
        cache._counters.misses += 1
        if "only-if-cached" in request.control:
            await self._giver.refusal(call, why)
            return
        if call.scope["method"] == "HEAD" and call.options is None:
            # Whether the handler knows HEAD, and what it says then, is its own matter.
            await self._giver.bypass(self.app, call.scope, call.receive, call.send, why)
            return
        client = Client(call.receive)
        personal = request.session or request.authorized
        loading = asyncio.ensure_future(
            cache._load(
                key,
                self._loader(call, sealer, key, ident, found, stored, client, fallback),
                Lifetime(1),
                call.tags,
                sealer,
                found,
                renew=found.value is not MISS,
                wait=not self._is_unkept(key, personal),
                fallback=fallback,
                limits=Limits(round(cache.settings.lease_ttl * 1000), self._wait_limit),
            )
        )
        try:
            await asyncio.wait((loading, client.live), return_when=asyncio.FIRST_COMPLETED)
            if client.live.done():
                loading.add_done_callback(_seen)
                await client.pump(call.send, self._giver.changing(call, why))
                return
            value = loading.result()
            if call.failed is not None:
                raise call.failed
        except asyncio.CancelledError:
            loading.add_done_callback(_seen)
            client.leave()
            raise
        except HeldOff as held:
            await self._giver.fallback(call, stored, why, held, _now_ms())
            return
        except HandlerFailed as failed:
            if fallback:
                await self._giver.fallback(call, stored, why, failed, _now_ms())
            else:
                await self._giver.bypass(self.app, call.scope, call.receive, call.send, why)
            return
        except Exception as error:
            # What has begun to be sent cannot be taken back.
            if not fallback or client.live.done():
                raise
            await self._giver.fallback(call, stored, why, error, _now_ms())
            return
        finally:
            if client.live.done():
                client.leave()
        now = _now_ms()
        call.kept = call.kept and found.seen is not None  # without Redis nothing is
        if call.run is not None:
            await self._giver.own(call, why)
            return
        shared = value
        if isinstance(shared, Stored) and not shared.flags & Flag.PER_USER:
            if not _selects(shared, request):
                if key == call.key and not call.again:
                    # Now that it is known what answers differ by, there is a variant to look for, or to wait for.
                    call.again = True
                    await self._answer(call, sealer, shared)
                    return
            elif judge(shared, request, now, obey=False, owner=call.owner) in (Use.HIT, Use.STALE):
                await self._giver.stored(call, shared, now, why, "collapsed")
                return
        await self._giver.bypass(self.app, call.scope, call.receive, call.send, why)

    def _loader(
        self,
        call: Call,
        sealer: StoredSealer,
        key: str,
        ident: str,
        found: Found,
        stored: Stored | None,
        client: Client | None,
        fallback: bool,
    ) -> Callable[[], Any]:
        """Return what asks the handler and makes of its answer what is stored."""
        scope, asked = self._shared_scope(call, stored)

        async def load() -> Answer:
            chosen = ident or new_ident()
            if stored is not None and key == call.key:
                # Under the lease: what was deleted since it was read, with all its variants, must not come back by
                # its id. If it is there still, whatever deletes it from now on cancels this load's fill, too.
                now_there = (await call.cache._find(key, sealer, call.tags)).value
                if now_there is MISS or now_there.ident != ident:
                    chosen = new_ident()
            began = _now_ms()
            personal = call.request.session or call.request.authorized
            keep: Keep | None = None

            def verdict(status: int, headers: list[tuple[bytes, bytes]]) -> Verdict:
                nonlocal keep
                if stored is not None and asked and status == 304:
                    return Verdict.COLLECT
                if fallback and status in FAILURES:
                    return Verdict.FAILED
                keep = self._judge(status, headers, call, began)
                return Verdict.PASS if keep is None else Verdict.COLLECT

            run = Run(self.app, scope, verdict, self._most, client, self._tasks)
            if client is not None:
                call.run = run
            try:
                whole = await run.collect()
            except Exception as error:
                if client is None or not self._is_personal(call):
                    raise
                # How it failed for a user is no answer for those who wait.
                call.failed = error
                return Answer(None, keep=False, forget=False)
            now = _now_ms()
            headers = run.headers
            names = tags_in(headers)
            if whole and stored is not None and asked and run.status == 304:
                headers = merge(stored, run.headers)
                run.status, run.headers, run._chunks = stored.status, headers, [stored.body]
                keep = self._judge(run.status, headers, call, began)
                # The answer is the old one: what has made that invalid makes it so still.
                if found.seen is not None and found.seen.entry is not None:
                    names += tuple(tag for tag, _ in found.seen.entry.stamps)
            elif whole and not is_whole(headers, len(run.body)):
                log.warning("the answer to %r is not stored: it is not as long as it says", key)
                keep = None
            if not whole or keep is None or not _are_tags(names, key):
                self._note_unkept(key, personal)
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

    def _judge(self, status: int, headers: Headers, call: Call, began: int) -> Keep | None:
        now = _now_ms()
        # By whatever cookie, or without one as yet.
        call.request.session |= _looked_at_session(call.scope)
        if call.options is None:
            return by_headers(status, headers, call.request, self._policy, began, now)
        if self._is_personal(call):
            return None  # it should not have come so far: what would be stored here may be a user's
        return by_rule(status, headers, call.options, began, now)

    @staticmethod
    def _is_personal(call: Call) -> bool:
        """Return whether a user asks, and nothing said before says what others have to do with that."""
        if not (call.request.session or call.request.authorized):
            return False
        return not call.owner and (call.options is None or not call.options.public)

    def _shared_scope(self, call: Call, stored: Stored | None) -> tuple[Scope, bool]:
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

    def _renew(self, call: Call, sealer: StoredSealer, key: str, found: Found, stored: Stored) -> None:
        """Have an answer renewed in the background, while it is served."""
        load = self._loader(call, sealer, key, stored.ident, found, stored, None, True)
        call.cache._renew(key, load, Lifetime(1), call.tags, sealer, found)

    def _is_unkept(self, key: str, personal: bool) -> bool:
        until = self._unkept.get(hash((key, personal)))
        return until is not None and until > time.monotonic()

    def _note_unkept(self, key: str, personal: bool) -> None:
        name = hash((key, personal))
        self._unkept.pop(name, None)
        self._unkept[name] = time.monotonic() + self._unkept_for
        while len(self._unkept) > _UNKEPT:
            with suppress(KeyError, StopIteration, RuntimeError):
                del self._unkept[next(iter(self._unkept))]


def _looked_at_session(scope: Scope) -> bool:
    """Return whether the handler has looked at `request.session` or `request.state.session`, where these say so.

    Those of Neverstale and of Starlette do. An answer that depends on a session says that in its headers only further
    out, if the middleware of sessions is further out than this one.
    """
    state = scope.get("state")
    handle = state.get("session") if isinstance(state, Mapping) else None
    return any(getattr(each, "accessed", False) is True for each in (scope.get("session"), handle))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _is_known(scope: Scope) -> bool:
    """Return whether something outside of here has found out who asks, by whatever means."""
    if getattr(scope.get("user"), "is_authenticated", False):
        return True
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return bool(tls.get("client_cert_name") or tls.get("client_cert_chain"))


def _selects(stored: Stored, request: Request) -> bool:
    return not stored.vary or selected(request.headers, stored.vary) == stored.selected


def _digest(stored: Stored, request: Request) -> bytes:
    return b"vary:" + b",".join(stored.vary) + b":" + selected(request.headers, stored.vary)


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
