"""From `module_or_file[:mesh]` to a Mesh.

A dotted name is imported as Python would from the current folder; a file is run as a module under its stem (never as
`__main__`), with its folder first on the path.  Nothing that was imported is undone.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from flowmesh.mesh import Mesh

__all__ = ["DEFAULT_NAME", "ImportFailed", "TargetError", "find_mesh"]

DEFAULT_NAME: Final = "mesh"


class TargetError(Exception):
    """What was typed names no mesh; the text says what is wrong and what would be right."""


class ImportFailed(Exception):
    """The user's module raised while it was imported; `.error` is what it raised."""

    def __init__(self, target: str, error: BaseException) -> None:
        super().__init__(target)
        self.target = target
        self.error = error

    @property
    def reason(self) -> str:
        """What to say beneath the traceback."""
        if isinstance(self.error, SystemExit):
            return "it exits while it is imported; put that under if __name__ == '__main__'"
        return "see the error above"


def find_mesh(target: str) -> tuple[Mesh, str]:
    """Load the module and return its mesh, and where that was found.

    Raises:
        TargetError: there is no such module, file or mesh.
        ImportFailed: the module raised.
    """
    place, name = _split(target)
    module = _load_file(Path(place)) if _is_file_name(place) else _load_module(place)
    found = _pick(module, place, name)
    return getattr(module, found), f"{place}:{found}"


def _split(target: str) -> tuple[str, str | None]:
    place, colon, name = target.rpartition(":")
    if not colon or Path(target).is_file():
        place, name = target, None
    elif not name.isidentifier():
        raise TargetError(f"{target!r} names no mesh after the colon: write module_or_file:mesh")
    if not place:
        raise TargetError(f"{target!r} names no module: write module_or_file[:mesh], such as app or jobs/app.py:mesh")
    return place, name


def _is_file_name(place: str) -> bool:
    return place.endswith(".py") or os.sep in place or Path(place).is_file()


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} is neither a module's name nor a .py file")
    _look_first_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}.") and not _comes_from_module(error):
            hint = f", but there is a file: flowmesh run {name}.py" if Path(f"{name}.py").is_file() else ""
            raise TargetError(f"there is no module {name!r} in {Path.cwd()} or on Python's path{hint}") from None
        raise ImportFailed(name, error) from error
    except (Exception, SystemExit) as error:
        raise ImportFailed(name, error) from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(
            f"{str(path)!r} is a folder: give a .py file, or a dotted name"
            if path.is_dir()
            else f"there is no file {str(path)!r}"
        )
    path = path.resolve()
    if path.suffix != ".py":
        raise TargetError(f"{path.name!r} is no .py file")
    if path.stem in sys.modules or path.stem in sys.stdlib_module_names:
        raise TargetError(f"{path.name!r} has the name of another module: rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _look_first_in(path.parent)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[path.stem]
        raise ImportFailed(str(path), error) from error
    return module


def _look_first_in(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def _comes_from_module(error: ModuleNotFoundError) -> bool:
    """Whether a module's own code raised it, rather than the search for the module."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name != __name__ and name.partition(".")[0] != "importlib":
            return True
        trace = trace.tb_next
    return False


def _pick(module: ModuleType, place: str, name: str | None) -> str:
    """Return the name under which the module holds the mesh that is meant."""
    things = vars(module)
    if isinstance(things.get(name or DEFAULT_NAME), Mesh):
        return name or DEFAULT_NAME
    candidates: dict[int, str] = {}
    for known, thing in things.items():
        if isinstance(thing, Mesh):
            candidates.setdefault(id(thing), known)
    if name is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    choice = ", ".join(f"{place}:{known}" for known in sorted(candidates.values()))
    if name is None:
        if not candidates:
            raise TargetError(f"{place} has no mesh: write mesh = Mesh(...) at the top level of the module")
        raise TargetError(f"{place} has several meshes: choose one of {choice}")
    missing = (
        f"{name} of {place} is of type {type(things[name]).__name__}, no Mesh" if name in things else f"{place} has no {name!r}"
    )
    raise TargetError(f"{missing}; {f'there is {choice}' if candidates else 'it has no mesh at all'}")
