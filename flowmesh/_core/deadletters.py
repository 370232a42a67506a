"""The history of deaths and the rule that cuts cycles: RabbitMQ's x-death, `rabbit_dead_letter.erl` and `mc.erl`.

One entry per (mailbox, reason), newest first; a death that happens again grows its entry's count and brings it to the front.
A copy is not dead-lettered into a mailbox that it has died in before when every death since then is one that the mesh
itself decides (expired, maxlen, delivery_limit): nobody would ever stop it.  A death that a handler decides (rejected,
failed, malformed) never closes a cycle.
"""

from typing import Final

from msgspec.structs import replace

from flowmesh.message import Death, DeathReason, Message

__all__ = ["RESTING", "bury", "closes_cycle"]

RESTING: Final = frozenset({"rejected", "failed", "delivery_limit", "malformed"})
"""Reasons whose copies rest in `mesh.dead_letters` when no dead-letter exchange is set; the others are only counted."""

_UNATTENDED: Final = frozenset({"expired", "maxlen", "delivery_limit"})


def bury(
    message: Message, mailbox: str, reason: DeathReason, *, wall: float, detail: str = "", exchange: str = "", key: str = ""
) -> Message:
    """Return the message as it leaves after this death: history extended, published to `exchange` with `key`.

    Its ttl is removed, so that it does not expire again, and kept in the history; its deadline is removed, because nobody
    waits for a dead letter.
    """
    deaths = message.properties.deaths
    before = next((death for death in deaths if death.mailbox == mailbox and death.reason == reason), None)
    if before is None:
        newest = Death(
            mailbox=mailbox,
            reason=reason,
            count=1,
            time=wall,
            exchange=message.exchange,
            keys=(message.key,),
            ttl=message.properties.ttl,
            detail=detail,
            order=sum(death.count for death in deaths),
        )
    else:
        newest = replace(before, count=before.count + 1, detail=detail)
    history = (newest, *(death for death in deaths if death is not before))
    properties = replace(message.properties, deaths=history, ttl=None, expires=None, deadline=None)
    return replace(message, exchange=exchange, key=key, properties=properties)


def closes_cycle(deaths: tuple[Death, ...], mailbox: str) -> bool:
    """Tell whether entering `mailbox` would close a cycle that nobody attends; `deaths` includes the newest one."""
    for death in deaths:
        if death.reason not in _UNATTENDED:
            return False
        if death.mailbox == mailbox:
            return True
    return False
