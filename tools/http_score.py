"""Count the results of the public HTTP cache tests, as their own pages do.

The rules are those of `determineTestResult` in the suite:

- A test counts only if every test that it depends on was passed: without that its own result says nothing.
- A set-up that failed is neither a pass nor a failure of the rule that is tested.
- `required` is what a test is that names no kind. `optimal` tests ask for what a good cache does and none must;
  `check` tests ask which of two allowed ways a cache goes, so there is no right answer.

Tests for browsers alone are left out; those for CDNs are in, as they are where the suite runs against a
reverse proxy: 160 of the required ones are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Of each test that was run: True, or the name of an error and what it says.
Results = Mapping[str, Any]


class Kind(StrEnum):
    """What a test asks for."""

    REQUIRED = "required"
    OPTIMAL = "optimal"
    CHECK = "check"


class Outcome(StrEnum):
    """What came out."""

    PASS = "pass"
    FAIL = "fail"
    DEPENDENCY = "dependency"  # a test that it depends on was not passed
    SETUP = "setup"  # something else than what is tested went wrong first
    RETRY = "retry"  # the cache asked the origin twice
    HARNESS = "harness"  # no answer in time
    UNTESTED = "untested"


@dataclass(frozen=True, slots=True)
class Case:
    """One test of the suite.

    Attributes:
        depends_on: the tests without which this one says nothing.
        shared: whether it is for shared caches, too.
    """

    id: str
    suite: str
    name: str
    kind: Kind
    depends_on: tuple[str, ...] = ()
    shared: bool = True


def cases_of(suites: Sequence[Mapping[str, Any]]) -> dict[str, Case]:
    """Return every test of the suite's index, by its id."""
    return {
        test["id"]: Case(
            id=test["id"],
            suite=suite["id"],
            name=test["name"],
            kind=Kind(test.get("kind") or Kind.REQUIRED),
            depends_on=tuple(test.get("depends_on") or ()),
            shared=not test.get("browser_only"),
        )
        for suite in suites
        for test in suite["tests"]
    }


def outcome(
    tests: Mapping[str, Case], test_id: str, results: Results, *, dependencies: bool = True
) -> Outcome:
    """Return what came out of one test.

    Args:
        tests: all tests.
        test_id: the one.
        results: of all that were run.
        dependencies: whether the tests that it depends on matter; not where only some tests were run.
    """
    result = results.get(test_id)
    if result is None:
        return Outcome.UNTESTED
    if dependencies:
        for other in tests[test_id].depends_on:
            if outcome(tests, other, results) is not Outcome.PASS:
                return Outcome.DEPENDENCY
    if result is True:
        return Outcome.PASS
    error, message = result[0], result[1]
    if error == "Setup":
        return Outcome.RETRY if message == "retry" else Outcome.SETUP
    return Outcome.HARNESS if error == "AbortError" else Outcome.FAIL


def outcomes(tests: Mapping[str, Case], results: Results, *, dependencies: bool = True) -> dict[str, Outcome]:
    """Return what came out of each test for shared caches."""
    return {
        test.id: outcome(tests, test.id, results, dependencies=dependencies)
        for test in tests.values()
        if test.shared
    }


def count(tests: Mapping[str, Case], found: Mapping[str, Outcome]) -> dict[Kind, Counter[Outcome]]:
    """Count outcomes by the kind of the test."""
    tally: dict[Kind, Counter[Outcome]] = {kind: Counter() for kind in Kind}
    for test_id, what in found.items():
        tally[tests[test_id].kind][what] += 1
    return tally
