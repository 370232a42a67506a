"""What users catch and raise: the tree of errors, and what each of them carries. Checked, never run.

Of refused lines see declaring.py.
"""

from typing import assert_type

from flowmesh import (
    AccessRefused,
    ActorError,
    ActorFailed,
    ActorStopped,
    AlreadySettled,
    DeadlockError,
    DeliveryError,
    FlowmeshError,
    InvalidBinding,
    InvalidHandler,
    MailboxFull,
    MalformedMessage,
    MeshError,
    MeshStopped,
    Message,
    NoReply,
    NotFound,
    NotRunning,
    PreconditionFailed,
    Reject,
    RestartLimitReached,
    RetryAfter,
    TopologyError,
    Unroutable,
    WrongBody,
    __version__,
)

VERSION: str = __version__
ROOTS: tuple[type[FlowmeshError], ...] = (MeshError, TopologyError, DeliveryError, ActorError)
OF_THE_MESH: tuple[type[MeshError], ...] = (MeshStopped, NotRunning)
OF_THE_TOPOLOGY: tuple[type[TopologyError], ...] = (NotFound, PreconditionFailed, AccessRefused, InvalidBinding)
OF_A_DELIVERY: tuple[type[DeliveryError], ...] = (Unroutable, MailboxFull, AlreadySettled, MalformedMessage)
OF_AN_ACTOR: tuple[type[ActorError], ...] = (
    *(InvalidHandler, WrongBody, ActorStopped, ActorFailed, RestartLimitReached, DeadlockError, NoReply),
)
ALSO_TYPE_ERRORS: tuple[type[TypeError], ...] = (WrongBody,)
VERDICTS: tuple[type[Exception], ...] = (Reject, RetryAfter)
NOT_ERRORS: tuple[type[FlowmeshError], ...] = (Reject,)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def catching(
    delivery: DeliveryError,
    full: MailboxFull,
    unanswered: NoReply,
    failed: ActorFailed,
    limit: RestartLimitReached,
    deadlock: DeadlockError,
) -> None:
    assert_type(limit.name, str)
    assert_type(delivery.message, Message | None)
    assert_type(full.mailbox, str)
    assert_type(unanswered.reason, str)
    assert_type(deadlock.ring, tuple[str, ...])
    assert_type(failed.type, str)
    assert_type(failed.text, str)
    assert_type(failed.traceback, str)


def raising(order: object) -> None:
    assert_type(Reject("why").reason, str)
    assert_type(Reject(order).reason, str)
    assert_type(RetryAfter(3).delay, float)
    assert_type(RetryAfter(0.5, "details", order).delay, float)
    RetryAfter("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryAfter()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
