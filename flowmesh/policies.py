"""What users configure: frozen values, checked where they are made.

Seconds are floats.  A policy says what shall hold; the core decides by it, the runtime only carries the decision out.
"""

from typing import Any, Final, Literal, Protocol, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

__all__ = ["DEFAULT_CAPACITY", "MailboxOptions", "Named", "Overflow", "Retry", "name_of"]

Overflow = Literal["wait", "reject", "drop_oldest", "drop_newest"]
DEFAULT_CAPACITY: Final = 10_000


class Named(Protocol):
    """An exchange or a mailbox: something declared under a name."""

    @property
    def name(self) -> str:
        """The name."""
        ...


def name_of(thing: Named | str) -> str:
    """Return the name of an exchange or mailbox given as itself or by name."""
    return thing if isinstance(thing, str) else thing.name


class MailboxOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The limits and rules of one mailbox.

    Args:
        capacity: ready copies at which the mailbox is full (at least 1). A gate for new messages, not a wall: what the
            mesh itself moves enters a full `wait` or `reject` mailbox.
        overflow: what happens when it is full. `wait`: awaited senders wait in line, first come first served. `reject`:
            the whole publish raises MailboxFull. `drop_oldest`: the copy that would be handed out next is dropped.
            `drop_newest`: the new copy is left out.
        ttl: seconds a copy may be ready before it expires (None: no limit); the smaller of this and the message's holds.
        priorities: hand out by priority (0 to 255, higher first), then by place; otherwise by place alone.
        dead_letter: the exchange (or its name) that dead copies are published to. Looked up when used; if it is missing
            or routes nowhere the copy rests in `mesh.dead_letters`.
        dead_letter_key: their routing key; None keeps the key they had.
        max_deliveries: hand-outs that may end without a verdict before the copy is a dead letter (`delivery_limit`).

    Raises:
        ValueError: a value out of its range, naming it.
    """

    capacity: int = DEFAULT_CAPACITY
    overflow: Overflow = "wait"
    ttl: float | None = None
    priorities: bool = False
    dead_letter: Named | str | None = None
    dead_letter_key: str | None = None
    max_deliveries: int = 20

    def __post_init__(self) -> None:
        _require(_whole(self.capacity) and self.capacity >= 1, "capacity", "a whole number of at least 1", self.capacity)
        _require(self.overflow in get_args(Overflow), "overflow", f"one of {', '.join(get_args(Overflow))}", self.overflow)
        _require(self.ttl is None or self.ttl >= 0, "ttl", "zero or more seconds, or None", self.ttl)
        _require(
            _whole(self.max_deliveries) and self.max_deliveries >= 1,
            "max_deliveries",
            "a whole number of at least 1",
            self.max_deliveries,
        )
        if self.dead_letter_key is not None and self.dead_letter is None:
            raise ValueError("dead_letter_key needs dead_letter: name the exchange that dead letters are published to")
        if self.dead_letter is not None:
            named = isinstance(getattr(self.dead_letter, "name", self.dead_letter), str)
            _require(named, "dead_letter", "an exchange or its name, or None", self.dead_letter)
            # One spelling, so that an Exchange and its name declare the same mailbox.
            force_setattr(self, "dead_letter", name_of(self.dead_letter))

    @property
    def dead_letter_name(self) -> str | None:
        """The dead-letter exchange's name, or None."""
        return None if self.dead_letter is None else name_of(self.dead_letter)


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """How often, and after what delay, a message whose handler failed is handed out again.

    The delay before attempt n+1 is `initial * factor**(n-1)`, at most `maximum` seconds; with jitter "full" it is drawn
    evenly between zero and that (the "full jitter" of the AWS Architecture Blog, 2015), with "none" it is exactly that.

    Args:
        attempts: attempts in all, the first one included.
        initial, maximum: seconds.
        factor: growth from one delay to the next, at least 1.
        jitter: "full" or "none".
        on: exception types that are retried; a time limit is a TimeoutError.
        never: exception types that are not, although `on` names them.

    Raises:
        ValueError: a value out of its range, naming it.
    """

    attempts: int = 5
    initial: float = 0.2
    factor: float = 2.0
    maximum: float = 30.0
    jitter: Literal["full", "none"] = "full"
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        _require(_whole(self.attempts) and self.attempts >= 1, "attempts", "a whole number of at least 1", self.attempts)
        _require(self.initial >= 0, "initial", "zero or more seconds", self.initial)
        _require(self.factor >= 1, "factor", "at least 1", self.factor)
        _require(self.maximum >= 0, "maximum", "zero or more seconds", self.maximum)
        _require(self.jitter in ("full", "none"), "jitter", "'full' or 'none'", self.jitter)
        for name, kinds in (("on", self.on), ("never", self.never)):
            _require(
                isinstance(kinds, tuple)  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
                and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds),  # pyright: ignore[reportUnnecessaryIsInstance] - as above
                name,
                "a tuple of exception types",
                kinds,
            )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, name: str, what: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {what}, not {value!r}")
