"""What the explorations of this run did: each that found no violation adds to it."""

from __future__ import annotations

from neverstale.drive.sim import Found

TOTAL: list[Found] = []
