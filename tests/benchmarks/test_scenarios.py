"""Every scenario and every peer runs, at the smallest size, and gives a figure for each of its names. How fast is not asked."""

import math

import pytest

from benchmarks.baseline import show_baseline
from benchmarks.harness import Backend, Scenario, run_once
from benchmarks.scenarios import SCENARIOS

TINY = 0.0001
RUNS = [(scenario, backend) for scenario in SCENARIOS.values() for backend in scenario.backends]


@pytest.mark.parametrize("scenario, backend", RUNS, ids=[f"{scenario.name}-{backend}" for scenario, backend in RUNS])
def test_scenario_measures_all_its_figures(scenario: Scenario, backend: Backend) -> None:
    """A run handles every message (or it would not end) and returns one positive number per figure."""
    nanoseconds = run_once(scenario, backend, scale=TINY)
    assert len(nanoseconds) == len(scenario.figures)
    assert all(math.isfinite(value) and value > 0 for value in nanoseconds)


def test_all_that_is_asked_for_is_there() -> None:
    """The scenarios have the names of the performance targets, and stand before the peers."""
    ours = ["S1", "S1c", "S2", "S3", "S4", "S5", "S6", "S7", "S7b", "S8", "S8k", "S9", "S10", "S10k", "month"]
    assert list(SCENARIOS) == [*ours, "queue", "stream", "channel"]


def test_baseline_names_each_primitive_once_per_backend() -> None:
    """The table has a line for each primitive, and costs that are numbers."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in show_baseline(scale=0.0001).splitlines()[2:]]
    names = [(line[0], line[1]) for line in lines]
    assert len(names) == len(set(names)) >= 12
    assert all(float(line[2]) >= 0 for line in lines)
