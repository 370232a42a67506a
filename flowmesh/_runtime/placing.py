"""Where a part stands: what was declared in it, and the mesh in which that is placed now.

States: of no mesh; attached to a mesh (its handles stand for that mesh's things, until it is attached to another one).
A declaration that refers to another part waits until that part is in the same mesh; none may wait when the mesh starts.
"""

from collections.abc import Mapping
from typing import Any

from flowmesh._core.router import Router
from flowmesh._runtime.declarations import BindingDeclaration, Declaration, Handle
from flowmesh._runtime.engine import Engine
from flowmesh._runtime.exchange import Exchange
from flowmesh.errors import InvalidBinding, PreconditionFailed

__all__ = ["Placement"]


class Placement:
    """The declarations of one part, in order, and where they are placed. `own` is the part's engine, which never runs."""

    def __init__(self, own: Engine) -> None:
        self._own = own
        self._name = own.ground.name
        self._declarations: list[Declaration] = []
        self._waiting: list[Declaration] = []
        self._attached: Engine | None = None

    def __str__(self) -> str:
        return "of no mesh yet" if self._attached is None else f"of {self._attached.ground.label}"

    # What is declared

    def keep(self, declaration: Declaration) -> None:
        """Remember a declaration, and place it in the mesh, if there is one.

        Raises:
            PreconditionFailed: it is declared differently there; it is not remembered.
        """
        engine = self._attached
        if engine is not None:
            declaration.check(engine)
            if declaration.misses(engine) is None:
                declaration.place(engine)
            else:
                self._waiting.append(declaration)
        self._declarations.append(declaration)

    def keep_binding(
        self, source: Exchange, destination: Handle, *, key: str, arguments: Mapping[str, Any] | None, is_undone: bool
    ) -> None:
        """Bind, or unbind, here and wherever the part will be added.

        Raises:
            AccessRefused, InvalidBinding, ValueError: the binding makes no sense.
        """
        if not is_undone:
            Router.check_binding(source.core, destination.endpoint, key=key, arguments=arguments)
        self.keep(BindingDeclaration(source, destination, key, arguments, is_undone))

    # In a mesh

    @property
    def is_free(self) -> bool:
        """It is in no mesh that runs."""
        return self._attached is None or not self._attached.is_running

    def check(self, engine: Engine) -> None:
        """Raise what stands against adding it to this engine; nothing has changed.

        Raises:
            PreconditionFailed: something is declared differently there.
            InvalidBinding: that engine runs, and something that this refers to is missing.
        """
        for declaration in self._declarations:
            declaration.check(engine)
            missing = declaration.misses(engine)
            if engine.is_running and missing is not None and missing.engine not in (self._own, self._attached):
                raise self._missing(missing, engine)

    def attach(self, engine: Engine) -> None:
        """Place everything in this engine, unless it is there; what refers to something missing waits for `settle`.

        Raises:
            PreconditionFailed: it is in another mesh that runs.
        """
        if self._attached is engine:
            return
        if self._attached is not None and not self.is_free:
            raise PreconditionFailed(
                f"part {self._name!r} is in {self._attached.ground.label}, which runs: a part is in one running mesh at a "
                "time; stop that one first, or make a part for each"
            )
        self._attached = engine
        self._waiting = list(self._declarations)
        self.settle()

    def settle(self) -> None:
        """Place what can be placed of what waits."""
        engine = self._attached
        if engine is None:
            return
        waiting, self._waiting = self._waiting, []
        for declaration in waiting:
            if declaration.misses(engine) is None:
                declaration.place(engine)
            else:
                self._waiting.append(declaration)

    def check_complete(self) -> None:
        """Refuse to start with something missing.

        Raises:
            InvalidBinding: it refers to something that is not in its mesh.
        """
        engine = self._attached
        if engine is None:
            return
        for declaration in self._waiting:
            missing = declaration.misses(engine)
            if missing is not None:
                raise self._missing(missing, engine)

    def _missing(self, thing: Handle, engine: Engine) -> InvalidBinding:
        place = thing.engine.ground
        mend = f"mesh.add(...) {place.label} as well" if place.is_part else "refer to things of one mesh"
        return InvalidBinding(
            f"part {self._name!r} refers to {thing!r} of {place.label}, which is not in {engine.ground.label}: {mend}"
        )
