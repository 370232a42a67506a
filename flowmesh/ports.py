"""The ports: what the runtime asks of the outside world, as contracts in prose.

An adapter is done when the shared tests of its port pass on it.
"""

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """The only source of time for a mesh.

    Adapters: the running event loop's clock (the default) and `flowmesh.testing.VirtualClock`.
    """

    def start(self) -> None:
        """Bind to the running event loop; called once at every start of a mesh, inside its loop. Must not block."""
        ...

    def now(self) -> float:
        """Return monotonic seconds: never goes back, starts anywhere. Called once or more per message: must be cheap."""
        ...

    def wall(self) -> float:
        """Return wall-clock seconds since the epoch; may jump in either direction."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `now()` has grown by at least `seconds`; a checkpoint also when `seconds` is zero or less.

        Cancellation: leaves nothing behind.
        """
        ...
