"""The numbers of a whole mesh at one moment."""

import datetime
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from flowmesh._core.gates import GateStatistics
from flowmesh._core.numbers import MailboxStatistics
from flowmesh._runtime.cell import Keyed
from flowmesh.message import Durability
from flowmesh.ports import TracingStatistics

__all__ = [
    "LONG",
    "ActorStatistics",
    "InstanceStatistics",
    "ScheduleStatistics",
    "Statistics",
    "StoreStatistics",
]

LONG: Final = 1.0
"""Seconds after which a turn is listed as running for long, unless another time is asked for."""


class InstanceStatistics(Struct, frozen=True):
    """The numbers of a class actor's instances with `by=`.

    `active`: those that are there, that start and that leave. `put_away`: how many have been. `waiting`: values that wait
    until another one's instance has been put away, because `max_active` are there.
    """

    active: int
    put_away: int
    waiting: int

    @classmethod
    def of(cls, instances: Keyed) -> "InstanceStatistics":
        """Return the numbers of this moment."""
        return cls(instances.count, instances.put_away, instances.waiting)


class ActorStatistics(Struct, frozen=True):
    """The numbers of one actor.

    `running`: turns under way, of at most `slots`. `failed` (dead letters and errors to askers), `retried`: turns that
    ended so. `held`: mailboxes that it waits for, because its turns overfilled them. `progress`: what running
    handlers say through `ctx.progress`, message id -> (done, total). `standby`: another one of its `single_active` mailbox is
    handed the messages. `gates`: in the order in which they were given. `scaled`: how often Autoscale has changed `slots`
    in this run of the mesh. `flushed`: batches handed out, by the reason why they were (see BatchTurn); only of an actor
    with `batch=`. `restarts`: how often a class actor's instance was made anew, or an attempt at it. `running_for`: turns that
    have been running for longer than was asked for, message id -> seconds. `state`: of a Machine, while there is one; None
    of one with `by=`, whose values have a state each. `postponed`: messages, leased, that wait for a change of state, of all
    values. `instances`: only of a class with `by=`.
    """

    mailbox: str
    slots: int
    running: int
    failed: int
    retried: int
    paused: bool
    stopped: bool
    held: tuple[str, ...]
    progress: Mapping[str, tuple[float, float | None]]
    standby: bool = False
    gates: tuple[GateStatistics, ...] = ()
    scaled: int = 0
    flushed: Mapping[str, int] = {}
    restarts: int = 0
    running_for: Mapping[str, float] = {}
    state: str | None = None
    postponed: int = 0
    instances: InstanceStatistics | None = None


class ScheduleStatistics(Struct, frozen=True):
    """The numbers of one schedule.

    `fired`: messages that it made. `skipped`: fires that it left out, for the one before them was not settled. `missed`: due
    times that nobody was there for, and that were not made up for. `waiting`: fires that wait for the one before them.
    `next_fire`: when it is due next (aware), or None: it is paused, it waits for the fire before, or its mesh does not run.
    """

    fired: int
    skipped: int
    missed: int
    waiting: int
    next_fire: datetime.datetime | None
    paused: bool


class StoreStatistics(Struct, frozen=True):
    """What a mesh knows of its store.

    `durability`: what a confirmed message survives. `in_flight`: commits and readings that are under way. `is_broken`: it has
    failed, and confirms nothing more until the mesh is started anew. `unclaimed`: stored messages of mailboxes that nothing
    declares any more. `quarantined`: rows that are not what was once written, as far as they
    have been read.
    """

    durability: Durability
    in_flight: int
    is_broken: bool
    unclaimed: Mapping[str, int]
    quarantined: int


class Statistics(Struct, frozen=True):
    """The numbers of one mesh: per mailbox, actor, exchange and schedule by name.

    `unroutable` counts, per exchange, messages that went to no mailbox. `deferred` messages wait for their time;
    `workers` are the tasks that run handlers, `workers_parked` of them idle. `observers_failed`: observers that raised in this
    run and are asked no more. `tracing`: None when nobody traces. `store`: None without one.
    """

    mailboxes: Mapping[str, MailboxStatistics]
    actors: Mapping[str, ActorStatistics]
    unroutable: Mapping[str, int]
    dead_letters: MailboxStatistics
    deferred: int
    workers: int
    workers_parked: int
    observers_failed: int = 0
    tracing: TracingStatistics | None = None
    schedules: Mapping[str, ScheduleStatistics] = {}
    store: StoreStatistics | None = None
