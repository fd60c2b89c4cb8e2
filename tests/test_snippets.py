"""The examples of the documents: each runs against a real Redis, or says in the source of its page why it does not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from neverstale.testing.servers import RedisServer, Server
from tools.snippets import ROOT, RUNNER, Program, Snippet, documents, programs, snippets

ALL = [snippet for document in documents() for snippet in snippets(document)]
PROGRAMS = [program for document in documents() for program in programs(snippets(document)) if program.runs]
README = [program for program in PROGRAMS if program.parts[0].document == ROOT / "README.md"]


def run(program: Program, url: str, place: Path) -> tuple[int, str]:
    """Run examples as they stand there; return the exit status and what went to stderr."""
    path = place / "example.py"
    path.write_text(program.text)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, str(path)],
        cwd=place,
        env={"REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


class TestOfDocuments:
    @pytest.mark.parametrize("snippet", ALL, ids=str)
    def test_are_python(self, snippet: Snippet) -> None:
        """What looks like Python compiles."""
        assert snippet.tree().body

    @pytest.mark.parametrize("program", README, ids=str)
    def test_run_on_every_server(self, server: Server, tmp_path: Path, program: Program) -> None:
        """Each example of the README does what it says, on every kind of server, as it stands there."""
        assert run(program, server.url, tmp_path) == (0, "")

    @pytest.mark.parametrize("program", [each for each in PROGRAMS if each not in README], ids=str)
    def test_run(self, redis_server: RedisServer, tmp_path: Path, program: Program) -> None:
        """Each example of the pages runs, without a warning, as it stands there."""
        assert run(program, redis_server.url, tmp_path) == (0, "")

    @pytest.mark.parametrize("snippet", [each for each in ALL if each.source is not None], ids=str)
    def test_parts_are_in_their_files(self, snippet: Snippet) -> None:
        """What a page shows of a file is in that file, statement by statement and comment by comment."""
        assert snippet.source is not None
        lines = [line.strip() for line in snippet.source.read_text().splitlines()]
        missing, at = [], 0
        for line in map(str.strip, snippet.text.splitlines()):
            if line and line != "...":
                if line in lines[at:]:
                    at = lines.index(line, at) + 1
                else:
                    missing.append(line)
        assert missing == []


class TestMarks:
    def test_each_says_what_it_does(self, tmp_path: Path) -> None:
        """An example runs alone, goes on from the one before it, is part of a file, or is not run."""
        page = tmp_path / "page.md"
        page.write_text(
            "```python\na = 1\n```\n\n<!-- snippet: continues -->\n```python\nassert a\n```\n"
            "<!-- snippet: part of tools/snippets.py -->\n```python\nfrom pathlib import Path\n```\n"
            "<!-- snippet: not run: it serves for ever -->\n\n```python\nserve()\n```\n"
            "- in a list:\n\n  ```python\n  b = 1\n  ```\n"
        )
        found = list(snippets(page))
        assert [(each.line, each.mark) for each in found] == [
            (2, ""),
            (7, "continues"),
            (11, "part of tools/snippets.py"),
            (16, "not run: it serves for ever"),
            (21, ""),
        ]
        assert [each.source for each in found if each.source] == [ROOT / "tools/snippets.py"]
        assert [(each.text, each.runs) for each in programs(found)] == [
            ("a = 1\n\n\nassert a\n", True),
            ("serve()\n", False),
            ("b = 1\n", True),
        ]

    @pytest.mark.parametrize("mark", ["runs", "not run", "not run: ", "part of", "continue"])
    def test_no_other_is_accepted(self, tmp_path: Path, mark: str) -> None:
        """A mark that is misspelt is an error, and one that says no reason."""
        page = tmp_path / "page.md"
        page.write_text(f"```python\na = 1\n```\n<!-- snippet: {mark} -->\n```python\na = 1\n```\n")
        with pytest.raises(ValueError, match=r"page\.md:6: no such mark"):
            list(snippets(page))

    def test_nothing_to_continue(self, tmp_path: Path) -> None:
        """The first example of a page continues nothing."""
        page = tmp_path / "page.md"
        page.write_text("<!-- snippet: continues -->\n```python\na = 1\n```\n")
        with pytest.raises(ValueError, match="nothing that it could continue"):
            programs(snippets(page))

    def test_awaiting_at_the_top(self, redis_server: RedisServer, tmp_path: Path) -> None:
        """An example may await outside of a function; what goes wrong in it fails."""
        text = "import asyncio\nawait asyncio.sleep(0)\nassert __name__ == '__main__'\n"
        assert run(Program((Snippet(tmp_path, 1, text),)), redis_server.url, tmp_path) == (0, "")
        status, said = run(
            Program((Snippet(tmp_path, 1, text + "assert 1 > 2"),)), redis_server.url, tmp_path
        )
        assert (status, "AssertionError" in said) == (1, True)


def test_they_are_found() -> None:
    """The tests above look at something."""
    assert len(README) >= 2
    assert all(isinstance(each.tree(), ast.Module) for each in ALL)
