"""Write the Python examples of documents to files, so that mypy can read what users will copy.

python tools/snippets.py DIRECTORY DOCUMENT...
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def snippets(document: Path) -> list[str]:
    """Return the blocks of a Markdown document that are marked as Python."""
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.py"):
        old.unlink()
    for document in map(Path, sys.argv[2:]):
        for number, snippet in enumerate(snippets(document)):
            (directory / f"{document.stem.lower()}_{number}.py").write_text(snippet)


if __name__ == "__main__":
    main()
