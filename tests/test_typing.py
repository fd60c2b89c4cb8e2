"""What type checkers make of users' code: it is checked by mypy, as strictly as ours.

In the snippets `# is T` says what type a line reveals, and `# error: code` that it must be refused; whatever else mypy
says about a snippet fails its test.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).resolve().parent.parent
HEAD = """
    from __future__ import annotations
    from collections.abc import Iterable
    from dataclasses import dataclass
    from datetime import timedelta
    from typing import Any
    from neverstale import AsyncCache, Cache, add_tags

    cache, acache = Cache(), AsyncCache()

    @dataclass
    class Product:
        id: int
"""

SNIPPETS = {
    "values": """
        reveal_type(cache.get("k"))  # is str | None
        reveal_type(cache.get_many(["a"]))  # is dict[str, str]
        reveal_type(cache.delete("k"))  # is bool
        cache.set("k", "v", ttl=timedelta(hours=1), tags=["t"])
        cache.set("k", 5)  # error: arg-type
        cache.set("k", "v", ttl="5")  # error: arg-type
        cache.get(5)  # error: arg-type
        async def f() -> None:
            reveal_type(await acache.get("k"))  # is str | None
            reveal_type(await acache.get_many(["a"]))  # is dict[str, str]
            reveal_type(await acache.delete("k"))  # is bool
            await acache.set("k", 5)  # error: arg-type
    """,
    "json": """
        reveal_type(cache.get_json("k", Product))  # is Product | None
        reveal_type(cache.get_json("k", type=Product))  # is Product | None
        reveal_type(cache.get_json("k", Product, Product(1)))  # is Product
        reveal_type(cache.get_json("k", type=list[Product]))  # is list[Product] | None
        reveal_type(cache.get_json("k"))  # is Any
        cache.set_json("k", Product(1))
        async def f() -> None:
            reveal_type(await acache.get_json("k", Product))  # is Product | None
            reveal_type(await acache.get_json("k", Product, Product(1)))  # is Product
            reveal_type(await acache.get_json("k"))  # is Any
    """,
    "loads": """
        def load() -> Product:
            add_tags("products")
            return Product(5)
        reveal_type(cache.get_or_load("k", load))  # is Product
        reveal_type(cache.get_or_load("k", load, ttl=5, tags=["t"], type=Product, soft_ttl=1))  # is Product
        reveal_type(cache.get_or_load("k", lambda: 5))  # is int
        cache.get_or_load("k", 5)  # error: arg-type
    """,
    "loads by coroutines": """
        async def load() -> Product:
            return Product(5)
        async def f() -> Product:
            reveal_type(await acache.get_or_load("k", load))  # is Product
            reveal_type(await acache.get_or_load("k", lambda: load(), type=Product))  # is Product
            return await acache.get_or_load("k", load)
    """,
    "loads by plain functions, asynchronous face": """
        def load() -> Product:
            return Product(5)
        async def f() -> Product:
            reveal_type(await acache.get_or_load("k", load))  # is Product
            return await acache.get_or_load("k", load)
    """,
    "decorated": """
        @cache.cached(ttl=60, tags=lambda id, lang="en": [f"product:{id}"])
        def product(id: int, lang: str = "en") -> Product:
            return Product(id)
        reveal_type(product(5))  # is Product
        reveal_type(product(5, lang="de"))  # is Product
        reveal_type(product.invalidate(5).removed)  # is int
        reveal_type(product.key(5, "de"))  # is str
        product("5")  # error: arg-type
        product()  # error: call-arg
        product(5, tongue="de")  # error: call-arg
        product.invalidate("5")  # error: arg-type
        product.key()  # error: call-arg
    """,
    "decorated coroutines": """
        @acache.cached(ttl=60, tags=["products"])
        async def product(id: int, lang: str = "en") -> Product:
            return Product(id)
        async def f() -> None:
            reveal_type(await product(5))  # is Product
            reveal_type((await product.invalidate(5, lang="de")).removed)  # is int
            reveal_type(product.key(5))  # is str
            await product("5")  # error: arg-type
            await product(5, tongue="de")  # error: call-arg
            await product.invalidate()  # error: call-arg
    """,
    "decorated methods": """
        @dataclass
        class Shop:
            name: str
            @cache.cached()
            def price(self, id: int) -> float:
                return 1.5
            @staticmethod
            @cache.cached()
            def rate(currency: str) -> float:
                return 1.5
        shop = Shop("north")
        reveal_type(shop.price(5))  # is float
        reveal_type(shop.price.invalidate(5).removed)  # is int
        reveal_type(shop.price.key(5))  # is str
        reveal_type(Shop.price(shop, 5))  # is float
        reveal_type(Shop.rate("CHF"))  # is float
        shop.price("5")  # error: arg-type
        shop.price.invalidate()  # error: call-arg
        shop.price(shop, 5)  # error: call-arg, arg-type
    """,
    "decorated coroutine methods": """
        @dataclass
        class Shop:
            name: str
            @acache.cached(soft_ttl=5)
            async def price(self, id: int) -> float:
                return 1.5
        async def f(shop: Shop) -> None:
            reveal_type(await shop.price(5))  # is float
            reveal_type((await shop.price.invalidate(5)).removed)  # is int
            await shop.price("5")  # error: arg-type
    """,
    "the wrong kind of function": """
        @acache.cached()  # error: arg-type
        def product(id: int) -> Product:
            return Product(id)
    """,
    "a decorated function is a callable": """
        from collections.abc import Awaitable, Callable
        @cache.cached()
        def one(id: int) -> Product:
            return Product(id)
        @acache.cached()
        async def two(id: int) -> Product:
            return Product(id)
        plain: Callable[[int], Product] = one
        coroutine: Callable[[int], Awaitable[Product]] = two
        wrong: Callable[[str], Product] = one  # error: assignment
    """,
    "invalidations, views, events": """
        from neverstale import ConnectionEvent, InvalidationEvent
        reveal_type(cache.with_prefix("api:"))  # is Cache
        reveal_type(cache.invalidate_tags("a", "b").removed)  # is int
        reveal_type(cache.invalidate_pattern("a*").names)  # is tuple[str, ...]
        def heard(event: InvalidationEvent) -> None: ...
        def connected(event: ConnectionEvent) -> None: ...
        cache.events.subscribe(heard, InvalidationEvent)()
        cache.events.subscribe(connected, InvalidationEvent)  # error: arg-type
        with cache as entered, cache.listen():
            reveal_type(entered)  # is Cache
        async def f() -> None:
            async with acache as entered, acache.listen():
                reveal_type(entered)  # is AsyncCache
            reveal_type((await acache.invalidate_key("k")).duration)  # is float
            reveal_type(await acache.health())  # is Health
            reveal_type(acache.stats())  # is dict[str, CounterSnapshot]
    """,
}
Said = Mapping[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What mypy says about each snippet, by its line."""
    folder = tmp_path_factory.mktemp("snippets")
    names = {f"snippet_{re.sub('[^a-z]+', '_', name)}.py": name for name in SNIPPETS}
    for file, name in names.items():
        (folder / file).write_text(textwrap.dedent(HEAD) + textwrap.dedent(SNIPPETS[name]))
    # The cache of `make check`: with it this takes seconds, without it half a minute.
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    out, trouble, _ = api.run([*options, "--hide-error-context", "--no-pretty", str(folder)])
    assert trouble == ""
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in SNIPPETS}
    for line in out.splitlines():
        match = re.match(r"(?:.*/)?(snippet_\w+\.py):(\d+): (.*)", line)
        if match:
            found[names[match[1]]].append((int(match[2]), match[3]))
    return found


def plain(kind: str) -> str:
    """Write a type as people do."""
    kind = re.sub(r"\b(?:builtins|neverstale|snippet_\w+|collections\.abc)(?:\.[a-z_]+)*\.(?=\w)", "", kind)
    return re.sub(r"(?:Union|Optional)\[([^][]+)\]", lambda found: found[1].replace(", ", " | "), kind)


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(said: Said, name: str) -> None:
    """Each line has the type that its comment says, and is refused where the comment says so."""
    source = (textwrap.dedent(HEAD) + textwrap.dedent(SNIPPETS[name])).splitlines()
    wanted: set[tuple[int, str]] = set()
    for number, line in enumerate(source, 1):
        if match := re.search(r"# is (.+)$", line):
            wanted.add((number, f"is {match[1]}"))
        elif match := re.search(r"# error: (.+)$", line):
            wanted.update((number, f"error: {code}") for code in match[1].split(", "))
    got: set[tuple[int, str]] = set()
    for number, message in said[name]:
        if match := re.match(r'note: Revealed type is "(.*)"', message):
            got.add((number, f"is {plain(match[1])}"))
        elif match := re.match(r"error: .*\[([a-z-]+)\]$", message):
            got.add((number, f"error: {match[1]}"))
        elif not message.startswith("note: "):
            got.add((number, message))
    assert got == wanted, "\n".join(f"{number}: {message}" for number, message in said[name])
