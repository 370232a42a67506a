"""The public Group: actors, sources and groups that are supervised together. Declare it with `mesh.supervise`."""

from collections.abc import Callable
from typing import Any

from flowmesh._core.supervision import Strategy
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.supervising import Plan
from flowmesh.policies import Restart

__all__ = ["Group"]


class Group:
    """A supervision group of a mesh; a member of another one, if you like. Declare it with `mesh.supervise`."""

    _engine: Engine
    _plan: Plan

    def __init__(
        self,
        name: str,
        members: "tuple[Actor[Any, Any] | Callable[..., Any] | Group, ...]",
        *,
        strategy: Strategy,
        policy: Restart,
        significant: frozenset[int],
    ) -> None:
        self.name = name
        self.members = members
        self.strategy: Strategy = strategy
        self.policy = policy
        self.significant = significant

    def attach(self, engine: Engine, plan: Plan) -> None:
        """Stand for this group from now on: it has been declared in a mesh, or its part has been added to one."""
        self._engine = engine
        self._plan = plan

    def __repr__(self) -> str:
        return f"<Group {self.name!r} of {len(self.members)}, {self.strategy}>"

    @property
    def restarts(self) -> int:
        """How often a failure of a member was answered by bringing up it, or several of them, again."""
        return self._plan.restarts

    @property
    def engine(self) -> Engine:
        """The engine that it is in."""
        return self._engine

    @property
    def plan(self) -> Plan:
        """What it is in that engine."""
        return self._plan
