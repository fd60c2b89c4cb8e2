"""Fill a cache before its users come: `warm(jobs)`, or `await Warmer(jobs).run()`.

A job is something that reads through the cache. `Recipes` makes jobs of the keys that were asked for most. A run that
was killed is resumed from its `RedisPosition` or `FilePosition`. The command is `neverstale warm`; docs/warm-up.md
shows it all.
"""

from __future__ import annotations

from .learning import Recipes
from .positions import FilePosition, Position, RedisPosition
from .running import Job, Jobs, Summary, Warmer, warm

__all__ = [
    "FilePosition",
    "Job",
    "Jobs",
    "Position",
    "Recipes",
    "RedisPosition",
    "Summary",
    "Warmer",
    "warm",
]
