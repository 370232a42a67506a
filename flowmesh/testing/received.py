"""A message that has come to a probe, and what its handler ends with."""

from typing import Any, Generic, TypeVar

import anyio

from flowmesh.message import Message
from flowmesh.testing.matching import shown

__all__ = ["Received"]

Body = TypeVar("Body")


class Received(Generic[Body]):
    """A message that has come to a probe.

    `message`: it. `body`: what it says. `attempt`: 1, or more after failures. `at`: when it came, on the event loop's clock.
    """

    def __init__(self, message: Message, body: Body, attempt: int) -> None:
        self.message = message
        self.body = body
        self.attempt = attempt
        self.at = anyio.current_time()
        self._answer: Any = None
        self._answered = anyio.Event()

    def __repr__(self) -> str:
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{shown(self.body)} ({self.message.exchange!r}, key {self.message.key!r}{attempt}, at {self.at:g} s)"

    def reply(self, value: object = None) -> None:
        """Let the handler end with this, if it is held: a value is returned, an exception or a verdict raised.

        Raises:
            RuntimeError: it has been answered already; probes answer at once unless they `hold`.
        """
        if self._answered.is_set():
            raise RuntimeError(f"{self!r} has been answered already: call probe.hold() before it comes")
        self._answer = value
        self._answered.set()

    @property
    def is_answered(self) -> bool:
        """It has been said what its handler ends with."""
        return self._answered.is_set()

    async def answer(self) -> Any:
        """Wait for the reply.

        Cancellation: leaves nothing behind.
        """
        await self._answered.wait()
        return self._answer
