"""The harness: a scenario is run a few times, each time right after its references, and becomes one Row per figure.

Every figure is a ratio to a reference of the same repeat, so that a slow moment of the machine weighs on both.  Order of one
repeat: references on asyncio, then the scenario on its backend, each in an event loop of its own.
"""

import contextlib
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Final, Literal

import anyio
from msgspec import Struct

from benchmarks.references import Unit, measure_reference
from flowmesh.testing import run as run_in_virtual_time

__all__ = [
    "BOTH",
    "WARM_UP",
    "Backend",
    "Bound",
    "Figure",
    "Row",
    "Scenario",
    "Verdict",
    "measure",
    "pinned",
    "run_once",
    "summarise",
]

Backend = Literal["asyncio", "trio", "core"]
"""Where a scenario runs; `core` is for what neither awaits nor differs between backends."""

BOTH: Final[tuple[Backend, ...]] = ("asyncio", "trio")

Verdict = Literal["goal", "pass", "FAIL", "open", ""]
"""goal: reached · pass: within the gate · FAIL: above the gate · open: above the goal, no gate yet · empty: no bound."""

WARM_UP: Final = 0.01
_LONGEST_RUN: Final = 300.0  # seconds; a scenario that loses a message must end, not hang


class Bound(Struct, frozen=True):
    """What to reach, in the figure's unit: above `gate` fails, `goal` is where it should be. None: not asked for."""

    gate: float | None = None
    goal: float | None = None


class Figure(Struct, frozen=True):
    """One number that a scenario measures. `bounds` may differ between backends; a missing one asks for nothing."""

    name: str
    unit: Unit
    bounds: Mapping[Backend, Bound] = {}

    @classmethod
    def alike(cls, name: str, unit: Unit, bound: Bound) -> "Figure":
        """Return a figure with the same bound everywhere."""
        return cls(name, unit, {"asyncio": bound, "trio": bound, "core": bound})


class Scenario(Struct, frozen=True):
    """Something to measure.

    `run(scale)` does it once, with its sizes multiplied by `scale`, and returns the nanoseconds of each figure, in order.
    `is_virtual`: in a loop whose time is virtual (flowmesh.testing).
    """

    name: str
    title: str
    figures: tuple[Figure, ...]
    run: Callable[[float], Awaitable[Sequence[float]]]
    backends: tuple[Backend, ...] = BOTH
    is_virtual: bool = False


class Row(Struct, frozen=True):
    """The result of one figure on one backend.

    `ratios` has one entry per repeat; `median`, `low` and `high` are theirs; `spread` is (high - low) / median.
    `nanoseconds` and `reference` are medians too: of the figure, and of its unit.
    """

    scenario: str
    figure: str
    backend: Backend
    unit: Unit
    median: float
    low: float
    high: float
    spread: float
    gate: float | None
    goal: float | None
    verdict: Verdict
    nanoseconds: float
    reference: float
    ratios: tuple[float, ...]


@contextlib.contextmanager
def pinned() -> Generator[int | None, None, None]:
    """Keep this process on one core inside the block; gives which, or None where the system cannot.

    It is the last core that the process may use: the first tends to serve the interrupts.
    """
    if sys.platform != "linux":
        yield None
        return
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def run_once(scenario: Scenario, backend: Backend, *, scale: float = 1.0) -> tuple[float, ...]:
    """Run the scenario in an event loop of its own and return the nanoseconds of each figure.

    Raises:
        TimeoutError: it did not end within five minutes.
        StandstillError: it is virtual, and nothing could ever happen in it any more.
    """
    loop = "asyncio" if backend == "core" else backend
    if scenario.is_virtual:
        return tuple(run_in_virtual_time(scenario.run, scale, backend=loop))

    async def run() -> tuple[float, ...]:
        with anyio.fail_after(_LONGEST_RUN):
            return tuple(await scenario.run(scale))

    return anyio.run(run, backend=loop)


def measure(scenario: Scenario, backend: Backend, *, repeats: int, scale: float = 1.0) -> list[Row]:
    """Run the scenario `repeats` times, after one small run that does not count, and return a row per figure."""
    run_once(scenario, backend, scale=min(scale, WARM_UP))
    units: set[Unit] = {figure.unit for figure in scenario.figures}
    references: dict[Unit, list[float]] = {unit: [] for unit in units}
    readings: list[tuple[float, ...]] = []
    for _ in range(repeats):
        for unit in units:
            references[unit].append(measure_reference(unit, scale=scale))
        readings.append(run_once(scenario, backend, scale=scale))
    return [
        summarise(scenario, figure, backend, [reading[index] for reading in readings], references[figure.unit])
        for index, figure in enumerate(scenario.figures)
    ]


def summarise(
    scenario: Scenario, figure: Figure, backend: Backend, nanoseconds: Sequence[float], references: Sequence[float]
) -> Row:
    """Divide each repeat by the reference of the same repeat, take medians, and judge."""
    ratios = tuple(value / reference for value, reference in zip(nanoseconds, references, strict=True))
    median = statistics.median(ratios)
    bound = figure.bounds.get(backend, Bound())
    return Row(
        scenario=scenario.name,
        figure=figure.name,
        backend=backend,
        unit=figure.unit,
        median=median,
        low=min(ratios),
        high=max(ratios),
        spread=(max(ratios) - min(ratios)) / median,
        gate=bound.gate,
        goal=bound.goal,
        verdict=_judge(median, bound),
        nanoseconds=statistics.median(nanoseconds),
        reference=statistics.median(references),
        ratios=ratios,
    )


def _judge(median: float, bound: Bound) -> Verdict:
    if bound.goal is not None and median <= bound.goal:
        return "goal"
    if bound.gate is not None:
        return "pass" if median <= bound.gate else "FAIL"
    return "" if bound.goal is None else "open"
