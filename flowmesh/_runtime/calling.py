"""Calls that block, in a thread of their own, and that are waited for whatever cancels the caller."""

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar, cast

from flowmesh._runtime.parking import Waiter, parking_here

__all__ = ["call_in_thread"]

Result = TypeVar("Result")


class _Call(Thread):
    """One call. `is_at_work`: virtual time stands still for it (see flowmesh.testing.threads)."""

    def __init__(self, call: Callable[[], object], tell: Callable[[], None]) -> None:
        super().__init__(name="flowmesh call", daemon=True)
        self._call = call
        self._tell = tell
        self.is_at_work = True
        self.is_over = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call, and tell that it is over."""
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, whoever waits raises it
            self.error = error
        self.is_over = True
        self._tell()
        self.is_at_work = False


async def call_in_thread(call: Callable[[], Result]) -> Result:
    """Return what a call returns that may block.

    Cancellation: none; what cancels the caller does so at its next checkpoint.

    Raises:
        BaseException: what it raised.
    """
    parking, waiter = parking_here(), Waiter()
    thread = _Call(call, lambda: parking.call_soon(lambda: parking.wake(waiter)))
    thread.start()
    await parking.outwait(waiter, lambda: thread.is_over)
    if thread.error is not None:
        raise thread.error
    return cast("Result", thread.result)
