"""How many slots an actor should have: the decision, taken at one look after the other.

Up at once, by doubling: a backlog has to be met before it grows.  Down slowly, by halves, and never below what runs.
"""

from typing import Final

from flowmesh.policies import Autoscale

__all__ = ["LOOKS", "PATIENCE", "next_width"]

LOOKS: Final = 2
"""Looks in each `target` seconds."""
PATIENCE: Final = 4 * LOOKS
"""Idle looks in a row after which slots are given up."""


def next_width(policy: Autoscale, width: int, *, waited: float | None, running: int, idle_looks: int) -> int:
    """Return the number of slots from now on.

    Args:
        policy: what the actor was declared with.
        width: its slots now.
        waited: seconds that its oldest ready copy has waited; None if there is none.
        running: handlers that run.
        idle_looks: looks in a row, this one included, that found nothing ready and a slot free.
    """
    if waited is not None:
        return min(policy.max, 2 * width) if waited > policy.target else width
    if idle_looks >= PATIENCE:
        return max(policy.min, width // 2, running)
    return width
