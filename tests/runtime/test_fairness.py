"""Fairness: a mailbox, or a value, that floods takes from the others no more than its share."""

import anyio
import pytest
from msgspec import Struct

from flowmesh import Actor, Limit, MailboxOptions, Mesh
from flowmesh._runtime.ground import TURN_MESSAGES
from tests.runtime.counting import counts

pytestmark = pytest.mark.anyio


class Job(Struct, frozen=True):
    owner: int
    number: int = 0


async def test_one_mailbox_of_a_thousand_floods():
    """While one mailbox of a thousand is full to the brim, each other gets at least 0.8 of its fair share of the handlers.

    All have always something to do: each handler sends itself the next message, the flooding one two.
    """
    mesh = Mesh()
    handled = [0] * 1000
    rounds = 5
    left = rounds * TURN_MESSAGES * 1000
    at_the_end: list[int] = []

    def declare(number: int) -> None:
        @mesh.actor(name=f"a{number}", mailbox=MailboxOptions(overflow="drop_newest"))
        async def take(body: int) -> None:
            nonlocal left
            handled[number] += 1
            left -= 1
            if left > 0:
                for _ in range(1 if number else 2):
                    take.tell_nowait(body)
            elif left == 0:
                at_the_end.extend(handled)

        actors.append(take)

    actors: list[Actor[int, None]] = []
    for number in range(1000):
        declare(number)
    async with mesh:
        for copy in range(9_000):
            actors[0].tell_nowait(copy)
        for actor in actors[1:]:
            actor.tell_nowait(0)
        await mesh.idle()
    share = sum(at_the_end) / 1000
    assert share == rounds * TURN_MESSAGES
    assert min(at_the_end[1:]) >= 0.8 * share


async def test_one_value_of_a_thousand_floods():
    """A flood of one value takes `n` slots, whatever came first; the others have the rest, and are done as early as can be."""
    mesh = Mesh()
    done: dict[int, float] = {}

    @mesh.actor(gates=[Limit(1, by=lambda job: job.owner)], concurrency=10)
    async def take(job: Job) -> None:
        await anyio.sleep(1)
        done[job.owner] = anyio.current_time() - began

    async with mesh:
        began = anyio.current_time()
        for number in range(500):
            await take.tell(Job(0, number))
        for owner in range(1, 1000):
            await take.tell(Job(owner))
        await mesh.idle()
    assert max(at for owner, at in done.items() if owner) == 111  # 999 in nine slots
    assert counts(take.mailbox) == {"entered": 1499, "acked": 1499}
