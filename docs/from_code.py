"""A Sphinx extension: tables that are read from the code, so that a page cannot say what the code does not.

{copy-states}            what a copy can become: `TRANSITIONS` of flowmesh._core.entry
{phases}                 the phases of a mesh: `Phase` of flowmesh._runtime.ground
{floors}                 which package may import which: the contract that import-linter holds, in pyproject.toml
{modules} flowmesh._core what each module of a package is for: the first line of its docstring
{judgements}             what becomes of an actor that has failed: `decide` of flowmesh._core.supervision
{strategies}             who is brought up again with a member of a group: `affected` of the same
{state-diagram} file.py Name   the Mermaid diagram of a state machine in that file
{state-table} file.py Name     the same machine as a table: its states, its message types, and what is done with each pair
{cancellations}          what each public await leaves behind: the `Cancellation:` of its docstring
{promises}               what a store promises, with its tests and their figures: promises.toml and promises.json
{found}                  what the tests of these promises have counted: promises.json
"""

import ast
import inspect
import re
import runpy
import tomllib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final, cast, get_args

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import flowmesh
import flowmesh.testing
from flowmesh._core.entry import TRANSITIONS, State
from flowmesh._core.machines import Otherwise, Response
from flowmesh._core.supervision import FRESH, Failure, Strategy, affected, decide
from flowmesh._runtime.ground import Phase
from flowmesh._runtime.machine import machine_handler_of
from flowmesh.policies import Restart
from tools.promises import figure_of, read_promises, read_records

ROOT: Final = Path(__file__).parents[1]
# To the end of the paragraph, or to the next section of the docstring.
CANCELLATION: Final = re.compile(r"Cancellation:\s+(.+?)(?=\n\s*\n|\n\w+:\n|\Z)", re.DOTALL)
SPELLED: Final = {
    "Mesh.__aenter__": "entering `async with mesh`",
    "Mesh.__aexit__": "leaving `async with mesh`",
    "Deliveries.__anext__": "`async for delivery in deliveries`",
}
"""How a user writes what has no name to be called by."""

Row = Sequence[str]


class TableFromCode(SphinxDirective):
    """A table whose cells are inline Markdown."""

    head: Row = ()

    def rows(self) -> Iterator[Row]:
        """Yield the cells of each row."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        group = nodes.tgroup(cols=len(self.head))
        group += [nodes.colspec(colwidth=1) for _ in self.head]
        group += nodes.thead("", self._row(self.head))
        group += nodes.tbody("", *(self._row(row) for row in self.rows()))
        return [nodes.table("", group, classes=["colwidths-auto"])]

    def _row(self, cells: Row) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            parsed, messages = self.parse_inline(cell)
            row += nodes.entry("", nodes.paragraph("", "", *parsed, *messages))
        return row


class CopyStates(TableFromCode):
    """What a copy can become."""

    head = ("a copy that is", "can become")

    def rows(self) -> Iterator[Row]:
        """Yield each state, in the order of its declaration, with those that may follow it."""
        for state in State:
            following = [f"`{later.name}`" for later in State if (state, later) in TRANSITIONS]
            yield f"`{state.name}`", ", ".join(following) or "nothing: it is settled for good"


class Phases(TableFromCode):
    """The phases of a mesh."""

    head = ("phase", "the mesh")

    def rows(self) -> Iterator[Row]:
        """Yield each phase, in the order of a mesh's life."""
        for phase in Phase:
            yield f"`{phase.name}`", phase.value


class Floors(TableFromCode):
    """Which package may import which."""

    head = ("floor", "rooms that exist today")

    def rows(self) -> Iterator[Row]:
        """Yield the floors that have rooms, the highest first."""
        with (ROOT / "pyproject.toml").open("rb") as file:
            contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
        layers: list[str] = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
        there = [[room for room in re.findall(r"\w+", layer) if find_spec(f"flowmesh.{room}") is not None] for layer in layers]
        there = [rooms for rooms in there if rooms]
        for number, rooms in enumerate(there):
            yield str(len(there) - number), " · ".join(f"`{room}`" for room in rooms)


class Modules(TableFromCode):
    """What each module of a package is for."""

    required_arguments = 1
    head = ("module", "what it is for")

    def rows(self) -> Iterator[Row]:
        """Yield the modules by name, with the first line of their docstrings."""
        folder = ROOT.joinpath(*self.arguments[0].split("."))
        for path in sorted(folder.glob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring is not None:
                self.env.note_dependency(str(path))
                yield f"`{path.stem}`", docstring.split("\n\n", maxsplit=1)[0].replace("\n", " ")


class Judgements(TableFromCode):
    """What becomes of an actor, with `Restart(on=(OSError,))`."""

    head = ("what is raised", "by a handler", "by a start, a lifespan, or a task in it")
    raised: ClassVar[Sequence[tuple[str, BaseException]]] = (
        ("`OSError`, which `on` names", OSError()),
        ("`ValueError`, which it does not", ValueError()),
        ("`KeyboardInterrupt`, `SystemExit`", KeyboardInterrupt()),
        ("a group of `OSError` and `ValueError`", ExceptionGroup("", [OSError(), ValueError()])),
        ("a group with a `SystemExit` in it", BaseExceptionGroup("", [OSError(), SystemExit()])),
    )
    spelled: ClassVar[dict[str, str]] = {"go_on": "it lives on", "restart": "made anew", "escalate": "escalates"}

    def rows(self) -> Iterator[Row]:
        """Yield each error with what is decided."""
        policy = Restart(on=(OSError,))
        for what, error in self.raised:
            cells = [decide(Failure(error, of_handler=handler), FRESH, 0.0, policy=policy) for handler in (True, False)]
            yield what, *(self.spelled[decision.verdict] for decision in cells)


class Strategies(TableFromCode):
    """Who is brought up again when b of a, b and c has failed."""

    head = ("strategy", "when b of a, b, c fails, these are taken down", "and then started")

    def rows(self) -> Iterator[Row]:
        """Yield each strategy."""
        for strategy in get_args(Strategy):
            again = ["abc"[index] for index in affected(strategy, 1, 3)]
            yield f"`{strategy}`", ", ".join(reversed(again)), ", ".join(again)


def machine_in(path: str, name: str) -> type[flowmesh.Machine]:
    """Return the state machine of this name in a file of the repository."""
    return cast("type[flowmesh.Machine]", runpy.run_path(str(ROOT / path), run_name="from_code")[name])


class StateDiagram(SphinxDirective):
    """A machine as Mermaid."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Build a literal block: viewers of Markdown and Mermaid's own editor draw it."""
        self.env.note_dependency(str(ROOT / self.arguments[0]))
        text = machine_in(*self.arguments).diagram()
        return [nodes.literal_block(text, text, language="text")]


class StateTable(TableFromCode):
    """What a machine does with each type in each state."""

    required_arguments = 2
    head = ("in state", "a message", "is")

    def rows(self) -> Iterator[Row]:
        """Yield each pair, and each timeout."""
        self.env.note_dependency(str(ROOT / self.arguments[0]))
        machinery = machine_handler_of(machine_in(*self.arguments)).machinery
        for state in machinery.states:
            for kind in machinery.kinds:
                yield f"`{state}`", f"`{kind.__name__}`", self._done(machinery.response(state, kind))
            timeout = machinery.timeouts.get(state)
            if timeout is not None:
                yield f"`{state}`", f"(after {timeout.delay:g} s)", self._done(timeout.handling)

    @staticmethod
    def _done(response: Response | None) -> str:
        if isinstance(response, Otherwise):
            return response.value
        if response is None:
            return "unhandled"
        leads = " or ".join(f"`{state}`" for state in response.targets) or "the same state"
        return f"handled by `{response.method}`: {'' if response.goes or not response.targets else 'perhaps '}{leads}"


class Cancellations(TableFromCode):
    """What each public await leaves behind."""

    head = ("await", "cancelled")

    def rows(self) -> Iterator[Row]:
        """Yield the public coroutine functions and methods, in the order of their source."""
        for module in (flowmesh, flowmesh.testing):
            for name in module.__all__:
                thing: Any = getattr(module, name)
                if inspect.isclass(thing) and thing.__module__.startswith("flowmesh."):
                    for attribute, member in vars(thing).items():
                        if attribute.startswith("__") or not attribute.startswith("_"):
                            yield from self._row_of(f"{name}.{attribute}", member)
                else:
                    yield from self._row_of(name, thing)

    @staticmethod
    def _row_of(name: str, member: Any) -> Iterator[Row]:
        found = CANCELLATION.search(inspect.getdoc(member) or "") if inspect.iscoroutinefunction(member) else None
        if found is not None:
            text = " ".join(found[1].split())
            yield SPELLED.get(name, f"`{name}`"), text[0].upper() + text[1:]


class Promises(TableFromCode):
    """What a store promises: promise, figure, tests."""

    head = ("promise", "figure", "tests")

    def rows(self) -> Iterator[Row]:
        """Yield the promises in their order."""
        records = read_records()
        for promise in read_promises():
            yield promise["promise"], figure_of(promise, records), ", ".join(f"`{test}`" for test in promise["tests"])


class Found(TableFromCode):
    """What the tests behind the promises have counted."""

    head = ("test", "what it has counted")

    def rows(self) -> Iterator[Row]:
        """Yield each line that a test has printed."""
        for test, record in read_records().items():
            for line in record["printed"]:
                yield f"`{test.rpartition('::')[2]}`", line


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the tables known to Sphinx."""
    app.add_directive("copy-states", CopyStates)
    app.add_directive("phases", Phases)
    app.add_directive("floors", Floors)
    app.add_directive("modules", Modules)
    app.add_directive("judgements", Judgements)
    app.add_directive("strategies", Strategies)
    app.add_directive("state-diagram", StateDiagram)
    app.add_directive("state-table", StateTable)
    app.add_directive("cancellations", Cancellations)
    app.add_directive("promises", Promises)
    app.add_directive("found", Found)
    return {"parallel_read_safe": True}
