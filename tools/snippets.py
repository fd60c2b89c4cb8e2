"""The Python examples of the documents: what runs by itself, what belongs together, what is part of a file.

python tools/snippets.py DIRECTORY [DOCUMENT...]     writes them to files, so that mypy can read what users will copy

An example is a block marked as ```python. It runs alone, against a real Redis, unless a comment above it says else:

    <!-- snippet: continues -->               goes on from the example before it on the page, in the same program
    <!-- snippet: part of examples/app.py --> is in that file, word for word, which is tested where it is
    <!-- snippet: not run: why -->            is compiled and type-checked only

A page's examples may use `await` outside of a function: whoever copies them has a coroutine to put them into.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RUNNER", "Program", "Snippet", "documents", "programs", "snippets"]

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(
    r"^(?:<!-- snippet: (?P<mark>.+?) -->\n+)?(?P<indent> *)```python\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"continues|part of (?P<path>\S+)|not run: \S.*")

#: For `python -c`: runs a file in `__main__`, on an event loop where it awaits at its top level.
RUNNER = """
import ast, asyncio, pathlib, sys
code = compile(pathlib.Path(sys.argv[1]).read_text(), sys.argv[1], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
coroutine = eval(code, globals())
if coroutine is not None:
    asyncio.run(coroutine)
"""


@dataclass(frozen=True)
class Snippet:
    """One block of Python.

    Attributes:
        document: where it stands.
        line: of its first line.
        text: of the block.
        mark: what the comment above it says, or "".
    """

    document: Path
    line: int
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def source(self) -> Path | None:
        """The file that it is a part of."""
        found = _MARK.fullmatch(self.mark)
        return ROOT / found["path"] if found and found["path"] else None

    def tree(self) -> ast.Module:
        """Parse it.

        Raises:
            SyntaxError: it is not Python; the line is that of the document.
        """
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile("\n" * (self.line - 1) + self.text, str(self.document), "exec", flags=flags)
        assert isinstance(tree, ast.Module)
        return tree


@dataclass(frozen=True)
class Program:
    """Snippets that run together, one after the other; `runs` is False where they are only checked."""

    parts: tuple[Snippet, ...]
    runs: bool = True

    def __str__(self) -> str:
        return str(self.parts[0])

    @property
    def text(self) -> str:
        return "\n\n".join(part.text for part in self.parts)


def documents() -> list[Path]:
    """Return all documents that may have examples."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def snippets(document: Path) -> Iterator[Snippet]:
    """Read the examples of a document, in their order.

    Raises:
        ValueError: a mark is none of those that there are.
    """
    text = document.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        mark = found["mark"] or ""
        if mark and not _MARK.fullmatch(mark):
            raise ValueError(f"{document.name}:{line}: no such mark: {mark!r}")
        yield Snippet(document, line, textwrap.dedent(found["text"]), mark)


def programs(found: Iterable[Snippet]) -> list[Program]:
    """Put the examples of one document together to what can run; those that are parts of files are left out.

    Raises:
        ValueError: one continues nothing.
    """
    made: list[Program] = []
    for snippet in found:
        if snippet.source is not None:
            continue
        if snippet.mark == "continues":
            if not made or not made[-1].runs:
                raise ValueError(f"{snippet}: there is nothing that it could continue")
            made[-1] = Program((*made[-1].parts, snippet))
        else:
            made.append(Program((snippet,), runs=not snippet.mark))
    return made


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.py"):
        old.unlink()
    for document in [Path(name) for name in sys.argv[2:]] or documents():
        for number, program in enumerate(programs(snippets(document))):
            name = re.sub(r"\W", "_", document.stem.lower())
            (directory / f"{name}_{number}.py").write_text(program.text)


if __name__ == "__main__":
    main()
