from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neverstale.errors import UsageError
from neverstale.events import WARN_EVERY, ConnectionEvent, Event, Events, InvalidationEvent

CONNECTED = ConnectionEvent("connect", "h:1")
FAILED = ConnectionEvent("error", "h:1", "TimeoutError: no answer")
INVALIDATED = InvalidationEvent("tag", ("products",), 3, "applied", 0.0021, "process-1", "price changed")

texts = st.text(st.characters(exclude_categories=["Cs"]))
events = st.builds(
    InvalidationEvent,
    kind=st.sampled_from(["key", "pattern", "tag"]),
    names=st.lists(texts).map(tuple),
    removed=st.integers(0, 2**53),
    status=texts,
    duration=st.floats(0, 1e6),
    origin=texts,
    reason=st.none() | texts,
)


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_subscribers_get_the_types_they_asked_for() -> None:
    """One callback hears one type, another all of them."""
    bus = Events()
    connections: list[ConnectionEvent] = []
    everything: list[Event] = []
    bus.subscribe(connections.append, ConnectionEvent)
    bus.subscribe(everything.append)
    bus.emit(CONNECTED)
    bus.emit(INVALIDATED)
    assert connections == [CONNECTED]
    assert everything == [CONNECTED, INVALIDATED]


def test_unsubscribing_ends_one_subscription_and_may_be_repeated() -> None:
    """The same callback subscribed twice is called twice until one of the two is ended."""
    bus = Events()
    heard: list[Event] = []
    first = bus.subscribe(heard.append)
    bus.subscribe(heard.append)
    bus.emit(CONNECTED)
    first()
    first()
    bus.emit(CONNECTED)
    assert heard == [CONNECTED] * 3


def test_a_subscriber_that_raises_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The others are told, the emitter goes on, the log has the traceback."""
    bus = Events()
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("mine")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    bus.emit(CONNECTED)
    assert heard == [CONNECTED]
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "a subscriber of ConnectionEvent raised"


def test_a_subscriber_may_change_the_subscriptions() -> None:
    """Callbacks run with no lock held."""
    bus = Events()
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append("once")
        end()
        bus.subscribe(lambda event: heard.append("later"))

    end = bus.subscribe(once)
    bus.emit(CONNECTED)
    bus.emit(CONNECTED)
    assert heard == ["once", "later"]


def test_a_coroutine_function_cannot_subscribe() -> None:
    """Nobody would await it, and nobody would notice."""

    async def callback(event: Event) -> None:
        pass

    with pytest.raises(UsageError, match="plain function"):
        Events().subscribe(callback)


def test_threads_may_subscribe_and_emit_at_once() -> None:
    """No subscription is lost, and none is called after its end."""
    bus = Events()
    heard: list[int] = []
    rounds, threads = 200, 8

    def work() -> None:
        for _ in range(rounds):
            mine: list[Event] = []
            end = bus.subscribe(mine.append)
            bus.emit(CONNECTED)
            end()
            heard.append(bool(mine))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert heard == [True] * rounds * threads
    assert bus._subscribers == ()


def test_an_invalidation_is_logged_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    """The line can be found by its first word, and the fields by a machine."""
    caplog.set_level(logging.DEBUG, "neverstale")
    Events().emit(INVALIDATED)
    [record] = caplog.records
    assert record.levelno == logging.INFO
    expected = "cache:invalidate tag 'products' removed=3 status=applied in 2.1 ms ('price changed')"
    assert record.getMessage() == expected
    fields = {name: value for name, value in vars(record).items() if name.startswith("cache_")}
    assert fields == {
        "cache_kind": "tag",
        "cache_names": ("products",),
        "cache_removed": 3,
        "cache_status": "applied",
        "cache_duration": 0.0021,
        "cache_origin": "process-1",
        "cache_reason": "price changed",
        "cache_prefix": "",
        "cache_soft": False,
    }


def test_an_invalidation_of_another_process_is_worth_a_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    """Ten processes do not log one invalidation ten times."""
    caplog.set_level(logging.DEBUG, "neverstale")
    Events().emit(INVALIDATED, remote=True)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_names_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Keys may come from a user: line breaks are escaped, long lists are cut."""
    caplog.set_level(logging.INFO, "neverstale")
    names = ("a\nERROR forged", *(str(number) for number in range(9)))
    Events().emit(InvalidationEvent("key", names, 0, "applied", 0.0, "p"))
    message = caplog.records[0].getMessage()
    assert "\n" not in message
    assert "and 5 more" in message


def test_errors_by_the_thousand_are_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """One warning per address and interval, with the number of those left out; the rest is DEBUG."""
    caplog.set_level(logging.INFO, "neverstale")
    clock = Clock()
    bus = Events(clock)
    for _ in range(1000):
        bus.emit(FAILED)
        # A frozen server is connected to as if nothing were wrong.
        bus.emit(CONNECTED)
    bus.emit(ConnectionEvent("error", "other:1", "refused"))
    clock.now = WARN_EVERY
    bus.emit(FAILED)
    bus.emit(CONNECTED)
    bus.emit(CONNECTED)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "redis:error h:1: TimeoutError: no answer"),
        ("INFO", "redis:connect again h:1"),
        ("WARNING", "redis:error other:1: refused"),
        ("WARNING", "redis:error (and 999 more errors since the last warning) h:1: TimeoutError: no answer"),
        ("INFO", "redis:connect again h:1"),
    ]


def test_connections_that_come_and_go_are_debug_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is wrong when a connection is made or closed."""
    caplog.set_level(logging.DEBUG, "neverstale")
    bus = Events()
    bus.emit(CONNECTED)
    bus.emit(ConnectionEvent("close", "h:1"))
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]


def test_addresses_that_come_and_go_do_not_pile_up() -> None:
    """What is remembered of addresses in trouble is bounded."""
    bus = Events()
    for number in range(1500):
        bus.emit(ConnectionEvent("error", f"h:{number}", "gone"))
    assert len(bus._troubled) == 1000


@given(events)
def test_an_event_is_what_it_was_after_its_journey(event: InvalidationEvent) -> None:
    """Encoded, published and decoded, an event is the same."""
    assert InvalidationEvent.decode(event.encode()) == event


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | texts, st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_other_bytes_are_none(message: bytes) -> None:
    """A channel is open to everybody; what is no event is no error."""
    assert InvalidationEvent.decode(message) is None


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "session"},
        {"names": "products"},
        {"removed": "3"},
        {"status": None},
        {"origin": 1},
        {"names": [1]},
    ],
)
def test_fields_of_a_wrong_type_are_none(change: dict[str, Any]) -> None:
    """Nothing reaches a subscriber that is not what its type says."""
    message = {**json.loads(INVALIDATED.encode()), **change}
    assert InvalidationEvent.decode(json.dumps(message).encode()) is None


def test_fields_of_later_releases_are_ignored() -> None:
    """Processes of two releases understand each other."""
    message = {**json.loads(INVALIDATED.encode()), "replicas": 2}
    assert InvalidationEvent.decode(json.dumps(message).encode()) == INVALIDATED


def test_deeply_nested_bytes_are_none() -> None:
    """A message made to exhaust the stack does not."""
    assert InvalidationEvent.decode(b'{"a":' + b"[" * 100_000) is None
