"""What `module_or_file[:mesh]` means, and what is said when it means nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flowmesh.cli.target import ImportFailed, TargetError, find_mesh

Write = Callable[[str, str], Path]

ONE = """
    from flowmesh import Mesh
    mesh = Mesh("one")
"""
TWO = """
    from flowmesh import Mesh
    left = Mesh("left")
    right = Mesh("right")
    same = left
    number = 3
"""


def test_dotted_name_is_found_from_the_current_folder(write: Write) -> None:
    """A dotted name is imported with the current folder first on the path."""
    write("shop/__init__.py", "")
    write("shop/till.py", ONE)
    mesh, place = find_mesh("shop.till")
    assert (mesh.name, place) == ("one", "shop.till:mesh")


def test_file_is_run_as_a_module_under_its_stem(write: Write) -> None:
    """A file is no `__main__`, and its neighbours can be imported."""
    write("jobs/neighbour.py", "NAME = 'from next door'")
    write(
        "jobs/nightly.py",
        "import neighbour\nfrom flowmesh import Mesh\nassert __name__ == 'nightly'\nmesh = Mesh(neighbour.NAME)",
    )
    mesh, place = find_mesh("jobs/nightly.py")
    assert (mesh.name, place) == ("from next door", "jobs/nightly.py:mesh")


def test_types_of_a_file_can_be_looked_up(write: Write) -> None:
    """A file's module is in `sys.modules`, as msgspec and pickle need it for annotations that are texts."""
    write(
        "forward.py",
        """
        from __future__ import annotations
        import sys
        from flowmesh import Mesh
        assert sys.modules[__name__].__dict__ is globals()
        mesh = Mesh("forward")
        """,
    )
    assert find_mesh("forward.py")[0].name == "forward"


def test_only_mesh_of_a_module_is_taken(write: Write) -> None:
    """Without a name, and without one called `mesh`, the only mesh is meant, however many names it has."""
    write("single.py", "from flowmesh import Mesh\nshop = Mesh('shop')\nalso = shop\n")
    assert find_mesh("single")[1] == "single:shop"


def test_mesh_is_preferred_to_others(write: Write) -> None:
    """Without a name, the one called `mesh` is meant, even if there are others."""
    write("several.py", "from flowmesh import Mesh\nother = Mesh('other')\nmesh = Mesh('this')\n")
    assert find_mesh("several")[0].name == "this"


def test_named_mesh(write: Write) -> None:
    """The name after the colon chooses."""
    write("choice.py", TWO)
    mesh, place = find_mesh("choice:right")
    assert (mesh.name, place) == ("right", "choice:right")


@pytest.mark.parametrize(
    "target, text",
    [
        ("two", "two has several meshes: choose one of two:left, two:right"),
        ("two.py", "two.py has several meshes: choose one of two.py:left, two.py:right"),
        ("two:number", "number of two is of type int, no Mesh; there is two:left, two:right"),
        ("two:gone", "two has no 'gone'; there is two:left, two:right"),
        ("none", "none has no mesh: write mesh = Mesh(...) at the top level of the module"),
        ("none:mesh", "none has no 'mesh'; it has no mesh at all"),
        ("absent", "there is no module 'absent' in "),
        ("absent.part", "there is no module 'absent.part' in "),
        ("none.part", "there is no module 'none.part' in "),
        ("absent.py", "there is no file 'absent.py'"),
        ("folder/", "'folder' is a folder: give a .py file, or a dotted name"),
        ("notes.txt", "'notes.txt' is no .py file"),
        ("json.py", "'json.py' has the name of another module: rename the file"),
        ("my module", "'my module' is neither a module's name nor a .py file"),
        ("two:", "'two:' names no mesh after the colon"),
        ("two:1", "'two:1' names no mesh after the colon"),
        (":mesh", "':mesh' names no module"),
        ("", "'' names no module"),
    ],
)
def test_what_names_no_mesh_is_refused(write: Write, target: str, text: str) -> None:
    """The error says what is wrong, and which meshes there are."""
    write("two.py", TWO)
    write("none.py", "value = 1")
    write("folder/inner.py", "")
    write("notes.txt", "nothing")
    write("json.py", ONE)
    with pytest.raises(TargetError) as caught:
        find_mesh(target)
    assert str(caught.value).startswith(text)


def test_hyphenated_file_is_found_by_its_name_only(write: Write) -> None:
    """A stem that is no identifier is no module's name, but a file all the same."""
    write("my-job.py", ONE)
    assert find_mesh("my-job.py")[0].name == "one"
    with pytest.raises(TargetError, match=r"neither a module's name nor a \.py file"):
        find_mesh("my-job")


@pytest.mark.parametrize("target", ["broken", "broken.py"])
@pytest.mark.parametrize(
    "text, kind",
    [
        ("import no_such_thing", ModuleNotFoundError),
        ("import broken.part", ModuleNotFoundError),
        ("1 / 0", ZeroDivisionError),
        ("x = = 1", SyntaxError),
        ("raise SystemExit(0)", SystemExit),
    ],
)
def test_error_of_the_users_module_is_given_back(write: Write, target: str, text: str, kind: type[BaseException]) -> None:
    """Whatever the module raises is an ImportFailed with that error, an import of its own that fails included."""
    write("broken.py", text)
    with pytest.raises(ImportFailed) as caught:
        find_mesh(target)
    assert type(caught.value.error) is kind


def test_failed_file_can_be_tried_again(write: Write) -> None:
    """A file that raised is not left behind as a loaded module."""
    write("again.py", "1 / 0")
    with pytest.raises(ImportFailed):
        find_mesh("again.py")
    write("again.py", ONE)
    assert find_mesh("again.py")[0].name == "one"
