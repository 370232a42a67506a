"""Thirty days of one application in virtual time: every fire, attempt and debounced hand-out is there, and no other."""

import logging

import pytest

from benchmarks.harness import run_once
from benchmarks.scenarios.month import DAYS, MONTH, Lived, expected, live
from flowmesh.testing import BACKENDS, run
from flowmesh.testing.virtual import Backend

THIRTY_DAYS = Lived(
    quarters=2880,  # of an hour, by "*/15 * * * *"
    hours=720,
    mornings=30,  # at nine in Berlin, whose clocks go ahead on the 20th of these days
    nights=30,
    recovering=210,  # seven attempts a night: after 0, 10, 30, 70, 150, 310 and 550 minutes; it is back after 360
    recovered=30,
    hopeless=240,  # eight attempts a night, the last one 13 hours and 10 minutes after the first
    dead=30,
    saved=5100,  # five drafts an hour, and fifty edits a day
    indexed=780,  # of each five drafts the last, and of each fifty edits two: they go on for longer than `max_wait`
    superseded=4320,
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_thirty_days_to_the_last_message(backend: Backend):
    """Schedules, retries and debounced messages come out as they do on paper, across a change of the clocks."""
    assert run(live, backend=backend) == THIRTY_DAYS == expected(DAYS)


def test_a_month_that_is_none_is_no_figure(monkeypatch: pytest.MonkeyPatch):
    """The scenario measures nothing unless everything has happened; its log is as it was afterwards."""

    async def idle_away(_: int) -> Lived:
        return Lived()

    monkeypatch.setattr("benchmarks.scenarios.month.live", idle_away)
    with pytest.raises(RuntimeError, match="these were not 1 days"):
        run_once(MONTH, "asyncio", scale=0.01)
    assert not logging.getLogger("flowmesh.month").disabled
