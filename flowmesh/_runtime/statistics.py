"""The numbers of a whole mesh at one moment."""

from collections.abc import Mapping

from msgspec import Struct

from flowmesh._core.mailbox import MailboxStatistics

__all__ = ["ActorStatistics", "Statistics"]


class ActorStatistics(Struct, frozen=True):
    """The numbers of one actor.

    `running`: turns under way, of at most `slots`. `failed` (dead letters and errors to askers), `retried`: turns that
    ended so. `held`: mailboxes that it waits for, because its turns overfilled them. `progress`: what running
    handlers say through `ctx.progress`, message id -> (done, total).
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


class Statistics(Struct, frozen=True):
    """The numbers of one mesh: per mailbox, actor and exchange by name.

    `unroutable` counts, per exchange, messages that went to no mailbox. `deferred` messages wait for their time;
    `workers` are the tasks that run handlers, `workers_parked` of them idle.
    """

    mailboxes: Mapping[str, MailboxStatistics]
    actors: Mapping[str, ActorStatistics]
    unroutable: Mapping[str, int]
    dead_letters: MailboxStatistics
    deferred: int
    workers: int
    workers_parked: int
