"""The doctor: what endangers a cache, in its Redis and in its keys.

`examine(cache)` asks every node and looks at every key of the namespace, slowly; `mend` gives a TTL to what has none.
The command is `neverstale doctor`; docs/doctor.md explains every finding.
"""

from __future__ import annotations

from .findings import Finding, Severity, exit_status
from .mend import How, Mended, mend, mendable
from .report import RATE, Report, examine
from .scan import Scan

__all__ = [
    "RATE",
    "Finding",
    "How",
    "Mended",
    "Report",
    "Scan",
    "Severity",
    "examine",
    "exit_status",
    "mend",
    "mendable",
]
