"""Who waits for whom: finds the ring that one more wait would close.

An actor that is held waits for room in mailboxes; a mailbox gets room when one of its consumers goes on.  So a mailbox is
stuck when it has consumers and all of them are, and an actor is stuck when one of the mailboxes it is held by is.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import TypeVar

__all__ = ["closed_ring"]

Actor = TypeVar("Actor")
Box = TypeVar("Box")


def closed_ring(
    actor: Actor,
    mailbox: Box,
    *,
    consumers_of: Callable[[Box], Collection[Actor]],
    held_by: Callable[[Actor], Collection[Box]],
) -> list[Actor] | None:
    """Return the ring that holding `actor` until `mailbox` has room would close, from `actor` on, or None.

    Each waits for a mailbox that the next one feeds from, the last for one of `actor`; it is a shortest one. Linear in the
    actors and mailboxes that can be reached and in what ties them.
    """
    feeds: dict[Box, Collection[Actor]] = {mailbox: consumers_of(mailbox)}
    holds: dict[Actor, Collection[Box]] = {}
    boxes = [mailbox]
    for box in boxes:  # grows while it is walked
        for consumer in feeds[box]:
            if consumer not in holds:
                holds[consumer] = held_by(consumer)
                for other in holds[consumer]:
                    if other not in feeds:
                        feeds[other] = consumers_of(other)
                        boxes.append(other)
    stuck = _stuck(actor, feeds, holds)
    return _way_back(actor, mailbox, stuck, feeds, holds) if mailbox in stuck else None


def _stuck(actor: Actor, feeds: dict[Box, Collection[Actor]], holds: dict[Actor, Collection[Box]]) -> set[Box]:
    """Return the mailboxes that never get room again while `actor` is held."""
    waits = {held: len(boxes) for held, boxes in holds.items()}
    waited_for: dict[Box, list[Actor]] = {box: [] for box in feeds}
    for held, boxes in holds.items():
        for box in boxes:
            waited_for[box].append(held)
    stuck = set(feeds)
    # Whoever nobody holds frees its mailboxes, and those free whom they held.
    free = [held for held, left in waits.items() if not left and held is not actor]
    freed = [box for box, consumers in feeds.items() if not consumers]
    feeding: dict[Actor, list[Box]] = {}
    for box, consumers in feeds.items():
        for consumer in consumers:
            feeding.setdefault(consumer, []).append(box)
    while free or freed:
        if free:
            freed += feeding[free.pop()]
            continue
        box = freed.pop()
        if box not in stuck:
            continue
        stuck.discard(box)
        for held in waited_for[box]:
            waits[held] -= 1
            if not waits[held] and held is not actor:
                free.append(held)
    return stuck


def _way_back(
    actor: Actor, mailbox: Box, stuck: set[Box], feeds: dict[Box, Collection[Actor]], holds: dict[Actor, Collection[Box]]
) -> list[Actor]:
    """Return the shortest chain of waits from `mailbox` to `actor`."""
    came_from: dict[Actor, Actor | None] = {}
    seen = {mailbox}
    queue: deque[tuple[Box, Actor | None]] = deque([(mailbox, None)])
    while queue and actor not in came_from:
        box, before = queue.popleft()
        for consumer in feeds[box]:
            if consumer in came_from:
                continue
            came_from[consumer] = before
            for other in holds[consumer]:
                if other in stuck and other not in seen:
                    seen.add(other)
                    queue.append((other, consumer))
    ring: list[Actor] = []
    step = came_from.get(actor)
    while step is not None:
        ring.append(step)
        step = came_from[step]
    return [actor, *reversed(ring)]
