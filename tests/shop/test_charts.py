"""Charts: what they say, how they are scaled, and that their shades can be told apart."""

from __future__ import annotations

import re
from datetime import date, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.charts import Mark, bars, columns, nice_ticks, tick_text, time_labels
from tests.shop.running import ROOT

STATIC = ROOT / "shop" / "static"


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<figure>{markup}</figure>")


def days(n: int, first: date = date(2026, 1, 1)) -> list[date]:
    return [first + timedelta(days=i) for i in range(n)]


def over_time(*cents: int, mean_of: int = 0) -> ElementTree.Element:
    starts = days(len(cents))
    marks = [Mark(str(day), each, "3 orders") for day, each in zip(starts, cents, strict=True)]
    return parse(columns("x", "Revenue", marks, starts, mean_of=mean_of))


def of_class(chart: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [each for each in chart.iter() if name in each.get("class", "").split()]


# -- axes -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**14), st.integers(2, 8))
def test_ticks_are_nice(highest: int, most: int) -> None:
    """Ticks are few, evenly apart by 1, 2 or 5 times a power of ten, and the last is just above the highest."""
    ticks = nice_ticks(highest, most)
    step = ticks[1]

    assert ticks == tuple(range(0, ticks[-1] + 1, step))
    assert len(ticks) <= most + 1
    assert ticks[-2] < highest <= ticks[-1]
    assert str(step).rstrip("0") in {"1", "2", "5"}


def test_no_sales_have_one_tick() -> None:
    assert nice_ticks(0) == (0,)


@given(st.integers(1, 10**12))
def test_texts_of_ticks_differ(highest: int) -> None:
    """No two ticks of an axis have the same text, and none of up to ten thousand million euros is too long."""
    ticks = nice_ticks(highest)
    texts = [tick_text(each, ticks[-1]) for each in ticks]

    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) <= 8


@pytest.mark.parametrize(
    ("cents", "top", "text"),
    [
        (0, 0, "€0"),
        (50, 250, "€0.50"),
        (150_000, 150_000, "€1,500"),
        (250_000, 1_000_000, "€2.5k"),
        (2_000_000, 2_000_000, "€20k"),
        (50_000_000, 150_000_000, "€0.5M"),
        (300_000_000, 300_000_000, "€3M"),
    ],
)
def test_tick_text(cents: int, top: int, text: str) -> None:
    assert tick_text(cents, top) == text


@given(
    st.dates(date(1, 1, 1), date(9000, 1, 1)),
    st.integers(1, 1100),
    st.sampled_from([1, 7]),
    st.sampled_from([4, 8]),
)
def test_labels_are_few_and_in_order(first: date, n: int, apart: int, most: int) -> None:
    """However long the time is, it has some labels, and no more than fit."""
    labels = time_labels([first + timedelta(days=i * apart) for i in range(n)], most)

    assert 1 <= len(labels) <= most
    assert list(labels) == sorted(labels)
    assert len(labels) > 1 or n == 1
    assert max(map(len, labels.values())) <= 8


@pytest.mark.parametrize(
    ("starts", "most", "labels"),
    [
        (days(1, date(2026, 10, 31)), 8, ["31 Oct"]),
        (days(3, date(2026, 10, 30)), 8, ["30 Oct", "31 Oct", "1 Nov"]),
        (days(30, date(2026, 10, 2)), 8, ["5 Oct", "12 Oct", "19 Oct", "26 Oct"]),
        (days(731, date(2024, 11, 1)), 4, ["Jan 2025", "Jul", "Jan 2026", "Jul"]),
        ([date(2026, m, 1) for m in range(1, 13)], 8, ["Jan 2026", "Mar", "May", "Jul", "Sep", "Nov"]),
        ([date(y, m, 1) for y in range(2022, 2026) for m in range(1, 13)], 4, ["2022", "2023", "2024", "2025"]),
        ([], 8, []),
    ],
)  # fmt: skip
def test_labels_of_times(starts: list[date], most: int, labels: list[str]) -> None:
    assert list(time_labels(starts, most).values()) == labels


# -- columns ----------------------------------------------------------------------------------------------------------


def test_columns_are_as_high_as_their_amounts() -> None:
    """Twice as much is twice as high; nothing has no column; the axis ends above the highest."""
    chart = over_time(50_000, 0, 100_000)
    heights = [float(each.get("height", "")) for each in of_class(chart, "col")]

    assert heights == [110, 220]
    assert [each.text for each in of_class(chart, "amount")] == [
        "€0",
        "€200",
        "€400",
        "€600",
        "€800",
        "€1,000",
    ]


def test_a_small_amount_can_be_seen() -> None:
    heights = [float(each.get("height", "")) for each in of_class(over_time(1, 10**9), "col")]
    assert min(heights) >= 1


def test_columns_stay_apart_and_inside() -> None:
    """No column reaches into its neighbour's band, or is as wide as a wall."""
    for n in (1, 2, 31, 120):
        found = of_class(over_time(*[100] * n), "col")
        spans = [
            (float(each.get("x", "").strip("%")), float(each.get("width", "").strip("%"))) for each in found
        ]
        assert len(spans) == n
        assert all(x >= 0 and x + width <= 100.001 and 0 < width <= 11 for x, width in spans)
        assert all(a[0] + a[1] < b[0] for a, b in pairwise(spans))


def test_every_value_is_said() -> None:
    """Each mark has its words, and the chart a name and a summary, for who cannot see it."""
    chart = over_time(50_000, 0, 100_000)
    svg = of_class(chart, "over-time")[0]

    assert [each.find("title").text for each in of_class(chart, "datum")] == [  # type: ignore[union-attr]
        "2026-01-01\n€500.00\n3 orders",
        "2026-01-02\n€0.00\n3 orders",
        "2026-01-03\n€1,000.00\n3 orders",
    ]
    assert svg.get("role") == "img"
    named = {each.get("id"): each.text for each in svg}
    title, summary = (named[each] for each in svg.get("aria-labelledby", "").split())
    assert title == "Revenue"
    assert summary is not None
    assert "Highest: €1,000.00, 2026-01-03" in summary
    assert "Lowest: €0.00, 2026-01-02" in summary


def test_many_values_are_an_area() -> None:
    """Two years of days are one shape, and each can still be pointed at."""
    chart = over_time(*range(731), mean_of=7)

    assert of_class(chart, "col") == []
    assert len(of_class(chart, "area")) == len(of_class(chart, "line")) == 1
    assert len(of_class(chart, "hit")) == 731
    words = ["".join(each.itertext()) for each in of_class(chart, "datum")]
    assert "Mean" not in words[5]
    assert words[6].endswith("Mean of 7 days: €0.03")  # of 0 to 6 cents
    assert of_class(chart, "line")[0].get("d", "").startswith("M6.5 ")
    assert "mean of 7 days" in "".join(of_class(chart, "legend")[0].itertext())


def test_columns_have_no_mean() -> None:
    assert of_class(over_time(1, 2, 3, mean_of=7), "legend") == []


@pytest.mark.parametrize("n", [0, 1, 30, 731])
def test_no_sales(n: int) -> None:
    """A time without sales says so, and has nothing that looks like some."""
    chart = over_time(*[0] * n, mean_of=7)

    assert [each.text for each in of_class(chart, "none")] == ["No sales in this time"]
    assert of_class(chart, "col") == []


# -- bars -------------------------------------------------------------------------------------------------------------


def test_bars() -> None:
    """Bars start at nothing, are as long as their amounts, and lead to what they stand for."""
    chart = parse(bars("Top", [Mark("Lamp", 200_000, "2 orders", "/products/1"), Mark("Rug", 50_000)]))

    assert [each.get("width") for each in of_class(chart, "col")] == ["100%", "25%"]
    assert [each.text for each in of_class(chart, "value")] == ["€2,000.00", "€500.00"]
    assert [each.get("href") for each in chart.iter("a")] == ["/products/1"]
    assert [each.text for each in of_class(chart, "when")] == ["€0", "€500", "€1,000", "€1,500", "€2,000"]


@pytest.mark.parametrize("marks", [[], [Mark("Lamp", 0)]])
def test_bars_without_sales(marks: list[Mark]) -> None:
    assert "No sales in this time." in bars("Top", marks)


# -- both -------------------------------------------------------------------------------------------------------------


def test_names_are_only_text() -> None:
    """No name becomes markup, wherever it stands."""
    mark = Mark('"><script>alert(1)</script>', 100, "<b>", '"><img>')
    for chart in (bars("<i>", [mark]), columns("x", "<i>", [mark], [date(2026, 1, 1)])):
        assert not re.search("<script|<b>|<img|<i>", chart)
        parse(chart)


def test_charts_need_no_style_attributes() -> None:
    """The policy of the pages allows neither style attributes nor scripts in them."""
    for chart in (
        bars("x", [Mark("Lamp", 1)]),
        columns("x", "x", [Mark("a", 1)] * 200, days(200), mean_of=7),
    ):
        assert " style=" not in chart
        assert not re.search(r" on\w+=", chart)


def test_shades_can_be_told_apart() -> None:
    """WCAG 2.2: 3 to 1 between what must be told apart by shade, 4.5 to 1 for text, in light and in dark.

    It is lightness that differs, so it does not matter which colours an eye can see.
    """
    for scheme in (0, 1):
        colours = {
            name: value
            for file in ("shop.css", "charts.css")
            for name, value in re.findall(
                r"--([\w-]+): (#[0-9a-f]{6});",
                re.findall(r":root \{(.*?)\}", (STATIC / file).read_text(), re.S)[scheme],
            )
        }
        for one, other, least in (
            ("chart-bar", "sheet", 3),
            ("chart-line", "chart-bar", 3),
            ("chart-pick", "chart-bar", 3),
            ("chart-base", "sheet", 3),
            ("chart-text", "sheet", 4.5),
        ):
            light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (one, other, scheme)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
