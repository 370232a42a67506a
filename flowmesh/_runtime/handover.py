"""Waiting for a commit that is on its way to the store."""

from collections.abc import Callable

from flowmesh._runtime.ground import Ground
from flowmesh._runtime.parking import Waiter
from flowmesh.errors import StoreError

__all__ = ["Handover"]


class Handover(Waiter):
    """A commit that somebody waits for. `error`: why it was given up, once `is_over`. `on_failure`: told, if nobody waits."""

    __slots__ = ("_ground", "error", "is_over", "on_failure")

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self._ground = ground
        self.is_over = False
        self.error: StoreError | None = None
        self.on_failure: Callable[[StoreError], None] | None = None

    def __call__(self, error: StoreError | None) -> None:
        """Take the news that the commit has been applied, or given up."""
        self.is_over = True
        self.error = error
        if error is not None and self.on_failure is not None:
            self.on_failure(error)
        self._ground.parking.wake(self)

    async def wait(self) -> None:
        """Wait for it; once handed over it cannot be taken back.

        Cancellation: none; what cancels the caller does so at its next checkpoint.

        Raises:
            StoreError: it was given up; a new one for each that waits, with what the store said as its cause.
        """
        if not self.is_over:
            await self._ground.parking.outwait(self, lambda: self.is_over)
        if self.error is not None:
            raise type(self.error)(str(self.error)) from self.error
