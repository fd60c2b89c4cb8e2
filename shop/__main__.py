"""The shop's command line: `python -m shop seed | serve | warm | load`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
