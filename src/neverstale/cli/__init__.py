"""The command `neverstale`: look at a cache, invalidate by hand, examine its Redis, fill it. See docs/cli.md.

It needs the extra `neverstale[cli]`; without it there is one line that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name, by default those of the process, and exit with its status."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.stderr.write(
            f"neverstale: the command needs the package {error.name}: pip install 'neverstale[cli]'\n"
        )
        sys.exit(2)
    from .app import run

    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))
