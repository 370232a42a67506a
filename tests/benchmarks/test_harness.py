"""Rules of the harness: order, arithmetic, verdicts, pinning. No test looks at how fast something is."""

import os
import sys
from collections.abc import Sequence

import pytest
import sniffio

from benchmarks import harness
from benchmarks.harness import BOTH, Bound, Figure, Scenario, measure, pinned, run_once, summarise
from benchmarks.references import Unit, measure_reference


async def _nothing(scale: float) -> Sequence[float]:
    return (scale,)


FIGURE = Figure.alike("cost", "x", Bound(gate=4.0, goal=2.0))
SCENARIO = Scenario("T1", "a test", (FIGURE,), _nothing)


def test_ratios_are_taken_within_a_repeat() -> None:
    """Each value is divided by the reference of its own repeat, and the median is that of the ratios."""
    row = summarise(SCENARIO, FIGURE, "asyncio", [300.0, 100.0, 800.0], [100.0, 100.0, 200.0])
    assert row.ratios == (3.0, 1.0, 4.0)
    assert (row.median, row.low, row.high, row.spread) == (3.0, 1.0, 4.0, 1.0)
    assert (row.nanoseconds, row.reference) == (300.0, 100.0)
    assert (row.gate, row.goal) == (4.0, 2.0)


@pytest.mark.parametrize(
    "bound, ratio, verdict",
    [
        (Bound(4.0, 2.0), 2.0, "goal"),
        (Bound(4.0, 2.0), 2.1, "pass"),
        (Bound(4.0, 2.0), 4.0, "pass"),
        (Bound(4.0, 2.0), 4.1, "FAIL"),
        (Bound(gate=4.0), 1.0, "pass"),
        (Bound(goal=2.0), 2.0, "goal"),
        (Bound(goal=2.0), 2.1, "open"),
        (Bound(), 1.0, ""),
    ],
)
def test_a_bound_is_kept_when_it_is_met_exactly(bound: Bound, ratio: float, verdict: str) -> None:
    """Only above the gate is a failure; without a gate a missed goal stays open."""
    row = summarise(SCENARIO, Figure.alike("cost", "x", bound), "trio", [ratio], [1.0])
    assert row.verdict == verdict


def test_a_backend_without_a_bound_is_not_judged() -> None:
    """Bounds belong to backends."""
    figure = Figure("cost", "RT", {"trio": Bound(2.0, 1.0)})
    assert summarise(SCENARIO, figure, "asyncio", [9.0], [1.0]).verdict == ""
    assert summarise(SCENARIO, figure, "trio", [9.0], [1.0]).verdict == "FAIL"


def test_each_repeat_measures_its_references_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small run that does not count, then reference and scenario in turn; a unit is measured once for all its figures."""
    order: list[str] = []
    costs = iter([10.0, 20.0])

    def reference(unit: Unit, *, scale: float) -> float:
        order.append(f"{unit} {scale}")
        return next(costs)

    async def run(scale: float) -> Sequence[float]:
        order.append(f"run {scale}")
        return 40.0, 80.0

    monkeypatch.setattr(harness, "measure_reference", reference)
    rows = measure(Scenario("T1", "a test", (FIGURE, FIGURE), run), "asyncio", repeats=2, scale=0.5)
    assert order == ["run 0.01", "x 0.5", "run 0.5", "x 0.5", "run 0.5"]
    assert [row.ratios for row in rows] == [(4.0, 2.0), (8.0, 4.0)]


@pytest.mark.parametrize("backend", BOTH)
def test_a_scenario_runs_on_the_backend_that_was_asked_for(backend: harness.Backend) -> None:
    """Each run has an event loop of that backend."""
    seen: list[str] = []

    async def run(scale: float) -> Sequence[float]:
        seen.append(sniffio.current_async_library())
        return (scale,)

    assert run_once(Scenario("T1", "a test", (FIGURE,), run), backend, scale=0.25) == (0.25,)
    assert seen == [backend]


@pytest.mark.parametrize("unit", ["x", "RT"])
def test_references_cost_something(unit: Unit) -> None:
    """A reference is a positive number of nanoseconds, also at the smallest size."""
    assert measure_reference(unit, scale=0.0001) > 0


def test_a_millisecond_is_a_million_nanoseconds() -> None:
    """Times need no measured reference."""
    assert measure_reference("ms") == 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process choose its core")
def test_pinning_ends_with_its_block() -> None:
    """Inside the block the process has one core; afterwards those that it had."""
    if sys.platform == "linux":
        before = os.sched_getaffinity(0)
        with pinned() as core:
            assert os.sched_getaffinity(0) == {core}
            assert core in before
        assert os.sched_getaffinity(0) == before
