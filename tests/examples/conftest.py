"""Examples are scripts, not a package: each test loads the one it runs afresh, so none sees another's mesh."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


def load(path: Path) -> ModuleType:
    """Run the file at `path` as a module of its own and return it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A function that loads the example of the given name."""

    def loaded(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return load(EXAMPLES / f"{name}.py")

    return loaded


@pytest.fixture
def count_independently() -> ModuleType:
    """The second opinion on the census: `count_independently.py` beside this file."""
    return load(HERE / "count_independently.py")
