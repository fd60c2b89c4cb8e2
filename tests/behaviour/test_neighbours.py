"""The neighbouring versions of a key: what cannot be deleted there is as bad as what cannot be deleted here."""

from __future__ import annotations

import pytest

from neverstale import InvalidationError
from neverstale.testing.servers import Server
from tests.behaviour.conftest import Make

USER = "of_two_versions"


@pytest.mark.parametrize("missing", [1, 2, 3])
async def test_a_neighbour_that_cannot_be_deleted(make: Make, server: Server, missing: int) -> None:
    """The invalidation raises, whichever version it could not reach; called again when it can, it reaches all."""
    mine = [f"~v{version}:*" for version in (1, 2, 3) if version != missing]
    for node in server.nodes:
        node.client().acl_setuser(
            USER, enabled=True, nopass=True, categories=["+@all"], channels=["*"], keys=[], reset=True
        )
        node.client().execute_command("ACL", "SETUSER", USER, *mine)
    faces = {version: make(version=version) for version in (1, 2, 3)}
    try:
        for face in faces.values():
            await face.set("k", "v")
        narrow = make(url=server.url.replace("://", f"://{USER}:x@"), version=2)
        with pytest.raises(InvalidationError, match=r"(?i)permission|access"):
            await narrow.invalidate_key("k")
        assert await faces[missing].get("k") == "v"
        assert missing == 2 or await faces[2].get("k") is None
        await faces[2].invalidate_key("k")
        assert [await face.get("k") for face in faces.values()] == [None] * 3
    finally:
        for node in server.nodes:
            node.client().acl_deluser(USER)
