"""A real browser, and pages in it that fail their test if anything is wrong with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

OpenPage = Callable[..., Page]

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Every text whose colour is less than 4.5 to 1 against the nearest ground behind it, by WCAG's formula.
CONTRAST = r"""() => {
    const parse = colour => {
        const numbers = colour.match(/[\d.]+/g).map(Number);
        const rgb = numbers.slice(0, 3).map(value => colour.startsWith('color(') ? value * 255 : value);
        return [...rgb, numbers[3] ?? 1];
    };
    const luminance = colour => {
        const [r, g, b] = colour.slice(0, 3).map(value => value / 255)
            .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour[3] > 0) return colour;
        }
        return [255, 255, 255, 1];
    };
    const hasText = element =>
        [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && hasText(e)).map(e => {
        const both = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))];
        const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
        return [ratio, e.tagName, e.className, e.textContent.trim().slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(chromium).exists():
        if os.environ.get("CI"):
            pytest.fail("CI must have a browser: apt-get install chromium")
        pytest.skip("no browser on this machine: apt-get install chromium")
    # What is expected comes as fast as the machine is; none that works takes so long.
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page_of(browser: Browser) -> Iterator[OpenPage]:
    """Return a function that opens a page of a site, not at any address of it yet.

    Fails a test one of whose pages logs an error or asks for anything outside of its site.
    """
    contexts = []
    problems: list[str] = []

    def opened(site: str, width: int = 1280, height: int = 900, **options: object) -> Page:
        context = browser.new_context(
            base_url=site,
            viewport={"width": width, "height": height},
            **options,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(site) else problems.append(asked.url))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []
