"""`make demo`, as a user runs it: a real process, a real Ctrl-C, and what is left afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
import redis

from neverstale.testing.servers import RedisServer, free_port, wait_until
from shop import demo

ROOT = Path(__file__).resolve().parent.parent
# On a busy machine with two cores; a quiet one needs a tenth.
PATIENCE = 90.0
_numbers = count(1)


class Running:
    """A demo that was started, and what it said so far."""

    def __init__(self, state: Path, port: int, workers: int, environ: dict[str, str]) -> None:
        self.port = port
        self.state = state
        self.output = state.parent / f"output-{next(_numbers)}.txt"
        clean = {
            name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")
        }
        clean.pop("SHOP_ADMIN_PASSWORD", None)
        command = [sys.executable, "-m", "shop.demo", "--small", "--port", str(port), "--state", str(state)]
        command += ["--workers", str(workers)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**clean, **environ, "DEMO_OF_A_TEST": str(state), "TMPDIR": str(state.parent)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_served(self) -> None:
        wait_until(lambda: "To end it" in self.said or self.process.poll() is not None, "the demo", PATIENCE)
        assert self.process.poll() is None, self.said
        told = re.search(r"The shop: +http://localhost:(\d+)", self.said)
        assert told is not None, self.said
        self.port = int(told[1])

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to the whole group, as a terminal does, and return the exit status."""
        os.killpg(self.process.pid, number)
        return self.process.wait(PATIENCE)

    def family(self) -> set[int]:
        """The demo and every process that it has started.

        Their environment says whose they are; Redis writes its title over its own, but runs in our directory.
        """
        mark = os.fsencode(f"DEMO_OF_A_TEST={self.state}")
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = (process / "cwd").readlink().is_relative_to(self.state.parent)
                if ours or mark in (process / "environ").read_bytes().split(b"\0"):
                    found.add(int(process.name))
        return found

    def password(self) -> str:
        found = re.search(r"password (\S+)", self.said)
        assert found is not None
        return found[1]


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start demos that do not outlive the test."""
    started: list[Running] = []

    def begin(port: int = 0, state: Path | None = None, workers: int = 1, **environ: str) -> Running:
        running = Running(state or tmp_path / "demo", port, workers, environ)
        started.append(running)
        return running

    yield begin
    for running in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        wait_until(lambda running=running: not running.family(), "the end of a demo")  # type: ignore[misc]


def one_line(running: Running) -> str:
    """The only line that a demo says when it cannot go on."""
    assert running.process.wait(PATIENCE) == 1, running.said
    lines = [line for line in running.said.splitlines() if "is running on port" not in line]
    assert len(lines) == 1, running.said
    return lines[0]


class TestRun:
    def test_serves_the_shop_and_ends_by_ctrl_c(self, start: Start) -> None:
        """The shop answers, its administrator can log in, and Ctrl-C leaves nothing behind.

        Nor does an impatient second one.
        """
        first = start(workers=2)
        first.wait_until_served()
        with httpx.Client(base_url=first.base) as browser:
            health = browser.get("/health").json()
            assert health["redis"] == "ok"
            assert browser.get("/").status_code == 200
            products = browser.get("/api/products").json()
            assert len(products["items"]) > 0
            log_in = {"email": demo.ADMIN, "password": first.password()}
            assert browser.post("/api/login", json=log_in).status_code == 200
            found = re.search(r"The cache: +(http://localhost:\d+/cache/), token (\S+)", first.said)
            assert found is not None
            assert "Log in" in browser.get("/cache/").text
            token = {"token": found[2]}
            same = {"sec-fetch-site": "same-origin"}
            assert browser.post("/cache/login", data=token, headers=same).status_code == 303
            assert browser.get("/cache/api/overview").json()["acts"] is True
            # The line that is there to be copied finds this cache; and every invalidation is in the log.
            line = re.search(r"In a terminal: +(.+ top)", first.said)
            assert line is not None
            command = line[1].replace(" top", " --json keys 'api:*'")
            told = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)
            assert "GET:/api/products" in told.stdout
            account = {"email": "new@example.org", "name": "Nia", "password": "a long password"}
            assert browser.post("/api/register", json=account).status_code == 201
            wait_until(lambda: "cache:invalidate tag 'users'" in first.said, "the line in the log")
        assert f"http://localhost:{first.port}" in first.said
        assert len(first.family()) >= 3  # the demo, Redis and the shop
        os.killpg(first.process.pid, signal.SIGINT)
        assert first.end() == 0
        assert first.family() == set()
        assert "Traceback" not in first.said
        assert first.said.splitlines()[-1] == "Ended."
        assert (
            "Connection closed" not in first.said
        )  # the dashboard, which was looked at, heard of nothing but the end

        again = start()
        again.wait_until_served()
        assert again.password() == first.password()
        assert (again.state / "admin-password").stat().st_mode & 0o077 == 0
        assert again.end(signal.SIGTERM) == 0
        assert again.family() == set()
        assert "Traceback" not in again.said

    def test_uses_the_redis_that_is_given(self, start: Start, valkey_server: RedisServer) -> None:
        """With REDIS_URL set it starts no server, and its keys are in that one, each with a TTL."""
        running = start(REDIS_URL=valkey_server.url, SHOP_ADMIN_PASSWORD="a password of mine")
        running.wait_until_served()
        assert httpx.get(f"{running.base}/api/products").status_code == 200
        assert "is running on port" not in running.said
        assert running.said.count("a password of mine") == 1
        assert len(valkey_server.keys()) > 0
        assert running.end() == 0

    def test_redis_ends(self, start: Start) -> None:
        """Whose Redis is gone is told so, once, and served all the same."""
        running = start()
        running.wait_until_served()
        port = re.search(r"is running on port (\d+)", running.said)
        assert port is not None
        with redis.Redis(port=int(port[1])) as client:
            client.shutdown(nosave=True)
        wait_until(lambda: "its Redis has ended" in running.said, "the news")
        assert httpx.get(f"{running.base}/api/products").status_code == 200
        assert running.end() == 0
        assert running.said.count("its Redis has ended") == 1

    def test_ctrl_c_early(self, start: Start) -> None:
        """It can be ended while the database is filled, and the next run makes up for it."""
        running = start()
        wait_until(lambda: len(running.family()) >= 3 or running.process.poll() is not None, "seed", PATIENCE)
        assert running.end() == 0, running.said
        assert (running.family(), "Traceback" in running.said) == (set(), False)
        again = start()
        again.wait_until_served()
        assert again.end() == 0

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
    def test_killed(self, start: Start) -> None:
        """What it has started does not outlive it, even when it cannot say good-bye."""
        running = start()
        running.wait_until_served()
        running.process.kill()
        wait_until(lambda: not running.family(), "the end of the children")


class TestTrouble:
    def test_port_is_taken(self, start: Start) -> None:
        """The line names the port, and how to choose another; it comes before anything is made."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            running = start(port=port)
            assert one_line(running) == (
                f"demo: port {port} is taken: choose another, for example `make demo PORT={port + 1}`"
            )
            assert not running.state.exists()

    def test_redis_url_is_unreachable(self, start: Start) -> None:
        """The line names the variable, says what is wrong, and keeps the password to itself."""
        line = one_line(start(REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}"))
        assert line.startswith("demo: the Redis of REDIS_URL cannot be used: ")
        assert "secret" not in line

    def test_redis_url_is_none(self, start: Start) -> None:
        """A URL that is no URL of Redis gets one line too."""
        assert "REDIS_URL" in one_line(start(REDIS_URL="http://127.0.0.1"))

    def test_disk_is_full(self, start: Start, tmp_path: Path) -> None:
        """A file that cannot be written, because the disk is full, gets one line."""
        state = tmp_path / "demo"
        state.mkdir()
        (state / "admin-password").symlink_to("/dev/full")
        assert one_line(start(state=state)).startswith("demo: the disk is full")

    def test_database_does_not_fit(self, start: Start, tmp_path: Path) -> None:
        """So does a database that outgrows its disk."""
        state = tmp_path / "demo"
        state.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(state)]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.xfail("a small disk can be made by root only")
        try:
            running = start(state=state)
            assert running.process.wait(PATIENCE) == 1
            assert "Traceback" not in running.said
            assert "full" in running.said.splitlines()[-1]
        finally:
            subprocess.run(["umount", str(state)], check=True)

    @pytest.mark.parametrize("port", ["65536", "eight", "-1"])
    def test_wrong_port(self, port: str) -> None:
        """A port that is none is refused by name."""
        command = [sys.executable, "-m", "shop.demo", f"--port={port}"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (run.returncode, f"{port!r} is not a port" in run.stderr) == (2, True)
