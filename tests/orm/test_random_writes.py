"""After every commit every cached answer equals the uncached one."""

from __future__ import annotations

import os
from random import Random

import pytest

from tests.orm.conftest import World, only
from tests.orm.random_writes import WRITES, Write, transaction

#: Transactions per seed; more of them by hand: NEVERSTALE_WRITES=500.
STEPS = int(os.environ.get("NEVERSTALE_WRITES", "15"))
SEEDS = (1, 2)


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_a_commit_no_answer_is_stale(world: World, seed: int) -> None:
    """Whatever is written, in whatever way, with savepoints and rollbacks: what is read afterwards is what is there."""
    random = Random(seed)
    await world.stale()
    for step in range(STEPS):
        does = world.write if random.random() < 0.8 else world.attempt
        await does(lambda session: transaction(session, random))
        assert await world.stale() == {}, f"seed {seed}, step {step}"


@only("sync-sqlite", "async-postgres")
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
async def test_each_way_to_write_is_followed(world: World, write: Write) -> None:
    """Each way by itself, a few times, with a flush and a savepoint around it."""
    random = Random(write.__name__)
    await world.stale()
    for step in range(3):
        await world.write(lambda session: transaction(session, random, only=[write]))
        assert await world.stale() == {}, f"step {step}"


@only("sync-sqlite", "async-sqlite")
async def test_without_following_answers_are_stale(world: World) -> None:
    """The same writes, followed by nobody, leave stale answers: the test above can fail."""
    world.following.detach()
    random, seen = Random(1), [write for write in WRITES if write.__name__ != "by_text"]
    await world.stale()
    for _ in range(5):
        await world.write(lambda session: transaction(session, random, only=seen))
    assert await world.stale() != {}
