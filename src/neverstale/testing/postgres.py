"""A PostgreSQL server for tests and comparisons, as a process that we own."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
from pathlib import Path

from neverstale.testing.processes import (
    LOOPBACK,
    PORT_TRIES,
    START_LIMIT,
    ServerError,
    free_port,
    last_words,
    make_directory,
    spawn,
    stop_at_exit,
    wait_until,
)

# Its databases are thrown away: a crash of the machine may lose them.
CARELESS = ["-F", "-c", "full_page_writes=off"]
#: Commits in two phases are off where PostgreSQL is left as it comes.
TWO_PHASES = ["-c", "max_prepared_transactions=10"]


class PostgresServer:
    """One PostgreSQL server; what it holds is gone at its end."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # initdb and postgres refuse to run as root.
        self._user = "postgres" if os.geteuid() == 0 else ""
        self._directory = make_directory(self._user)
        self._log = self._directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._leave = stop_at_exit(self.stop)

    @staticmethod
    def programs() -> Path | None:
        """Return the directory of PostgreSQL's programs, the newest version first, or None."""
        found = sorted(
            (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
            key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0,
        )
        on_path = shutil.which("initdb")
        return found[-1] if found else Path(on_path).parent if on_path else None

    @classmethod
    def start(cls) -> PostgresServer:
        """Make a database cluster in a temporary directory and serve it.

        Raises:
            ServerError: PostgreSQL is not installed, or does not start.
        """
        programs = cls.programs()
        if programs is None:
            raise ServerError("PostgreSQL is not installed: apt-get install postgresql")
        server = cls(programs)
        try:
            server._launch()
        except BaseException:
            server.stop()
            raise
        return server

    def __repr__(self) -> str:
        return f"<PostgresServer port={self.port}>"

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of its first database, for SQLAlchemy with asyncpg."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self._run("createdb", "-h", LOOPBACK, "-p", str(self.port), "-U", "postgres", name)
        return self.url_of(name)

    def stop(self) -> None:
        """End the server and remove its directory. May be called more than once."""
        atexit.unregister(self._leave)
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # "immediate": the children leave too
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *args: str) -> None:
        process = spawn([str(self._programs / program), *args], self._log, user=self._user)
        if process.wait(START_LIMIT) != 0:
            raise ServerError(f"{program} failed: {last_words(self._log)}")

    def _launch(self) -> None:
        self._log.touch()
        data = self._directory / "data"
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(data), *options)
        for attempt in range(1, PORT_TRIES + 1):
            self.port = free_port()
            command = [str(self._programs / "postgres"), "-D", str(data), *CARELESS, *TWO_PHASES]
            command += ["-h", LOOPBACK, "-p", str(self.port), "-k", str(self._directory)]
            process = spawn(command, self._log, user=self._user, death=signal.SIGQUIT)
            self._process = process
            wait_until(lambda: process.poll() is not None or self._answers(), "PostgreSQL")  # noqa: B023
            if process.poll() is None:
                return
            words = last_words(self._log)
            if "in use" not in words.lower() or attempt == PORT_TRIES:
                raise ServerError(f"PostgreSQL did not start: {words}")

    def _answers(self) -> bool:
        ready = [str(self._programs / "pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port), "-t", "1"]
        return subprocess.run(ready, check=False).returncode == 0
