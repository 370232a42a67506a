"""Who waits for whom: finds the ring that one more wait would close.

A wait-for graph of nodes that stand for anything: a turn, a slot, room in a mailbox.  A node goes on by itself, or when every
one of the nodes that it needs has gone on, or when any one of them has.  What never goes on is stuck: the greatest set of nodes
each of which needs others of the set.  So a ring is one only if no way out of it is left: a free slot anywhere breaks it.
"""

from collections import deque
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from msgspec import Struct

__all__ = ["Needs", "closed_ring"]

Node = TypeVar("Node", bound=Hashable)


class Needs(Struct, Generic[Node], frozen=True):
    """What a node needs before it goes on: all of these nodes, or, unless `every`, one of them."""

    nodes: Collection[Node]
    every: bool


def closed_ring(start: Node, needs: Callable[[Node], Needs[Node] | None]) -> list[Node] | None:
    """Return a shortest ring of stuck nodes from `start` on, each needing the next and the last `start`; None if there is none.

    There is none if `start` goes on sooner or later, and if it is stuck only because of a ring that it is not part of. Linear
    in the nodes that can be reached and what they need, and ends as soon as `start` is known to go on.

    Args:
        start: the node whose wait is in question.
        needs: what a node needs; None: it goes on by itself. Asked once for each node.
    """
    stuck = _stuck(start, needs)
    return None if stuck is None else _way_back(start, stuck)


def _stuck(start: Node, needs: Callable[[Node], Needs[Node] | None]) -> dict[Node, Collection[Node]] | None:
    """Return what the stuck nodes that `start` leads to need; None if `start` goes on."""
    needed: dict[Node, Collection[Node]] = {}
    missing: dict[Node, int] = {}
    needed_by: dict[Node, list[Node]] = {}
    going: set[Node] = set()
    # The last found first: one that goes on by itself is most often a few steps away, and lets `start` go on.
    found = [start]
    while found:
        node = found.pop()
        if node in needed or node in going:
            continue
        need = needs(node)
        freed: list[Node] = []
        if need is None:
            freed.append(node)
        else:
            nodes = dict.fromkeys(need.nodes)
            there = sum(one in going for one in nodes)
            needed[node] = nodes
            missing[node] = len(nodes) - there if need.every else 1 - min(there, 1)
            if not missing[node]:
                freed.append(node)
            for one in nodes:
                if one not in going:
                    needed_by.setdefault(one, []).append(node)
                    if one not in needed:
                        found.append(one)
        while freed:
            one = freed.pop()
            if one in going:
                continue
            if one == start:
                return None
            going.add(one)
            for other in needed_by.get(one, ()):
                missing[other] -= 1
                if not missing[other]:
                    freed.append(other)
    return {node: nodes for node, nodes in needed.items() if node not in going}


def _way_back(start: Node, stuck: dict[Node, Collection[Node]]) -> list[Node] | None:
    """Return the shortest chain of needs from `start` to itself."""
    came_from: dict[Node, Node] = {}
    queue = deque([start])
    while queue and start not in came_from:
        node = queue.popleft()
        for one in stuck[node]:
            if one in stuck and one not in came_from:
                came_from[one] = node
                queue.append(one)
    if start not in came_from:
        return None
    ring = [start]
    step = came_from[start]
    while step != start:
        ring.append(step)
        step = came_from[step]
    return [start, *reversed(ring[1:])]
