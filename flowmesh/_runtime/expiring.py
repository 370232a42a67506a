"""Mailboxes that nobody uses: deleted once that has lasted as long as their `expires=` says (RabbitMQ's queue TTL).

A mailbox is in use while it has a consumer or somebody waits in `get`; a declaration, a `get` and the end of a use begin its
time anew, and so does the start of the mesh.  Publishing to it is no use.  No mailbox expires unless the mesh runs: neither
while it drains nor while it is stopped.  At most one timer per mailbox, and none while it is in use.
"""

import functools
from collections.abc import Callable

from flowmesh._core.mailbox import Mailbox
from flowmesh._runtime.ground import Ground, Phase

__all__ = ["Expiring"]


class Expiring:
    """The mailboxes of one mesh that expire, and since when each has been unused.

    `delete` deletes one and returns how many ready copies it had; `is_awaited`: somebody waits in a `get` of it.
    """

    def __init__(self, ground: Ground, *, delete: Callable[[Mailbox], int], is_awaited: Callable[[Mailbox], bool]) -> None:
        self._ground = ground
        self._delete = delete
        self._is_awaited = is_awaited
        self._used: dict[Mailbox, float] = {}
        self._timed: set[Mailbox] = set()

    def start(self) -> None:
        """Begin every mailbox's time: the mesh runs."""
        self._used.clear()
        self._timed.clear()  # The timers of an earlier run have gone with it.
        for mailbox in self._ground.router.mailboxes.values():
            self.used(mailbox)

    def used(self, mailbox: Mailbox) -> None:
        """Begin a mailbox's time anew. O(1), and nothing for one that does not expire."""
        lasting = mailbox.options.expires
        if lasting is None or mailbox.deleted or self._ground.phase is not Phase.RUNNING:
            return
        now = self._used[mailbox] = self._ground.now()
        if not (mailbox in self._timed or self._is_in_use(mailbox)):
            self._set(mailbox, now + lasting)

    def _is_in_use(self, mailbox: Mailbox) -> bool:
        return bool(mailbox.consumers) or self._is_awaited(mailbox)

    def _set(self, mailbox: Mailbox, due: float) -> None:
        self._timed.add(mailbox)
        self._ground.ledger.timers.set(due, functools.partial(self._look, mailbox))

    def _look(self, mailbox: Mailbox, now: float) -> None:
        """Delete it, unless it has been used meanwhile."""
        self._timed.discard(mailbox)
        used, lasting = self._used[mailbox], mailbox.options.expires
        assert lasting is not None
        if mailbox.deleted:
            del self._used[mailbox]
        elif self._ground.phase is Phase.RUNNING and not self._is_in_use(mailbox):
            if used + lasting > now:
                self._set(mailbox, used + lasting)
                return
            del self._used[mailbox]
            self._lapse(mailbox, lasting)

    def _lapse(self, mailbox: Mailbox, lasting: float) -> None:
        mailbox.lapsed = True
        ready = self._delete(mailbox)
        if ready:
            self._ground.log.warning(
                "mailbox %r has been deleted: nobody used it for %g s; ready copies that were purged: %d",
                mailbox.name,
                lasting,
                ready,
            )
        else:
            self._ground.log.info("mailbox %r has been deleted: nobody used it for %g s", mailbox.name, lasting)
