"""Browsers in words: `Firefox on Linux` for what a browser calls itself.

It is a guess from a text that anybody can write, good enough to recognise one's own devices by. What is not known is
shown as it is.
"""

from __future__ import annotations

import re

__all__ = ["device_name"]

_LONGEST = 60  # of a text that is shown as it is: a line on a phone holds half of it
# The first that is found counts: almost every browser also calls itself Chrome, Safari and Mozilla.
_BROWSERS = (
    ("Edge", r"\bEdg(A|iOS)?/"),
    ("Opera", r"\b(OPR|OPT)/"),
    ("Samsung Internet", r"\bSamsungBrowser/"),
    ("Vivaldi", r"\bVivaldi/"),
    ("Firefox", r"\b(Firefox|FxiOS)/"),
    ("Chrome", r"\b(Headless)?(Chrome|CriOS|Chromium)/"),
    ("Safari", r"\bVersion/\S+ .*\bSafari/"),
)
_SYSTEMS = (
    ("iPhone", r"\biPhone\b"),
    ("iPad", r"\biPad\b"),
    ("Android", r"\bAndroid\b"),
    ("Windows", r"\bWindows\b"),
    ("ChromeOS", r"\bCrOS\b"),
    ("macOS", r"\bMac(intosh| OS X)\b"),
    ("Linux", r"\bLinux\b"),
)
_PROGRAM = re.compile(r"([\w.+-]+)/[\w.+-]+( |$)")


def device_name(user_agent: str) -> str:
    """Return a `User-Agent` in words: browser and system, a program's name, or the text itself, cut."""
    text = " ".join(user_agent.split())
    if not text:
        return "Unknown device"
    if text.startswith("Mozilla/"):
        browser = _first(_BROWSERS, text)
        system = _first(_SYSTEMS, text)
        # A crawler says "compatible" and whose browser it resembles: that would be no honest name for it.
        if browser and "compatible;" not in text:
            return f"{browser} on {system}" if system else browser
    elif program := _PROGRAM.match(text):
        return program[1]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _first(choices: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((name for name, pattern in choices if re.search(pattern, text)), None)
