"""The rings of a directed graph: for each node that is on one, a shortest ring through it; the same ring is listed once."""

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

__all__ = ["rings_in"]

Node = TypeVar("Node", bound=tuple[Any, ...])


def rings_in(edges: Mapping[Node, Collection[Node]]) -> list[list[Node]]:
    """Return the rings, each from its smallest node on and without it at the end, in the order of their nodes.

    So every node that is on a ring is in one of them, but not every ring is listed: there may be exponentially many.
    Linear in a graph without rings; otherwise in the nodes on rings and between them times their edges.
    """
    left = _trimmed(edges)
    found: dict[tuple[Node, ...], None] = {}
    for node in sorted(left):
        ring = _through(node, left)
        if ring is not None:
            first = ring.index(min(ring))
            found[tuple(ring[first:] + ring[:first])] = None
    return [list(ring) for ring in sorted(found)]


def _trimmed(edges: Mapping[Node, Collection[Node]]) -> dict[Node, list[Node]]:
    """Leave out what nothing leads to or what leads nowhere, again and again."""
    leads = {node: sorted(set(targets)) for node, targets in edges.items()}
    for _ in range(2):
        comes: dict[Node, list[Node]] = {}
        for node, targets in leads.items():
            comes.setdefault(node, [])
            for target in targets:
                comes.setdefault(target, []).append(node)
        degree = {node: len(leads.get(node, ())) for node in comes}
        gone = [node for node, count in degree.items() if not count]
        for node in gone:  # grows while it is walked
            for source in comes[node]:
                degree[source] -= 1
                if not degree[source]:
                    gone.append(source)
        out = set(gone)
        leads = {node: [source for source in comes[node] if source not in out] for node in comes if node not in out}
    return {node: sorted(targets) for node, targets in leads.items()}


def _through(start: Node, edges: Mapping[Node, Collection[Node]]) -> list[Node] | None:
    came_from: dict[Node, Node] = {}
    queue = deque([start])
    while queue and start not in came_from:
        node = queue.popleft()
        for target in edges.get(node, ()):
            if target not in came_from:
                came_from[target] = node
                queue.append(target)
    if start not in came_from:
        return None
    ring = [start]
    step = came_from[start]
    while step != start:
        ring.append(step)
        step = came_from[step]
    return [start, *reversed(ring[1:])]
