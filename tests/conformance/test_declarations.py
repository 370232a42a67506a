"""What AMQP 0-9-1 answers with an error raises here, case by case; and what it lets pass, passes.

Reply codes become errors: 403 AccessRefused, 404 NotFound, 406 PreconditionFailed.  DIFFERENT lists the cases that raise
something else, NOT_APPLICABLE those that have no counterpart, each with the reason.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from flowmesh import Mesh
from flowmesh._core.router import Router
from flowmesh.errors import AccessRefused, AlreadySettled, NotFound, PreconditionFailed
from flowmesh.message import Message
from flowmesh.policies import MailboxOptions
from tests.conformance.loading import load

TABLE = load("amqp_errors")
EXPECTED: Final[dict[str, Any]] = dict(TABLE["cases"])
ERRORS: Final[dict[str, type[Exception]]] = {"403": AccessRefused, "404": NotFound, "406": PreconditionFailed}

NOT_RESERVED = "no name is reserved: nothing is declared beforehand under a name that users could take"
NO_CONNECTION = "in process there are no connections, channels, logins or virtual hosts"
NOT_EXCLUSIVE = "a mailbox is neither exclusive nor bound to a connection"
NO_TRANSACTIONS = "there is no tx or confirm mode: publish_many is one commit, and every send returns a receipt"
NO_PSEUDO_QUEUE = "a reply goes straight to the asker: there is no pseudo-queue"
NO_CONSUMER_TAGS = "consumers have no tags: leaving the context manager ends one"

NOT_APPLICABLE: Final = {
    "queue.declare passive missing": "a declaration by name alone declares what is missing",
    "queue.declare name amq.*": NOT_RESERVED,
    "queue.declare existing exclusive of other connection / exclusive flag mismatch": NOT_EXCLUSIVE,
    "x-max-priority >255 or <0": "a mailbox has all 256 priorities or none; the range is checked where a message is sent",
    "argument of another queue type": "there is one type of mailbox, and its options are typed",
    "exchange.declare amq.* new": NOT_RESERVED,
    "exchange.delete amq.*": NOT_RESERVED,
    "basic.publish immediate=true": "there is no `immediate`; `ask` waits for the handler",
    "body larger than max_message_size": "a body in process is shared, not encoded, and has no size",
    "user_id property not the login": NO_CONNECTION,
    "basic.consume duplicate consumer tag": NO_CONSUMER_TAGS,
    "basic.consume exclusive while consumers exist, or any consume while an exclusive consumer holds": NOT_EXCLUSIVE,
    "basic.qos prefetch_size!=0": "prefetch counts deliveries; there is no size",
    "basic.recover requeue=false": "unsettled deliveries go back when the consumer leaves; there is no recover",
    "confirm.select after tx.select and vice versa": NO_TRANSACTIONS,
    "tx.commit/rollback without tx.select": NO_TRANSACTIONS,
    "second channel.open": NO_CONNECTION,
    "channel.flow active=false": NO_CONNECTION,
    "unknown vhost": NO_CONNECTION,
    "bad login": NO_CONNECTION,
    "reply-to pseudo-queue consume with no_ack=false": NO_PSEUDO_QUEUE,
    "publish reply_to=amq.rabbitmq.reply-to without reply consumer": NO_PSEUDO_QUEUE,
    "basic.cancel of unknown tag OK": NO_CONSUMER_TAGS,
}

DIFFERENT: Final[dict[str, type[Exception]]] = {
    # A value out of its range is a ValueError where it is made, before there is a mailbox or a message to refuse it.
    "x-message-ttl<0": ValueError,
    "queue.declare x-expires=0": ValueError,
    # 405 RESOURCE_LOCKED: a condition of the call does not hold, like any other.
    "basic.get on SAC queue": PreconditionFailed,
    "x-dead-letter-routing-key without x-dead-letter-exchange": ValueError,
    "basic.publish bad expiration string": ValueError,
    # AMQP takes '' for the queue declared last on the channel; here it names nothing.
    "queue.* with '' name and none declared on channel": ValueError,
    "basic.ack/nack/reject unknown or double tag": AlreadySettled,
}

Ways = list[Callable[[], object]]


def _mailbox_differently() -> Ways:
    router = Router()
    router.declare_mailbox("m")
    return [
        lambda: router.declare_mailbox("m", MailboxOptions(capacity=1)),
        lambda: router.declare_mailbox("m", MailboxOptions(ttl=1)),
    ]


def _delete_used_mailbox() -> Ways:
    router = Router()
    used, filled = router.declare_mailbox("used"), router.declare_mailbox("filled")
    used.consumers = 1
    filled.put(Message("", 1, None))
    return [lambda: router.delete_mailbox(used, if_unused=True), lambda: router.delete_mailbox(filled, if_empty=True)]


def _bind_what_is_gone() -> Ways:
    router = Router()
    exchange, gone, mailbox = router.declare_exchange("x"), router.declare_exchange("gone"), router.declare_mailbox("m")
    router.delete_exchange(gone)
    router.delete_mailbox(mailbox)
    return [lambda: router.bind(exchange, mailbox), lambda: router.bind(gone, exchange), lambda: router.bind(exchange, gone)]


def _touch_the_default_exchange() -> Ways:
    router = Router()
    default, exchange, mailbox = router.default_exchange, router.declare_exchange("x"), router.declare_mailbox("m")
    return [
        lambda: router.bind(default, mailbox, "m"),
        lambda: router.bind(exchange, default),
        lambda: router.unbind(default, mailbox, "m"),
        lambda: router.delete_exchange(default),
        lambda: router.declare_exchange("", "direct"),
    ]


def _delete_used_exchange() -> Ways:
    router = Router()
    exchange = router.declare_exchange("x")
    router.bind(exchange, router.declare_mailbox("m"))
    return [lambda: router.delete_exchange(exchange, if_unused=True)]


def _exchange_differently() -> Ways:
    router = Router()
    router.declare_exchange("x", "topic", alternate="a", internal=True)
    return [
        lambda: router.declare_exchange("x", "fanout", alternate="a", internal=True),
        lambda: router.declare_exchange("x", "topic", alternate="b", internal=True),
        lambda: router.declare_exchange("x", "topic", alternate="a", internal=False),
    ]


REFUSED: Final[dict[str, Callable[[], Ways]]] = {
    "queue.declare inequivalent durable/auto_delete/args": _mailbox_differently,
    "queue.declare x-expires=0": lambda: [lambda: MailboxOptions(expires=0)],
    "x-message-ttl<0": lambda: [lambda: MailboxOptions(ttl=-1)],
    "x-dead-letter-routing-key without x-dead-letter-exchange": lambda: [lambda: MailboxOptions(dead_letter_key="k")],
    "queue.* with '' name and none declared on channel": lambda: [lambda: Router().declare_mailbox("")],
    "queue.delete if_unused/if_empty violated": _delete_used_mailbox,
    "queue.bind unknown queue or exchange": _bind_what_is_gone,
    "bind/unbind/delete/declare default exchange ''": _touch_the_default_exchange,
    "exchange.delete if_unused in use": _delete_used_exchange,
    "exchange.declare unknown type": lambda: [lambda: Router().declare_exchange("x", "x-unknown")],
    (
        "exchange.declare different type/durable/auto_delete/internal/alternate-exchange (only that arg is compared)"
    ): _exchange_differently,
}


def _delete_mailbox_twice() -> None:
    router = Router()
    mailbox = router.declare_mailbox("m")
    router.delete_mailbox(mailbox)
    router.delete_mailbox(mailbox, if_unused=True, if_empty=True)


def _delete_exchange_twice() -> None:
    router = Router()
    exchange = router.declare_exchange("x")
    router.delete_exchange(exchange)
    router.delete_exchange(exchange, if_unused=True)


def _unbind_what_is_not_bound() -> None:
    router = Router()
    exchange, mailbox = router.declare_exchange("x"), router.declare_mailbox("m")
    assert not router.unbind(exchange, mailbox, "k")
    router.bind(exchange, mailbox, "k", {"n": 1})
    assert not router.unbind(exchange, mailbox, "k")
    assert len(exchange.table.bindings()) == 1


PASSED: Final[dict[str, Callable[[], None]]] = {
    "queue.delete missing": _delete_mailbox_twice,
    "queue.delete of missing queue OK": _delete_mailbox_twice,
    "exchange.delete missing": _delete_exchange_twice,
    "exchange.delete of missing exchange OK": _delete_exchange_twice,
    "unbind of missing binding OK": _unbind_what_is_not_bound,
}


async def _publish_to_a_deleted_exchange(mesh: Mesh) -> None:
    exchange = mesh.exchange("x")
    exchange.delete()
    await exchange.publish(None)


async def _publish_to_an_internal_exchange(mesh: Mesh) -> None:
    await mesh.exchange("x", internal=True).publish(None)


async def _publish_with_a_bad_ttl(mesh: Mesh) -> None:
    mesh.mailbox("m")
    await mesh.exchange("").publish(None, "m", ttl=-1)


async def _settle_twice(mesh: Mesh) -> None:
    mailbox = mesh.mailbox("m")
    await mesh.exchange("").publish(None, "m")
    delivery = mailbox.get_nowait()
    await delivery.ack()
    await delivery.nack()


async def _consume_from_a_deleted_mailbox(mesh: Mesh) -> None:
    mailbox = mesh.mailbox("m")
    mailbox.delete()
    async with mailbox.consume() as deliveries:
        async for _ in deliveries:
            pass


async def _get_around_a_single_active_consumer(mesh: Mesh) -> None:
    await mesh.mailbox("m", MailboxOptions(single_active=True)).get()


async def _get_from_a_deleted_mailbox(mesh: Mesh) -> None:
    mailbox = mesh.mailbox("m")
    mailbox.delete()
    await mailbox.get()


REFUSED_RUNNING: Final[dict[str, Callable[[Mesh], Awaitable[None]]]] = {
    "basic.publish unknown exchange": _publish_to_a_deleted_exchange,
    "basic.publish internal exchange": _publish_to_an_internal_exchange,
    "basic.publish bad expiration string": _publish_with_a_bad_ttl,
    "basic.ack/nack/reject unknown or double tag": _settle_twice,
    "basic.consume on unknown queue": _consume_from_a_deleted_mailbox,
    "basic.get on SAC queue": _get_around_a_single_active_consumer,
    "basic.get on unknown queue": _get_from_a_deleted_mailbox,
}


def _error_of(case: str) -> type[Exception]:
    return DIFFERENT.get(case) or ERRORS[str(EXPECTED[case])[:3]]


@pytest.mark.parametrize("case", [*EXPECTED, *TABLE["idempotent"]])
def test_every_case_is_taken_up_once(case: str) -> None:
    """Each case of the table is refused, passed, or not applicable for a reason: a new one has to be put somewhere."""
    assert [case in group for group in (REFUSED, REFUSED_RUNNING, PASSED, NOT_APPLICABLE)].count(True) == 1


def test_no_case_is_invented() -> None:
    """What is listed here stands in the table."""
    listed = {*REFUSED, *REFUSED_RUNNING, *PASSED, *NOT_APPLICABLE, *DIFFERENT}
    assert listed <= {*EXPECTED, *TABLE["idempotent"]}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    """Each way to do it raises the error of its reply code, or the one listed as different."""
    for way in REFUSED[case]():
        with pytest.raises(_error_of(case)):
            way()


@pytest.mark.parametrize("case", PASSED)
def test_what_is_no_error(case: str) -> None:
    """Doing it changes nothing and raises nothing."""
    assert str(EXPECTED.get(case, "ok")).startswith("ok")
    PASSED[case]()


@pytest.mark.anyio
@pytest.mark.parametrize("case", REFUSED_RUNNING)
async def test_what_a_running_mesh_refuses(case: str) -> None:
    """The same for what needs a mesh that runs."""
    async with Mesh("conformance") as mesh:
        with pytest.raises(_error_of(case)):
            await REFUSED_RUNNING[case](mesh)
