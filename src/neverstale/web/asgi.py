"""`ResponseCacheMiddleware`: a shared cache for the answers of one application, as pure ASGI.

What is decided is in `neverstale.responses`; this asks the cache and the application, in this order:

1. Is it a GET or HEAD that a rule, a marked endpoint or (without rules) its answer's own headers may make cacheable?
   If not, it goes to the application untouched. What changes something invalidates.
2. Look: the base entry of the request's key, in one round trip. Where answers differ by request headers or by user,
   the base leads to the entry of this variant. Its key has the base's random id in it: whatever deletes the base makes
   all variants unreachable.
3. A usable answer is given, perhaps as 304, perhaps renewed in the background.
4. Else the application is asked (`asking`).
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

from neverstale import AsyncCache
from neverstale.base import MISS, Found
from neverstale.errors import UsageError
from neverstale.lifetime import DAY_MS, Lifetime
from neverstale.responses.keys import NOTHING, answer_key, variant_key
from neverstale.responses.requests import Request, selected
from neverstale.responses.rules import Options, Rule, RuleBook
from neverstale.responses.serving import Use, falls_back, judge, left, selects
from neverstale.responses.stored import Flag, Stored, StoredSealer, new_ident
from neverstale.responses.storing import HeaderPolicy

from .asking import Asker, Place, Unkept, now_ms
from .changes import Changes, Naming
from .giving import Call, Giver
from .routes import Marked, cache_response
from .run import App, Message, Receive, Scope, Send

__all__ = ["ResponseCacheMiddleware", "Rule", "answer_key", "cache_response"]

#: A cache, or a function of the scope that returns one (None: not now): some applications make it while they start.
CacheOrMaker: TypeAlias = "AsyncCache | Callable[[Scope], AsyncCache | None]"

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
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
        policy = HeaderPolicy(
            heuristics,
            min(round(keep * 1000), DAY_MS),
            min(round(stale_if_error * 1000), DAY_MS),
            tuple(each.lower().encode() for each in targeted),
        )
        self._asker = Asker(
            app,
            self._giver,
            policy,
            most=max_body_bytes,
            validators=validators,
            unkept=Unkept(uncacheable_for),
            wait_limit=wait_limit,
        )
        self._marked = Marked(app)
        self._changes = Changes(app, self._naming, name)

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
                await self._asker.settle()
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
        elif base is not None and not selects(base, request):
            if not call.owner:
                ident, missing = base.ident, "vary-miss"
                key = variant_key(call.key, ident, _digest(base, request))
                found = await cache._find(key, sealer, call.tags)
                stored = None if found.value is MISS else found.value
            if stored is not None and not selects(stored, request):
                # The handler selects by yet other headers than last time: its newest answer counts.
                stored = None
        now = now_ms()
        if stored is None:
            why, fallback = f"fwd={missing}", False
        else:
            use = judge(stored, request, now, obey=self._obey, owner=call.owner)
            if use is Use.HIT or use is Use.STALE:
                if use is Use.STALE:
                    cache._counters.stale_hits += 1
                    self._asker.renew(call, Place(sealer, key, stored.ident, found, stored))
                else:
                    cache._counters.hits += 1
                await self._giver.stored(call, stored, now, "hit", f"ttl={left(stored, now)}")
                return
            if use is Use.CLOSED:
                await self._giver.bypass(self.app, call.scope, call.receive, call.send, "fwd=bypass")
                return
            ident = stored.ident
            why = "fwd=stale" if use is Use.VALIDATE else "fwd=request"
            fallback = use is Use.VALIDATE and falls_back(stored, now)
        newer = await self._asker.fetch(
            call, Place(sealer, key, ident, found, stored), why, fallback=fallback
        )
        if newer is not None:
            await self._answer(call, sealer, newer)

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


def _is_known(scope: Scope) -> bool:
    """Return whether something outside of here has found out who asks, by whatever means."""
    if getattr(scope.get("user"), "is_authenticated", False):
        return True
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return bool(tls.get("client_cert_name") or tls.get("client_cert_chain"))


def _digest(stored: Stored, request: Request) -> bytes:
    return b"vary:" + b",".join(stored.vary) + b":" + selected(request.headers, stored.vary)
