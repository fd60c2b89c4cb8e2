"""Do two shops say the same? Looked at before the load generator measures them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .client import Answer, fetch
from .traffic import Member, Request

__all__ = ["Differences", "compare", "recognise"]

# What a page says of itself: how long it took, and to administrators where to look at the cache, if there is one. All
# else is the same each time.
_OWN = re.compile(rb'<p class="took" .*?</p>|<li><a href="/cache/">Cache</a></li>\s*')


@dataclass
class Differences:
    """What was compared, and in one line each what was wrong."""

    compared: int = 0
    wrong: list[str] = field(default_factory=list)


async def compare(ports: Mapping[str, int], requests: Iterable[Request], differences: Differences) -> None:
    """Ask both shops, the one with the cache twice: the second answer comes from there."""
    for request in dict.fromkeys(requests):
        sent = request.encode()
        try:
            plain = await fetch(ports["off"], sent)
            cached = [await fetch(ports["on"], sent) for _ in range(2)]
        except (OSError, EOFError) as error:
            differences.wrong.append(f"{request.path}: {error!r}")
            continue
        differences.compared += 1
        for each in (plain, *cached):
            if each.status != 200:
                differences.wrong.append(f"{request.path}: status {each.status}")
            elif _shown(each) != _shown(plain):
                differences.wrong.append(f"{request.path}: other bytes with the cache than without")
            elif not _knows(request, each):
                differences.wrong.append(f"{request.path}: does not know who is logged in")


async def recognise(ports: Mapping[str, int], members: Iterable[Member], differences: Differences) -> None:
    """Look whether both shops know who somebody is, the second time from the cache."""
    for member in members:
        for port in (*ports.values(), ports["on"]):
            answer = await fetch(port, Request("/api/me", member).encode())
            differences.compared += 1
            if answer.status != 200 or json.loads(answer.body)["email"] != member.email:
                differences.wrong.append(f"/api/me: {answer.status}, not the one who is logged in")


def _shown(answer: Answer) -> bytes:
    return _OWN.sub(b"", answer.body)


def _knows(request: Request, answer: Answer) -> bool:
    """Say whether a page greets who asks; JSON does not, but none of an administrator's is given to anybody else."""
    if request.path.startswith("/api/"):
        return True
    greeting = b'class="who"'
    if request.member is None:
        return greeting not in answer.body
    return f">{html.escape(request.member.name)}</a>".encode() in answer.body and greeting in answer.body
