"""Charts as inline SVG, drawn on the server: readable without JavaScript, and at every width.

There is no `viewBox` around the text: across, everything is in per cent of the width that the page gives, and down in
pixels, so letters have the same size on a phone and on a desktop. What does not fit a phone is left out by class
(`roomy`, `tight`). Colours are classes (static/charts.css); `title` elements say what each mark stands for, and
static/charts.js shows them better.

Amounts are whole cents and never negative. A page has hundreds of marks, and `Markup.format` takes its time: where
there are many of something, the words are escaped one by one and all else is numbers of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup, escape

from .templating import price

__all__ = ["Mark", "bars", "columns", "nice_ticks", "tick_text", "time_labels"]

_TOP, _PLOT, _FOOT = 10, 220, 30  # px: air above the highest gridline, the plot, the labels below it
_MOST_COLUMNS = 120  # on a phone a column then has 2 px; more of them are drawn as an area
_GAP = 0.28  # of a band; less, and neighbours run together
_WIDEST = 11.0  # per cent: a single column is a column and not a wall
_WIDE, _THIN = 8, 4  # labels below a wide and a narrow chart: 60 px each, and the longest ("Nov 2024") has 55
_SHORT_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Mark:
    """One value of a chart: what it is called, how much it is, what else there is to say, and where it leads."""

    name: str
    cents: int
    note: str = ""
    href: str = ""

    @property
    def words(self) -> str:
        """All of it, a line each."""
        return "\n".join(filter(None, (self.name, price(self.cents), self.note)))


# -- axes -------------------------------------------------------------------------------------------------------------


def nice_ticks(highest: int, most: int = 5) -> tuple[int, ...]:
    """Return the amounts to mark on an axis from 0 to `highest`: equal steps of 1, 2 or 5 times a power of ten.

    The last is the first at or above `highest`; there are at most `most` beside 0, and only 0 when `highest` is 0.
    """
    if highest <= 0:
        return (0,)
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if step * most >= highest:
                return tuple(range(0, highest + step, step))
        power *= 10


def tick_text(cents: int, top: int) -> str:
    """Return an amount for an axis that ends at `top`, short: `€7,500`, `€20k`, `€1.5M`. Ticks of an axis agree."""
    for unit, letter in ((100_000_000, "M"), (100_000, "k")):
        # Four digits are read as easily as a k: the k begins with ten of them.
        if top >= (unit if letter == "M" else 10 * unit) and cents:
            return f"€{cents / unit:.10g}{letter}"
    return f"€{cents // 100:,}" if top >= 500 or not cents else price(cents)


def time_labels(starts: Sequence[date], most: int) -> dict[int, str]:
    """Return which of the periods that begin on these days get a label, and which one: at most `most`, evenly.

    Days are labelled as days while they fit, then Mondays, then months and years; a year is named where it begins.
    """
    every = range(len(starts))
    if not starts:
        return {}
    first_of_month = [
        i for i in every if starts[i].day == 1 or (i and starts[i].month != starts[i - 1].month)
    ]
    monthly = len(first_of_month) == len(starts) > 1 or (len(starts) == 1 and starts[0].day == 1)
    choices: list[tuple[list[int], Callable[[date], str]]] = []
    if not monthly:
        last = len(starts) - 1
        choices += [
            (list(every), _day),
            ([i for i in every if (last - i) % 2 == 0], _day),
            ([i for i in every if starts[i].weekday() == 0 and not _weekly(starts)], _day),
            ([i for i in every if (last - i) % (2 if _weekly(starts) else 14) == 0], _day),
        ]
    for apart in (1, 2, 3, 6, 12):
        choices.append(([i for i in first_of_month if (starts[i].month - 1) % apart == 0], _month))
    for years in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000):
        choices.append(
            ([i for i in first_of_month if starts[i].month == 1 and starts[i].year % years == 0], _month)
        )
    for chosen, text in choices:
        if min(2, len(starts)) <= len(chosen) <= most:
            return dict(_texts(starts, chosen, text))
    return {0: _day(starts[0]), len(starts) - 1: _day(starts[-1])}


def _weekly(starts: Sequence[date]) -> bool:
    return len(starts) > 1 and (starts[1] - starts[0]).days == 7


def _texts(
    starts: Sequence[date], chosen: Sequence[int], text: Callable[[date], str]
) -> Iterator[tuple[int, str]]:
    """Name the year where it begins; where years are all that is labelled, nothing else."""
    years = text is _month and all(starts[i].month == 1 for i in chosen) and len(chosen) > 1
    year = 0
    for i in chosen:
        day = starts[i]
        if years:
            yield i, str(day.year)
        elif text is _month and day.year != year:
            yield i, f"{_month(day)} {day.year}"
        else:
            yield i, text(day)
        year = day.year


def _day(day: date) -> str:
    return f"{day.day} {_SHORT_MONTHS[day.month - 1]}"


def _month(day: date) -> str:
    return _SHORT_MONTHS[day.month - 1]


# -- over time --------------------------------------------------------------------------------------------------------


def columns(
    name: str, title: str, marks: Sequence[Mark], starts: Sequence[date], *, mean_of: int = 0
) -> Markup:
    """Draw amounts over time: a column for each period, or an area when there are too many for columns.

    Arguments:
        name: a prefix for the ids in it, one for each chart of a page.
        title: what it shows, in a few words.
        starts: the first day of each mark's period, in order.
        mean_of: an area of days also shows the mean of so many of them up to each; 0 or 1 shows none.
    """
    ticks = nice_ticks(max((mark.cents for mark in marks), default=0))
    top = ticks[-1]
    as_area = len(marks) > _MOST_COLUMNS
    means = _means([mark.cents for mark in marks], mean_of) if as_area and mean_of > 1 else []
    parts = [*_gridlines(ticks), *_time_axis(starts)]
    if as_area:
        parts.append(_area([mark.cents for mark in marks], means, top))
    parts += _marks(marks, means, mean_of, top, as_area)
    if not top:
        parts.append(
            Markup('<text class="none" x="50%" y="{}">No sales in this time</text>').format(_TOP + _PLOT // 2)
        )
    legend = ""
    if means:
        legend = Markup(
            '<p class="legend"><span><i class="key each"></i>each day</span> '
            '<span><i class="key average"></i>mean of {} days</span></p>'
        ).format(mean_of)
    return Markup(
        '<div class="plot timed" data-chart="{title}"><svg class="over-time" width="100%" height="{height}" role="img" '
        'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{title}</title>'
        '<desc id="{name}-desc">{desc}</desc>{parts}</svg></div>{legend}'
    ).format(
        name=name,
        title=title,
        height=_TOP + _PLOT + _FOOT,
        desc=_description(marks),
        parts=Markup("").join(parts),
        legend=legend,
    )


def _y(cents: float, top: int) -> float:
    return round(_TOP + _PLOT * (1 - (cents / top if top else 0)), 1)


def _gridlines(ticks: Sequence[int]) -> Iterator[Markup]:
    for cents in ticks:
        y, line = _y(cents, ticks[-1]), "grid" if cents else "base"
        yield Markup(f'<line class="{line}" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        yield Markup(
            f'<text class="amount" x="-10" y="{y}" dy="0.35em">{escape(tick_text(cents, ticks[-1]))}</text>'
        )


def _time_axis(starts: Sequence[date]) -> Iterator[Markup]:
    wide, thin = time_labels(starts, _WIDE), time_labels(starts, _THIN)
    for which, labels in (("roomy", wide), ("tight", thin)):
        for i, text in labels.items():
            both = wide.get(i) == thin.get(i)
            if both and which == "tight":
                continue
            x, y = _short((i + 0.5) / len(starts) * 100), _TOP + _PLOT
            group = "" if both else f' class="{which}"'
            yield Markup(
                f'<g{group}><line class="tick" x1="{x}%" x2="{x}%" y1="{y}" y2="{y + 5}"/>'
                f'<text class="when" x="{x}%" y="{y + 21}">{escape(text)}</text></g>'
            )


def _marks(
    marks: Sequence[Mark], means: Sequence[float], mean_of: int, top: int, as_area: bool
) -> Iterator[Markup]:
    band = 100 / max(1, len(marks))
    width = min(band * (1 - _GAP), _WIDEST)
    for i, mark in enumerate(marks):
        column = ""
        if not as_area and mark.cents:
            # Also a very small amount can be seen; a zero has nothing to see.
            y = min(_y(mark.cents, top), _TOP + _PLOT - 1.5)
            x, height = _short(i * band + (band - width) / 2), round(_TOP + _PLOT - y, 1)
            column = f'<rect class="col" x="{x}%" y="{y}" width="{_short(width)}%" height="{height}"/>'
        words = mark.words
        if means and i >= mean_of - 1:
            words += f"\nMean of {mean_of} days: {price(round(means[i - mean_of + 1]))}"
        yield Markup(
            f'<g class="datum"><rect class="hit" x="{_short(i * band)}%" y="{_TOP}" width="{_short(band)}%" '
            f'height="{_PLOT}"/>{column}<title>{escape(words)}</title></g>'
        )


def _area(cents: Sequence[int], means: Sequence[float], top: int) -> Markup:
    """Draw one shape, stretched to the width: its strokes keep their width (`vector-effect`)."""

    def path(values: Sequence[float], first: int = 0) -> str:
        return "L".join(f"{i + 0.5} {_y(value, top) - _TOP:.1f}" for i, value in enumerate(values, first))

    shape = path(cents)
    line = path(means, len(cents) - len(means)) if means else shape
    return Markup(
        '<svg class="stretched" y="{}" width="100%" height="{h}" viewBox="0 0 {n} {h}" preserveAspectRatio="none">'
        '<path class="area" d="M0.5 {h}L{}L{} {h}Z"/><path class="line" d="M{}"/></svg>'
    ).format(_TOP, shape, len(cents) - 0.5, line, h=_PLOT, n=len(cents))


def _means(cents: Sequence[int], of: int) -> list[float]:
    """Return the mean of each value and those before it, from the first that has enough before it."""
    return [sum(cents[i : i + of]) / of for i in range(len(cents) - of + 1)]


def _description(marks: Sequence[Mark]) -> str:
    if not any(mark.cents for mark in marks):
        return "No sales in this time."
    if len(marks) == 1:
        return f"{marks[0].name}: {price(marks[0].cents)}."
    high = max(marks, key=lambda mark: mark.cents)
    low = min(marks, key=lambda mark: mark.cents)
    return (
        f"{len(marks)} values from {marks[0].name} to {marks[-1].name}. Highest: {price(high.cents)}, {high.name}. "
        f"Lowest: {price(low.cents)}, {low.name}."
    )


def _short(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


# -- side by side -----------------------------------------------------------------------------------------------------


def bars(title: str, marks: Sequence[Mark]) -> Markup:
    """Draw amounts side by side: a list of names with a bar each, so that a long name can wrap and be read out."""
    ticks = nice_ticks(max((mark.cents for mark in marks), default=0), 4)
    top = ticks[-1]
    if not top:
        return Markup('<p class="nothing">No sales in this time.</p>')
    lines = "".join(
        f'<line class="{kind}" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>'
        for kind, x in (("grid" if cents else "base", _short(cents / top * 100)) for cents in ticks)
    )
    # A bar has the middle of its row; the gridlines of all rows meet.
    rows = Markup("".join(_bar(mark, lines, top) for mark in marks))
    places = {0: " first", len(ticks) - 1: " last"}
    axis = Markup(
        "".join(
            f'<text class="when{places.get(i, " roomy")}" x="{_short(cents / top * 100)}%" y="16">'
            f"{escape(tick_text(cents, top))}</text>"
            for i, cents in enumerate(ticks)
        )
    )
    return Markup(
        '<div class="plot" data-chart="{}"><ol class="bars">{}</ol><p class="bars-axis" aria-hidden="true">'
        '<span class="track"><svg width="100%" height="24" focusable="false">{}</svg></span></p></div>'
    ).format(title, rows, axis)


def _bar(mark: Mark, lines: str, top: int) -> str:
    name = escape(mark.name)
    if mark.href:
        name = Markup(f'<a href="{escape(mark.href)}">{name}</a>')
    return (
        f'<li class="datum"><span class="name">{name}</span> <span class="track"><svg width="100%" height="100%" '
        f'aria-hidden="true" focusable="false">{lines}<rect class="col" y="24%" '
        f'width="{_short(mark.cents / top * 100)}%" height="52%"/>'
        f'<rect class="hit" width="100%" height="100%"/><title>{escape(mark.words)}</title></svg></span>'
        f'<span class="value">{price(mark.cents)}</span> <span class="hidden">{escape(mark.note)}</span></li>'
    )
