"""`python -m neverstale`: the command `neverstale`."""

from __future__ import annotations

from neverstale.cli import main

if __name__ == "__main__":
    main()
