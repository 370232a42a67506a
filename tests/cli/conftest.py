"""A folder to write applications into, and the command run in this process on them."""

import logging
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from flowmesh.cli import main


class Outcome(NamedTuple):
    """What the command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """The current folder, empty; what was imported from it is forgotten, and logging must be left as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known, handlers, level = set(sys.modules), list(logging.getLogger().handlers), logging.getLogger().level
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    assert logging.getLogger().handlers == handlers, "the command left its handler behind"
    assert logging.getLogger().level == level


@pytest.fixture
def write(folder: Path) -> Callable[[str, str], Path]:
    """Write a file of the application; its text may be indented."""

    def write_file(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    return write_file


@pytest.fixture
def flowmesh(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command in this process."""

    def run(*arguments: str) -> Outcome:
        code = main(arguments)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
