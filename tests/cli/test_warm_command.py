"""`neverstale warm`: an application's jobs, named by code."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from neverstale import Cache
from neverstale.testing.servers import RedisServer, wait_until
from tests.cli.conftest import Command, visible

APPLICATION = """
import asyncio, time
from contextlib import asynccontextmanager
from neverstale import AsyncCache, Cache
from neverstale.warm import Job, Recipes

OPTIONS = {"timeout": 10.0, "patient_timeout": 10.0}

async def read(key):
    async with AsyncCache.from_env(**OPTIONS) as cache:
        return await cache.get_or_load(key, lambda: len(key), ttl=60, type=int)

listed = [Job(f"a{n}", lambda n=n: read(f"a{n}")) for n in range(3)]

async def first():
    await read("first")

def plain():
    with Cache.from_env(**OPTIONS) as cache:
        cache.get_or_load("plain", lambda: 1, ttl=60)

functions = [first, plain]

def broken():
    raise LookupError("gone")

failing = [first, broken]

async def returned():
    return [("returned", lambda: read("returned"))]

class Namespace:
    jobs = listed

@asynccontextmanager
async def opened():
    print("opened", flush=True)
    yield listed
    print("closed", flush=True)

recipes = Recipes()

@recipes.on("p:(?P<key>.*)")
async def product(key):
    await read(f"p:{key}")

def learnt(hottest):
    return recipes.jobs(hottest)

def slow():
    return [Job(str(n), lambda: time.sleep(0.05)) for n in range(2000)]

lambdas = [lambda: None]
"""


@pytest.fixture(autouse=True)
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary_of(command: Command, *arguments: str) -> tuple[int, dict[str, object], str]:
    process = command.process("warm", *arguments)
    out, err = process.communicate(timeout=60)
    document = out[out.index("{") : out.rindex("}") + 1]
    return process.returncode, json.loads(document), out + err


class TestJobs:
    @pytest.mark.parametrize(
        ("name", "filled"),
        [("listed", 3), ("functions", 2), ("returned", 1), ("Namespace.jobs", 3), ("opened", 3)],
    )
    def test_forms(self, command: Command, name: str, filled: int) -> None:
        """Jobs are a list, or what a function returns, plain, awaited, or opened."""
        status, summary, said = summary_of(command, f"app:{name}")
        assert (status, summary["filled"], summary["failed"]) == (0, filled, 0)
        assert ("opened\n" in said, "closed\n" in said) == (name == "opened",) * 2

    def test_again(self, command: Command) -> None:
        """What is there is skipped."""
        summary_of(command, "app:listed")
        status, summary, _ = summary_of(command, "app:listed")
        assert (status, summary["skipped"], summary["resumed"]) == (0, 3, 0)

    def test_failing(self, command: Command) -> None:
        """A job that fails is named, and the status is 1."""
        status, summary, _ = summary_of(command, "app:failing")
        assert (status, summary["filled"], summary["failed"]) == (1, 1, 1)
        assert summary["failures"] == [["app.broken", "LookupError: gone"]]

    def test_learnt(self, command: Command, cache: Cache) -> None:
        """A function of one argument is given the keys that are asked for most, of this version or the one before."""
        with cache.reporting():
            view = cache.with_prefix("p:")
            for _ in range(600):
                view.get_or_load("hot", lambda: 1, ttl=60, type=int)
        cache.invalidate_pattern("*")
        assert summary_of(command, "app:learnt")[1]["filled"] == 1
        assert cache.get_json("p:hot") is not None
        _, summary, _ = summary_of(command, "app:learnt", "--version-number", "2")
        assert summary["filled"] == 1
        assert summary_of(command, "app:learnt", "--hot", "0")[1]["total"] == 0

    @pytest.mark.parametrize("name", ["app:lambdas", "app:OPTIONS", "app:nothing", "app", "app:read"])
    def test_wrong(self, command: Command, name: str) -> None:
        """What is no list of jobs is said in one line."""
        process = command.process("warm", name)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert len(said.splitlines()) == 1


class TestEnds:
    def test_time(self, command: Command) -> None:
        """The time limit leaves the rest, and the status is 1; the next run goes on from there."""
        status, summary, _ = summary_of(command, "app:slow", "--limit", "0.5", "--at-once", "1")
        assert (status, summary["ended"]) == (1, "time")
        done = summary["skipped"]
        _, again, _ = summary_of(command, "app:slow", "--limit", "0.2")
        assert again["resumed"] == done
        _, anew, _ = summary_of(command, "app:slow", "--limit", "0.2", "--no-resume")
        assert anew["resumed"] == 0

    def test_position_in_a_file(self, command: Command, application: Path) -> None:
        """The position can be a file."""
        _, summary, _ = summary_of(command, "app:slow", "--limit", "0.3", "--position", "place")
        assert (application / "place").exists()
        _, again, _ = summary_of(command, "app:slow", "--limit", "0.2", "--position", "place")
        assert again["resumed"] == summary["skipped"]

    def test_ctrl_c(self, command: Command, redis_server: RedisServer) -> None:
        """Ctrl-C ends it with a summary, and status 130."""
        process = command.process("warm", "app:slow", "--at-once", "1")
        wait_until(lambda: redis_server.client().exists("shop:cache:warm:v1:app-slow") == 1, "some jobs")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert json.loads(out)["ended"] == "interrupted"
        assert "Traceback" not in err

    def test_in_a_terminal(self, command: Command) -> None:
        """In a terminal there is a bar, and the summary is one line."""
        ran = command.terminal("warm", "app:slow", "--at-once", "1", "--limit", "1.5")
        said = visible(ran.out)
        assert "warming" in said
        assert "2,000 jobs in" in said
        assert "left (the time was up)" in said
