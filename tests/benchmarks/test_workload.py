"""Rules of what the scenarios share."""

import anyio
import pytest

from benchmarks.workload import Countdown, percentile, scaled, started


@pytest.mark.parametrize(
    "values, percent, expected",
    [
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([1.0, 2.0], 50, 1.0),
        ([1.0, 2.0], 51, 2.0),
        ([7.0], 1, 7.0),
        ([float(number) for number in range(1, 101)], 99, 99.0),
        ([float(number) for number in range(1, 101)], 100, 100.0),
    ],
)
def test_percentile_is_by_nearest_rank(values: list[float], percent: float, expected: float) -> None:
    """A percentile is a value that occurred: the smallest that enough values do not exceed."""
    assert percentile(values, percent) == expected


@pytest.mark.parametrize("values, percent", [([], 50.0), ([1.0], 0.0), ([1.0], 100.5)])
def test_percentile_refuses_what_has_no_answer(values: list[float], percent: float) -> None:
    """No values, or a percentage that no rank belongs to, is an error and not a number."""
    with pytest.raises(ValueError, match="percentile needs values"):
        percentile(values, percent)


def test_scaled_keeps_enough_to_work_on() -> None:
    """A size follows the scale, rounded, down to twenty."""
    assert scaled(100_000, 1.0) == 100_000
    assert scaled(1_000, 0.0999) == 100
    assert scaled(1_000, 0.001) == 20


def test_started_collects_garbage_before_it_reads_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage of what came before is not charged to what is measured."""
    order: list[str] = []
    monkeypatch.setattr("gc.collect", lambda: order.append("collect"))

    def clock() -> int:
        order.append("clock")
        return 17

    assert started(clock) == 17
    assert order == ["collect", "clock"]


@pytest.mark.anyio
async def test_countdown_notes_the_end_and_wakes_whoever_waits() -> None:
    """The time is read by the last handler, with the clock of the measurement."""
    countdown = Countdown(2, clock=iter([42]).__next__)

    def handle() -> None:
        countdown.left -= 1
        if not countdown.left:
            countdown.end()

    async with anyio.create_task_group() as group:
        group.start_soon(countdown.wait)
        handle()
        assert countdown.ended == 0
        handle()
    assert countdown.ended == 42
