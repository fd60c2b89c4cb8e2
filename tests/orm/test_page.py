"""What docs/sqlalchemy.md shows does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from neverstale.testing.servers import RedisServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sqlalchemy.md"


async def test_the_snippets_of_the_page_run(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one program: a product is renamed, by an asynchronous and by a plain session, and read again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    shown: dict[str, Any] = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        # As a module of its own: annotations of models are looked up in their globals.
        exec(compile(snippet, str(PAGE), "exec", dont_inherit=True), shown)
    shown["Base"].metadata.create_all(shown["plain_engine"])
    async with shown["Session"].begin() as session:
        session.add_all(shown["Product"](id=number, name="first", category_id=number) for number in (1, 2))
    transport = httpx.ASGITransport(shown["app"])
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        shown["lifespan"](shown["app"]),
    ):
        for number in (1, 2):
            assert (await client.get(f"/products/{number}")).json() == "first"
        await client.put("/products/1", params={"name": "second"})
        assert (await client.get("/products/1")).json() == "second"
        shown["import_prices"]()
        assert (await client.get("/products/1")).json() == "on sale"
        assert (await client.get("/products/2")).json() == "gone"
    shown["plain_cache"].close()
    shown["plain_engine"].dispose()
