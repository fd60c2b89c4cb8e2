"""The dashboard in a real browser, while its cache is read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from neverstale import Cache
from neverstale.testing.servers import RedisServer, binaries, free_port, wait_until
from tests.browser import CONTRAST, OpenPage

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "the-token-of-the-dashboard"


@contextlib.contextmanager
def serving(server: RedisServer, *token: str) -> Iterator[str]:
    """Serve a dashboard in a process of its own; gives its address."""
    port = free_port()
    url = f"http://localhost:{port}/cache/"
    command = [sys.executable, "-m", "tests.dashboard.serving", server.url, str(port), *token]
    process = subprocess.Popen(command, cwd=ROOT)

    def answers() -> bool:
        assert process.poll() is None, "the application has ended"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}icon.svg").status_code == 200
        return False

    try:
        wait_until(answers, "a dashboard")
        yield url
    finally:
        process.terminate()
        assert process.wait(20) in (0, -15)


@pytest.fixture(scope="module")
def dashboard(redis_server: RedisServer) -> Iterator[str]:
    with serving(redis_server, TOKEN) as url:
        yield url


@pytest.fixture
def pages(page_of: OpenPage) -> OpenPage:
    """Return a function that opens a dashboard."""

    def opened(url: str, **options: Any) -> Page:
        page = page_of(url, **options)
        page.goto(url)
        return page

    return opened


def log_in(page: Page) -> None:
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#live")).to_contain_text("1 process", timeout=20_000)


def test_the_figures_move(pages: OpenPage, dashboard: str) -> None:
    """Rates, prefixes, charts and what is hot fill themselves while the cache is read."""
    page = pages(dashboard)
    log_in(page)
    expect(page.locator("#table-prefixes tbody tr")).to_have_count(3, timeout=20_000)
    rows = page.locator("#table-prefixes th[scope=row]").all_inner_texts()
    assert sorted(rows) == ["api:", "fragment:", "session:"]
    expect(page.locator("#chart-rate path.area")).to_have_count(3, timeout=30_000)
    expect(page.locator("#hot-keys li").first).to_contain_text("/s", timeout=20_000)
    assert "session:" not in page.locator("#hottest").inner_text()
    first = page.locator("#tile-rate").inner_text()
    expect(page.locator("#tile-rate")).not_to_have_text(first, timeout=20_000)
    expect(page.locator("#nodes li")).to_contain_text("redis")
    assert page.title() == "shop · Cache"


def test_charts_are_read_by_keyboard_and_pointer(pages: OpenPage, dashboard: str) -> None:
    """Both show the figures of one moment, and a reader of screens gets them in words."""
    page = pages(dashboard)
    log_in(page)
    chart = page.locator("#chart-rate")
    expect(chart.locator("path.area")).to_have_count(3, timeout=30_000)
    chart.focus()
    page.keyboard.press("End")
    expect(chart.locator(".tip")).to_contain_text("api:")
    page.keyboard.press("Escape")
    expect(chart.locator(".tip")).to_be_hidden()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 15, box["y"] + 80)
    expect(chart.locator(".tip")).to_contain_text("fragment:")
    assert "now" in (chart.get_attribute("aria-label") or "")


def test_an_invalidation_of_another_process_appears(
    pages: OpenPage, dashboard: str, redis_server: RedisServer
) -> None:
    """With its reason, moments after it happened, and counted like those of processes that report."""
    page = pages(dashboard)
    log_in(page)
    expect(page.locator("#tile-gone")).to_have_text("0/min", timeout=20_000)
    command = ["-m", "neverstale", "invalidate", "tag", "products", "--reason"]
    subprocess.run(
        [sys.executable, *command, "prices were <b>imported</b>"],
        env={**os.environ, "REDIS_URL": redis_server.url, "NEVERSTALE_NAMESPACE": "shop"},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
    event = page.locator("#events li").first
    expect(event).to_contain_text("products", timeout=10_000)
    expect(event).to_contain_text("prices were <b>imported</b>")
    expect(event).to_contain_text("cleared")
    expect(page.locator("#tile-gone")).to_have_text("1/min", timeout=10_000)
    expect(page.locator("#live")).to_contain_text("1 process")


def test_hostile_names_are_shown_as_what_they_are(
    pages: OpenPage, dashboard: str, redis_server: RedisServer
) -> None:
    """Markup runs nothing; what cannot be seen, or turns the writing around, is written out; nothing is too wide."""
    page = pages(dashboard, width=390)
    log_in(page)
    name = "<img src=x onerror=document.title='owned'>\x1b\u202egnp.\u2066" + "w" * 400
    with Cache.from_url(redis_server.url, namespace="shop", timeout=10.0, patient_timeout=10.0) as cache:
        cache.set_json(name, {"\u202e": "<script>document.title='owned'</script>"}, tags=["\u202etag"])
        cache.invalidate_tag("\u202eother", reason="\u202e<b>\x07")
        event = page.locator("#events li").first
        expect(event).to_contain_text("\\u{202e}other", timeout=10_000)
        expect(event).to_contain_text("\\u{202e}<b>\\u{7}")
        page.get_by_label("Key, with its prefix").first.fill(name)
        page.get_by_role("button", name="Look up").click()
        found = page.locator("#found")
        expect(found).to_contain_text("onerror=document.title='owned'>\\u{1b}\\u{202e}gnp.\\u{2066}www")
        expect(found.locator("pre")).to_contain_text('{\n  "\\u{202e}": "<script>')
        expect(found).to_contain_text("\\u{202e}tag")
    assert page.title() == "shop · Cache"
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_long_prefix_makes_nothing_wider(pages: OpenPage) -> None:
    """In the table, below the charts and beside the pointer: it is cut, or goes on in the next line."""
    prefix = "w" * 120 + ":"
    with RedisServer.start(binaries()["redis"]) as server, serving(server) as url:
        page = pages(url)
        with (
            Cache.from_url(
                server.url, namespace="shop", prefix=prefix, timeout=10.0, patient_timeout=10.0
            ) as cache,
            cache.reporting(),
        ):
            for _ in range(500):
                cache.get("k")
        long = page.locator("#table-prefixes th[scope=row]").filter(has_text="wwww")
        expect(long).to_have_count(1, timeout=20_000)
        page.locator("#chart-rate").focus()
        page.keyboard.press("End")
        for width in (1280, 820, 390):
            page.set_viewport_size({"width": width, "height": 900})
            # A chart follows the size of its place within the next frame. `evaluate` itself has no limit.
            page.evaluate(
                "new Promise((done, fail) => {"
                "requestAnimationFrame(() => requestAnimationFrame(done)); setTimeout(fail, 20_000, 'no frame')})"
            )
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_key_is_looked_up_and_invalidated(
    pages: OpenPage, dashboard: str, redis_server: RedisServer
) -> None:
    """From the table of the hottest to what is stored, and to its end."""
    page = pages(dashboard)
    log_in(page)
    with Cache.from_url(redis_server.url, namespace="shop", timeout=10.0, patient_timeout=10.0) as cache:
        cache.set_json("mine", {"name": "<script>"}, tags=["t"])
        page.get_by_label("Key, with its prefix").first.fill("mine")
        page.get_by_role("button", name="Look up").click()
        found = page.locator("#found")
        expect(found).to_contain_text("fresh: a read gets it")
        expect(found.locator("pre")).to_contain_text('"name": "<script>"')
        page.get_by_role("button", name="Invalidate this key").click()
        expect(page.locator("#act-name")).to_have_value("mine")
        page.locator("#act-reason").fill("it was wrong")
        page.get_by_role("button", name="Invalidate", exact=True).click()
        expect(page.locator("#done")).to_contain_text("1 entry cleared")
        assert cache.get_json("mine") is None
        expect(page.locator("#events")).to_contain_text("dashboard: it was wrong", timeout=10_000)
        page.get_by_role("button", name="Look up").click()
        expect(found).to_contain_text("not there")
    expect(page.locator("#hot-keys button").first).to_be_visible(timeout=20_000)
    page.locator("#hot-keys button").first.click()
    expect(found).to_contain_text("Copper Desk Lamp")


def test_more_than_a_thousand_are_asked_about(
    pages: OpenPage, dashboard: str, redis_server: RedisServer
) -> None:
    """Cancel and Escape leave them; the button that says how many ends them."""
    page = pages(dashboard)
    log_in(page)
    with Cache.from_url(redis_server.url, namespace="shop", timeout=5, patient_timeout=20) as cache:
        cache.set_many({f"many:{number}": "v" for number in range(1234)})
        page.get_by_text("Pattern", exact=True).click()
        page.locator("#act-name").fill("many:*")
        act, sure = page.get_by_role("button", name="Invalidate", exact=True), page.locator("#sure")
        for leave in ("Cancel", "Escape"):
            act.click()
            # What it said the last time, it still says while it is closed.
            expect(sure).to_be_visible(timeout=20_000)
            expect(sure).to_contain_text("1,234 entries")
            if leave == "Cancel":
                sure.get_by_role("button", name="Cancel").click()
            else:
                page.keyboard.press("Escape")
            expect(sure).to_be_hidden()
            expect(act).to_be_enabled()
            expect(page.locator("#done")).to_contain_text("Nothing was invalidated")
        assert cache.get("many:7") == "v"
        act.click()
        sure.get_by_role("button", name="Invalidate 1,234 entries").click()
        expect(page.locator("#done")).to_contain_text("1,234 entries cleared", timeout=20_000)
        assert cache.get("many:7") is None


def test_logging_out_shuts_the_door(pages: OpenPage, dashboard: str) -> None:
    """The page is the door again, also when it is loaded anew."""
    page = pages(dashboard)
    log_in(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()


def test_without_a_token_it_is_to_look_at(pages: OpenPage, redis_server: RedisServer) -> None:
    """Figures, and no way to act."""
    with serving(redis_server) as url:
        page = pages(url)
        expect(page.locator("#table-prefixes tbody tr")).to_have_count(3, timeout=20_000)
        expect(page.locator("#read-only")).to_be_visible()
        expect(page.locator("#act")).to_be_hidden()
        expect(page.get_by_role("button", name="Log out")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_it_can_be_read(pages: OpenPage, dashboard: str, scheme: str, width: int) -> None:
    """Every text has enough contrast, and nothing is wider than the screen, of a phone too."""
    page = pages(dashboard, width=width, color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    log_in(page)
    expect(page.locator("#hot-keys li").first).to_be_visible(timeout=20_000)
    page.locator("#hot-keys button").first.click()
    expect(page.locator("#found dl")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(CONTRAST) == []
