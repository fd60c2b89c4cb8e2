"""What the database is asked: how many statements, and how many at the same time.

A cache is there so that the database has less to do, so this is the figure that says whether it works. It is what
`/metrics` shows and what `python -m shop curve` measures.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge
from sqlalchemy import Engine, event

__all__ = ["Statements"]

_TOTAL = Counter("shop_database_statements", "Statements that the database was asked.")
_BUSY = Gauge(
    "shop_database_statements_running",
    "Statements that the database is executing now.",
    multiprocess_mode="livesum",
)
# Of several workers the sum of their peaks: they need not have been at the same time, so it is an upper bound.
_PEAK = Gauge(
    "shop_database_statements_peak",
    "The most statements that were ever executed at the same time.",
    multiprocess_mode="livesum",
)


class Statements:
    """The statements of one engine. Those of a driver's own (BEGIN, pings) are not among them.

    Attributes:
        total: how many there were.
        running: how many there are now.
        peak: the most there were at the same time.
    """

    def __init__(self, engine: Engine) -> None:
        self.total = self.running = self.peak = 0
        event.listen(engine, "before_cursor_execute", self._begun)
        event.listen(engine, "after_cursor_execute", self._ended)
        event.listen(engine, "handle_error", self._failed)

    def __repr__(self) -> str:
        return f"Statements(total={self.total}, running={self.running}, peak={self.peak})"

    def _begun(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            return
        self.total += 1
        self.running += 1
        _TOTAL.inc()
        _BUSY.inc()
        if self.running > self.peak:
            _PEAK.inc(self.running - self.peak)
            self.peak = self.running

    def _ended(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            return
        self.running -= 1
        _BUSY.dec()

    def _failed(self, context: Any) -> None:
        # Also called for what failed before a statement was begun, such as a connection.
        if context.execution_context is not None:
            self._ended(None, None, context.statement or "")
