"""Caches to be examined, and servers of their own for what changes a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from neverstale.doctor import Finding, Report
from neverstale.testing.servers import RedisServer, binaries
from tests.caches import make_cache as make_cache

StartServer = Callable[..., RedisServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    started: list[RedisServer] = []

    def start(*options: str, binary: str = "redis", **more: Any) -> RedisServer:
        if binary not in binaries():
            pytest.skip(f"no {binary} server on this machine")
        started.append(RedisServer.start(binaries()[binary], *options, **more))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def finding(report: Report, code: str) -> Finding:
    (found,) = [each for each in report.findings if each.code == code]
    return found
