"""The numbers of a mailbox at one moment."""

from msgspec import Struct

__all__ = ["MailboxStatistics"]


class MailboxStatistics(Struct, frozen=True):
    """The numbers of one mailbox at one moment.

    Now: `ready` to be handed out, `leased`, `delayed` (put back until later), `over` (ready copies above capacity),
    `oldest_age` (seconds since the oldest ready copy entered, None when empty). Ever: `entered`, and how copies ended:
    `acked`, `dead` (went to a dead-letter exchange or to `mesh.dead_letters`), `expired`, `dropped`, `withdrawn` (its asker
    left), `purged`. entered = ready + leased + delayed + acked + dead + expired + dropped + withdrawn + purged; with a store, a
    copy that is not handed out any more, because its end is being written, is in none of them until it has been.
    `consumers`: actors and `consume` blocks on it; `standby` of them wait to take over, with `single_active`.
    """

    ready: int
    leased: int
    delayed: int
    entered: int
    acked: int
    dead: int
    expired: int
    dropped: int
    withdrawn: int
    purged: int
    over: int
    oldest_age: float | None
    consumers: int = 0
    standby: int = 0
