"""What every command has: where Redis is, how to write, and what the exit statuses mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import typer

from neverstale.cache import Cache
from neverstale.config import Settings
from neverstale.doctor.nodes import nodes_of

from .output import Output, plain

__all__ = ["AWAY", "FOUND", "INTERRUPTED", "OK", "USAGE", "Refused", "Tool", "tool_of"]

#: Exit statuses; docs/cli.md.
OK: Final = 0
FOUND: Final = 1  # a negative answer: not there, nothing matched, something is wrong
USAGE: Final = 2
AWAY: Final = 3  # Redis did not answer, or refused
INTERRUPTED: Final = 130  # as shells say it: 128 and SIGINT


class Refused(Exception):
    """Something that is not done; its text is the one line that the user gets."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Tool:
    """The options of `neverstale` itself.

    Attributes:
        overrides: of the settings.
        prefix: of the view that keys and patterns are relative to.
        out: where to write.
    """

    overrides: dict[str, Any]
    prefix: str
    out: Output

    @cached_property
    def settings(self) -> Settings:
        """The settings: those of the environment, and what the options say instead.

        Raises:
            SettingsError: says which is wrong.
        """
        return Settings.from_env(**self.overrides)

    @property
    def of(self) -> str:
        """Say in whose keys it looks, for where there are none: a mistyped namespace is then seen."""
        namespace = self.settings.namespace
        return f"of the namespace {namespace!r}" if namespace else "without a namespace"

    @contextmanager
    def cache(self) -> Iterator[Cache]:
        """Open the cache for a command.

        An operator is patient and may be far away: reads have the long time limit here.

        Raises:
            SettingsError: says which setting is wrong.
            RedisUnavailable: it is a cluster, and none of its nodes answers.
        """
        logging.getLogger("neverstale").addHandler(logging.NullHandler())
        settings = self.settings
        patient = replace(settings, timeout=max(settings.timeout, min(settings.patient_timeout, 60.0)))
        with Cache(patient, prefix=self.prefix) as cache:
            if settings.mode == "cluster":
                # Asks one node after the other, where a cache would ask one and go to its loader.
                nodes_of(cache._connections)
            yield cache

    def confirm(self, finding: str, question: str, *, yes: bool) -> None:
        """Ask whether something is meant.

        Args:
            finding: what speaks against it.
            question: to be answered by yes or no.
            yes: whether it was answered beforehand.

        Raises:
            Refused: it is not, or there is nobody to ask.
        """
        if yes:
            return
        if not self.out.interactive:
            raise Refused(
                f"{finding}: nothing was done, for nobody is here to be asked; --yes says that it is meant"
            )
        if not typer.confirm(plain(f"{finding}. {question}"), default=False, err=True):
            raise Refused("nothing was done", FOUND)


def tool_of(context: typer.Context) -> Tool:
    """Return what the options of `neverstale` made."""
    found = context.find_object(Tool)
    assert found is not None
    return found
