"""month: thirty days of schedules, retries and debounced messages in virtual time, and how long they take in real time.

The life of one small application, whose counts are known on paper (`expected`; tests/benchmarks/test_month.py holds them), so
that the figure is one of work that has been done:

* every quarter of an hour a cron line fires, for a handler that does nothing;
* every hour another one saves a draft five times, twenty seconds apart, and the index is told of the last;
* every day at nine in Berlin, where clocks change in between, fifty edits come, one every 25 s, and the index is told at least
  every 610 s;
* every night at one a job finds its service away for six hours, and is retried after 10, 20, 40 ... minutes, at most four
  hours, until it succeeds; another one never does, and is a dead letter thirteen hours later.

Time is the kit's own: nothing waits, so the real time is what the mesh and the virtual loop take for it.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import Final

import anyio
from msgspec import Struct

from benchmarks.harness import Bound, Figure, Scenario
from benchmarks.workload import started
from flowmesh import Context, Debounce, Mesh, Retry
from flowmesh.testing import VirtualClock, advance

__all__ = ["DAYS", "MONTH", "Lived", "expected", "live"]

DAYS: Final = 30
_DAY: Final = 86_400.0
_BEGIN: Final = datetime(2026, 3, 10, tzinfo=UTC)  # Berlin's clocks go ahead on the 29th.
_AWAY: Final = 6 * 3600.0
_BACKOFF: Final = Retry(8, initial=600.0, factor=2.0, maximum=4 * 3600.0, jitter="none")
_QUARTERS: Final = 24 * 4
_HOURS: Final = 24
_SAVES: Final = 5
_EDITS: Final = 50


class Draft(Struct, frozen=True, gc=False):
    """What is saved: the latest version of a document is what matters."""

    document: str
    version: int


class Lived(Struct, frozen=True):
    """What happened: fires of each schedule, calls of the failing handlers, messages to the index and what it was handed."""

    quarters: int = 0
    hours: int = 0
    mornings: int = 0
    nights: int = 0
    recovering: int = 0
    recovered: int = 0
    hopeless: int = 0
    dead: int = 0
    saved: int = 0
    indexed: int = 0
    superseded: int = 0


def expected(days: int) -> Lived:
    """Return what so many days bring, by arithmetic.

    The service is back after 6 h: attempts come 0, 10, 30, 70, 150, 310 and 550 minutes after the first, and the seventh is
    the first after 360.  Edits 0 to 24 fall into the first 610 s, the next 25 into the 610 s after the edit that follows, and
    so on: fifty of them are two bursts.
    """
    saved = days * (_HOURS * _SAVES + _EDITS)
    indexed = days * (_HOURS + _EDITS // 25)
    return Lived(
        quarters=days * _QUARTERS,
        hours=days * _HOURS,
        mornings=days,
        nights=days,
        recovering=days * 7,
        recovered=days,
        hopeless=days * 8,
        dead=days,
        saved=saved,
        indexed=indexed,
        superseded=saved - indexed,
    )


async def live(days: int = DAYS) -> Lived:
    """Live through so many days, in a loop whose time is virtual, and return what happened."""
    calls = {"recovering": 0, "recovered": 0, "hopeless": 0, "indexed": 0}
    began: dict[str, float] = {}
    mesh = Mesh("month", clock=VirtualClock(wall=_BEGIN.timestamp()))

    @mesh.actor(debounce=Debounce(30.0, 610.0, by=lambda draft: draft.document))
    async def index(draft: Draft) -> None:
        del draft
        calls["indexed"] += 1

    @mesh.actor(retry=_BACKOFF)
    async def recovering(night: str) -> None:
        calls["recovering"] += 1
        if anyio.current_time() - began.setdefault(night, anyio.current_time()) < _AWAY:
            raise ConnectionError("away until the morning")
        calls["recovered"] += 1

    @mesh.actor(retry=_BACKOFF)
    async def hopeless(night: str) -> None:
        del night
        calls["hopeless"] += 1
        raise ConnectionError("away for good")

    @mesh.cron("*/15 * * * *")
    async def quarterly() -> None:
        return

    @mesh.cron("@hourly")
    async def hourly(_: None, ctx: Context) -> None:
        for version in range(_SAVES):
            ctx.tell(index, Draft("draft", version), delay=20.0 * version)

    @mesh.cron("0 9 * * *", tz="Europe/Berlin")
    async def morning(_: None, ctx: Context) -> None:
        for version in range(_EDITS):
            ctx.tell(index, Draft("minutes", version), delay=25.0 * version)

    @mesh.cron("0 1 * * *")
    async def nightly(_: None, ctx: Context) -> None:
        ctx.tell(recovering, ctx.message.id)
        ctx.tell(hopeless, ctx.message.id)

    async with mesh:
        await advance(days * _DAY + 300.0)  # and a little more: the last hour's drafts settle
        numbers, box = mesh.statistics(), index.mailbox.statistics()
        return Lived(
            quarters=numbers.schedules["quarterly"].fired,
            hours=numbers.schedules["hourly"].fired,
            mornings=numbers.schedules["morning"].fired,
            nights=numbers.schedules["nightly"].fired,
            dead=len(mesh.dead_letters),
            saved=box.entered,
            superseded=box.dropped,
            **calls,
        )


async def _month(scale: float) -> Sequence[float]:
    days = max(1, round(DAYS * scale))
    log = logging.getLogger("flowmesh.month")
    before, log.disabled = log.disabled, True  # of jobs that fail as they shall, and how long a terminal takes to show it
    try:
        start = started()
        lived = await live(days)
        end = perf_counter_ns()
    finally:
        log.disabled = before
    if lived != expected(days):
        raise RuntimeError(f"these were not {days} days: {lived}, instead of {expected(days)}")
    return ((end - start) * DAYS / days,)


MONTH = Scenario(
    "month",
    "30 days of cron, backoff and debounce in virtual time",
    (Figure.alike("real time", "ms", Bound(gate=2000.0)),),
    _month,
    is_virtual=True,
)
