"""What can be declared: mistakes in it are named where they are made, with the mend."""

from collections.abc import Callable
from typing import Any

import pytest

from flowmesh import ActorContext, Context, InvalidBinding, InvalidHandler, MailboxOptions, Mesh


async def _take(number: int) -> None:
    del number


class _Desk:
    async def take(self, number: int) -> None:
        del number


async def _poll(ctx: Context) -> None:
    del ctx


WRONG: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (
        lambda mesh: mesh.actor(_take, bind=mesh.exchange("orders")),
        InvalidBinding,
        r"bind= takes exchange.on\(...\), or a list of them, not <Exchange 'orders' direct>: say bind=orders.on\(key\)",
    ),
    (lambda mesh: mesh.actor(_take, bind="orders"), InvalidBinding, "or a list of them, not 'orders'"),
    (lambda mesh: mesh.actor(_take, bind=[3]), InvalidBinding, "or a list of them, not 3"),
    (lambda mesh: mesh.mailbox("work", 3), TypeError, r"options of mailbox 'work' must be MailboxOptions\(...\), not 3"),
    (
        lambda mesh: mesh.every("60", mesh.mailbox("work")),
        ValueError,
        "seconds must be a finite number, more than zero, not '60'",
    ),
    (lambda mesh: mesh.actor(_Desk.take), InvalidHandler, r"declare it with an instance, mesh.actor\(thing.method\)"),
    (
        lambda mesh: mesh.source(_poll),
        InvalidHandler,
        "has no message, so no Context: annotate 'ctx' with ActorContext",
    ),
]


@pytest.mark.parametrize("declare, error, text", WRONG)
def test_mistakes_are_named_with_their_mend(declare: Callable[[Any], Any], error: type[Exception], text: str):
    """Each mistake raises at the declaration, and changes nothing."""
    mesh = Mesh("shop")
    mesh.exchange("orders")
    mesh.mailbox("work", MailboxOptions())
    before = mesh.topology().json()
    with pytest.raises(error, match=text):
        declare(mesh)
    assert mesh.topology().json() == before


def test_a_source_may_be_written_without_an_annotation():
    """A source's one parameter is its ActorContext, annotated or not."""
    mesh = Mesh("shop")

    async def plain(ctx) -> None:
        del ctx

    async def annotated(ctx: ActorContext) -> None:
        del ctx

    mesh.source(plain)
    mesh.source(annotated)
