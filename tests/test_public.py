"""The public face: what `from flowmesh import ...` gives is what docs use, type checkers see, and docstrings explain."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flowmesh
import flowmesh.errors

ROOT = Path(__file__).parents[1]
CLASSES = [name for name in flowmesh.__all__ if inspect.isclass(getattr(flowmesh, name))]


def imported_from_flowmesh(source: str) -> set[str]:
    """Return the names that a piece of Python imports from the package root."""
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module == "flowmesh")
    return {alias.name for node in found for alias in node.names}


def pages() -> Iterator[tuple[str, str]]:
    """Every piece of Python that the docs, the README and the examples show."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            yield f"{page.relative_to(ROOT)}, block {number}", block
    for example in (ROOT / "examples").glob("*.py"):
        yield str(example.relative_to(ROOT)), example.read_text()


def members_of(kind: type[Any]) -> Iterator[tuple[str, object]]:
    """The public methods and properties that a class defines, or inherits from another class of this package."""
    for owner in kind.__mro__:
        if owner.__module__.partition(".")[0] != "flowmesh":
            continue
        for name, member in vars(owner).items():
            thing = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if not name.startswith("_") and (inspect.isroutine(thing) or isinstance(thing, property)):
                yield f"{owner.__name__}.{name}", thing


def test_all_names_are_there_and_in_order() -> None:
    """`__all__` is sorted, names each thing once, and everything that it names exists."""
    assert flowmesh.__all__ == sorted(set(flowmesh.__all__))
    assert [name for name in flowmesh.__all__ if not hasattr(flowmesh, name)] == []


def test_nothing_public_is_left_out() -> None:
    """What the root imports is for users: there is no public name beside `__all__` but modules."""
    found = {name for name, thing in vars(flowmesh).items() if not name.startswith("_") and not inspect.ismodule(thing)}
    assert found == set(flowmesh.__all__) - {"__version__"}


def test_every_error_is_public() -> None:
    """Whatever is raised on purpose can be caught by a name from the root."""
    assert set(flowmesh.errors.__all__) <= set(flowmesh.__all__)


def test_pages_use_public_names_only() -> None:
    """The README, the docs and the examples import nothing from the root that it does not promise."""
    wrong = {place: sorted(imported_from_flowmesh(source) - set(flowmesh.__all__)) for place, source in pages()}
    assert {place: names for place, names in wrong.items() if names} == {}
    assert len(wrong) > 3, "no pages were found"


def test_map_of_the_root_is_true() -> None:
    """The modules that the root's docstring maps exist."""
    assert flowmesh.__doc__
    modules = re.findall(r"^    (\w+) {2,}", flowmesh.__doc__, re.MULTILINE)
    assert {"mesh", "message", "cli", "_core", "_runtime"} <= set(modules)
    for module in modules:
        importlib.import_module(f"flowmesh.{module}")


def test_every_name_is_pinned_for_type_checkers() -> None:
    """tests/typing says of each public name what users write with it."""
    pinned = {name for file in (ROOT / "tests/typing").glob("*.py") for name in imported_from_flowmesh(file.read_text())}
    assert sorted(set(flowmesh.__all__) - pinned) == []


@pytest.mark.parametrize("name", CLASSES)
def test_class_and_its_members_have_docstrings(name: str) -> None:
    """A public class says what it is, and each public method and property of it what it does, in a whole sentence."""
    kind = getattr(flowmesh, name)
    own = vars(kind).get("__doc__")
    things: dict[str, object] = {name: own, **{place: inspect.getdoc(thing) for place, thing in members_of(kind)}}
    for place, text in things.items():
        assert isinstance(text, str), f"{place} has no docstring"
        first = text.strip().split("\n\n")[0]
        assert first.endswith((".", ":")), f"{place}: {first!r}"


@pytest.mark.parametrize("name", CLASSES)
def test_at_most_two_positional_arguments(name: str) -> None:
    """Public calls take at most two arguments by position, but for `ctx.timer(name, delay, message)`; others have names."""
    for place, member in members_of(getattr(flowmesh, name)):
        if isinstance(member, property) or not callable(member):
            continue
        parameters = list(inspect.signature(member).parameters.values())[1:]
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        most = 3 if place.endswith("Context.timer") else 2
        assert len(positional) <= most, f"{place} takes {positional}"
