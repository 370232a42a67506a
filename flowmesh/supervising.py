"""What can be declared to be kept up together, in a mesh or a part: supervision groups."""

from collections.abc import Sequence
from typing import Any, cast, get_args

from flowmesh._core.supervision import Strategy
from flowmesh._runtime.actor import Actor
from flowmesh._runtime.declarations import GroupDeclaration
from flowmesh._runtime.groups import Group
from flowmesh._runtime.sources import Source
from flowmesh.errors import NotFound
from flowmesh.policies import Restart
from flowmesh.scheduling import Scheduling

__all__ = ["Supervising"]


class Supervising(Scheduling):
    """Whatever things can be declared in, supervision groups included."""

    def supervise(
        self,
        name: str,
        members: Sequence[Actor[Any, Any] | Source | Group],
        *,
        strategy: Strategy = "one_for_one",
        max: int | None = 5,
        within: float = 30.0,
        significant: Sequence[Actor[Any, Any] | Source | Group] = (),
    ) -> Group:
        """Let actors, sources and other groups be started, restarted and ended together.

            ingest = mesh.supervise("ingest", [parser, poll], strategy="rest_for_one", max=5, within=60.0)

        Members start in order, each when the one before it is ready, and are taken down in reverse. One that fails is brought
        up again, after a wait that grows from 0.1 s to 30 s, with jitter: a source that raises; a class actor whose start or
        lifespan fails, whose handler fails when it has no `restart=`, or whose own `restart=` is used up. A message that
        fails is settled first, and counts once. Function actors have nothing to make anew: they never fail, and are handed
        nothing while their group is down.

        Args:
            name: for messages about it.
            members: each in one group only.
            strategy: who is brought up again when a member fails: only that one ("one_for_one"), all ("one_for_all"), or
                that one and those after it ("rest_for_one"). It has left by then; the others are taken down, the last first,
                and their messages in hand go back.
            max: restarts within `within` seconds, at least 1, or None; one more and the failure escalates, to the group that
                this one is in, or to the mesh, which stops with RestartLimitReached.
            within: seconds.
            significant: the members that end their group when they end: a source by returning, an actor by `stop()`, a group
                by its end. All members are stopped then; the mesh goes on. When all members have ended, so has the group.

        Returns:
            the group, which may be a member of another one.

        Raises:
            PreconditionFailed: a group of that name exists, or a member is in another group.
            InvalidBinding: an actor belongs to another mesh.
            NotFound: a source or group is not declared here.
            ValueError: no members, one twice, an unknown strategy, a number out of its range, or a significant one that is no
                member.
        """
        held = tuple(members)
        if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance] - users get it wrong
            raise ValueError(f"name must be a text that is not empty, not {name!r}")
        if not held or len(set(map(id, held))) < len(held):
            raise ValueError(f"group {name!r} needs members, each once: actors, sources or groups")
        if strategy not in get_args(Strategy):
            raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}, not {strategy!r}")
        chosen = [index for index, member in enumerate(held) if any(member is one for one in significant)]
        if len(chosen) < len(significant):
            raise ValueError(f"significant names what is no member of group {name!r}: name members of it")
        group = Group(name, held, strategy=strategy, policy=Restart(max=max, within=within), significant=frozenset(chosen))
        declaration = GroupDeclaration(group, {one: self._source_name(name, one) for one in held if _is_source(one)})
        for member in held:
            self._check_member(name, member)
        declaration.check(self._engine)
        declaration.place(self._engine)
        self._keep(declaration)
        return group

    def _source_name(self, group: str, function: object) -> str:
        found = self._engine.sources.name_of(function)
        if found is None:
            raise NotFound(
                f"group {group!r} cannot hold {function!r}: no source of {self._engine.ground.label}; declare it first"
            )
        return found

    def _check_member(self, group: str, member: Actor[Any, Any] | Source | Group) -> None:
        if isinstance(member, Actor):
            self._check_reference(cast("Actor[Any, Any]", member), f"group {group!r} cannot hold {member!r}")
        elif isinstance(member, Group):
            found = self._engine.groups.plans.get(member.name)
            if found is None or found.origin is not member:
                raise NotFound(f"group {group!r} cannot hold {member!r}: no group of {self._engine.ground.label}")


def _is_source(member: object) -> bool:
    return not isinstance(member, Actor | Group)
