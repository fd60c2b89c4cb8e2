"""Serve one step of the bookshop, and tell what that costs.

    python -m examples.bookshop.serve STEP PORT

`/-/cost` answers with the statements that its database was sent and the seconds of processor that it took, both since
the start; everything else is the application's.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

import uvicorn
from sqlalchemy import event

from .database import engine


class Counting:
    """An ASGI application that counts beside the one that it serves."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.statements = 0
        event.listen(engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.statements += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/-/cost":
            body = json.dumps([self.statements, time.process_time()]).encode()
            length = (b"content-length", b"%d" % len(body))
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": body})
        else:
            await self.app(scope, receive, send)


if __name__ == "__main__":
    step = importlib.import_module(f"{__package__}.step{int(sys.argv[1])}")
    uvicorn.run(Counting(step.app), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
