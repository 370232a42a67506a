"""The census agrees with an independent count, on both backends, whatever lies in the folders it reads."""

import json
import os
import shutil
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

BACKENDS = ("asyncio", "trio")

CORE = b'''\
"""A file whose facts were counted by hand."""
import os.path, json as j
from collections import deque
from . import sibling
from ..above import thing
import alpha.inner

@decorator
@decorator.again(1)
class Thing(Base):
    size: int = 3

    def plain(self): return lambda: 0

    @property
    async def wide(self, a: int, *rest: str) -> int:
        async with self as x:
            if (n := len(f"{a:{x}}")):
                await n
            yield [i for i in rest]
        try:
            pass
        except* OSError:
            pass

def outer(x, /):
    match x:
        case {"k": v}:
            return {y for y in v}, {y: 1 for y in v}, (y for y in v)
    def inner() -> None:
        yield from x
    return inner
'''
FILES = {
    b"alpha/__init__.py": b"",
    b"alpha/core.py": CORE,
    b"alpha/latin.py": b"# coding: latin-1\nname = '\xe9'\n\x0c\ndef caf\xe9(): pass\n",
    b"alpha/ends.py": b"# coding: latin-1\r\none = 1\rtwo = 2\rthree = '''\n\x85\x0b\n'''",
    b"alpha/notes.txt": b"not Python (",
    b"beta.py": b"import alpha, os\nfrom alpha import core\nfrom beta import self\nregex = '\\d' is 'x'\n",
    b"broken/cookie.py": b"# coding: no-such-codec\nx = 1\n",
    b"broken/deep_attributes.py": b"x" + b".a" * 100_000 + b"\n",
    b"broken/deep_minus.py": b"-" * 100_000 + b"1\n",
    b"broken/not_utf8.py": b"x = '\xe9'\n",
    b"broken/null.py": b"x = 1\0\n",
    b"broken/parentheses.py": b"(" * 300 + b")" * 300 + b"\n",
    b"broken/syntax.py": b"def (:\n",
    b"deep_sum.py": b"x = 1" + b" + 1" * 250 + b"\n",
    b"gamma.py/inner.py": b"def one():\n    pass\ndef two():\n    pass\n",
    b"gamma.py/site-packages.py": b"import broken\n",
    b"lib/site-packages/delta/mod.py": b"import beta\nasync def three():\n\n    pass\n",
    b"lib/site-packages/single.py": b"import delta.mod\n",
    b"caf\xe9/caf\xe9.py": b"def nowhere(): pass\n",
    b"%s/x.py" % (b"n" * 250): b"import alpha\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with everything that a census may meet."""
    root = tmp_path / "tree"
    for name, source in FILES.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), name)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
        except OSError:  # A file system that takes no such names has no such files to count.
            assert b"\xe9" in name
    (root / "empty.py").mkdir()
    (root / "alpha" / "loop").symlink_to(root, target_is_directory=True)
    (root / "linked.py").symlink_to(root / "beta.py")
    (root / "dangling.py").symlink_to(root / "nothing.py")
    os.mkfifo(root / "pipe.py")
    return root


def census(example: Callable[[str], ModuleType], root: Path, backend: str) -> dict[str, Any]:
    """Take the census of `root` and return it in the independent count's shape."""
    mesh, taken = example("census").build([root], lateness=0.01)
    assert mesh.run(backend=backend) == 0
    return folded(msgspec.to_builtins(taken.summary()))


def folded(summary: dict[str, Any]) -> dict[str, Any]:
    """Put the reasons of one exception together."""
    unparsed: dict[str, list[str]] = {}
    for reason, paths in summary["unparsed"].items():
        unparsed.setdefault(reason.partition(":")[0], []).extend(paths)
    return {**summary, "unparsed": {reason: sorted(paths) for reason, paths in unparsed.items()}}


@pytest.mark.parametrize("backend", BACKENDS)
def test_census_equals_the_independent_count(
    example: Callable[[str], ModuleType], count_independently: ModuleType, tree: Path, backend: str
) -> None:
    """All totals of a folder full of odd files are those of a plain loop that counts by other means."""
    assert census(example, tree, backend) == count_independently.count([tree])


@pytest.mark.parametrize("backend", BACKENDS)
def test_census_of_real_packages_equals_the_independent_count(
    example: Callable[[str], ModuleType], count_independently: ModuleType, tmp_path: Path, backend: str
) -> None:
    """More than a hundred real files, so that some come late, give the totals of the plain loop."""
    standard_library = Path(sysconfig.get_path("stdlib"))
    for package in ("asyncio", "concurrent", "email", "importlib", "json", "logging", "unittest", "xml"):
        shutil.copytree(standard_library / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "test"))
    counted = count_independently.count([tmp_path])
    assert counted["total"]["files"] > 100
    assert census(example, tmp_path, backend) == counted


@pytest.mark.parametrize("backend", BACKENDS)
def test_facts_are_those_counted_by_hand(example: Callable[[str], ModuleType], tmp_path: Path, backend: str) -> None:
    """The facts of one file are what a person counts in it."""
    path = tmp_path / "alpha" / "core.py"
    path.parent.mkdir()
    path.write_bytes(CORE)
    counts = {
        "files": 1,
        "lines": 32,
        "functions": 4,
        "classes": 1,
        "imports": 5,
        "longest": {"lines": 9, "path": str(path), "line": 16, "name": "wide"},
        "features": {
            "annotated functions": 2,
            "annotated variables": 1,
            "async functions": 1,
            "awaits": 1,
            "comprehensions": 4,
            "decorators": 3,
            "except* statements": 1,
            "f-strings": 2,
            "lambdas": 1,
            "match statements": 1,
            "walruses": 1,
            "yields": 2,
        },
    }
    assert census(example, tmp_path, backend) == {
        "total": counts,
        "packages": {"alpha": counts},
        "imported": {"collections": {"alpha": 1}, "json": {"alpha": 1}, "os": {"alpha": 1}},
        "unparsed": {},
    }


def test_same_mesh_can_be_run_twice(example: Callable[[str], ModuleType], tree: Path) -> None:
    """Running the same mesh again, on the other backend too, counts anew and finds the same."""
    mesh, taken = example("census").build([tree], lateness=0.01)
    summaries: list[object] = []
    for backend in (*BACKENDS, "asyncio"):
        assert mesh.run(backend=backend) == 0
        summaries.append(taken.summary())
    assert summaries[0] == summaries[1] == summaries[2]
    assert taken.summary().total.files > 0


def test_both_backends_write_the_same_bytes(
    example: Callable[[str], ModuleType], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--json` of the one backend is, byte for byte, that of the other: the order of the work leaves no trace."""
    written: list[bytes] = []
    for backend in BACKENDS:
        path = tree.parent / f"{backend}.json"
        monkeypatch.setattr("sys.argv", ["census.py", "--backend", backend, "--root", str(tree), "--json", str(path)])
        module = example("census")
        monkeypatch.setattr(module, "build", partial(module.build, lateness=0.01))
        assert module.main() == 0
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_nothing_to_count(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """The census of an empty folder ends, with nothing."""
    assert census(example, tmp_path, "asyncio")["total"]["files"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_command_line_prints_and_writes_the_totals(
    example: Callable[[str], ModuleType],
    count_independently: ModuleType,
    tree: Path,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The script prints the totals and the dead letters with their reasons, and `--json` writes them all."""
    written = tree.parent / "totals.json"
    monkeypatch.setattr("sys.argv", ["census.py", "--backend", backend, "--root", str(tree), "--json", str(written)])
    module = example("census")
    monkeypatch.setattr(module, "build", partial(module.build, lateness=0.01))
    assert module.main() == 0
    summary = json.loads(written.read_text())
    total = summary["total"]
    assert folded(summary) == count_independently.count([tree])
    printed = capsys.readouterr().out
    assert f"{total['files']} files in {len(summary['packages'])} packages: {total['lines']} lines" in printed
    assert f"longest function: wide, 9 lines, {tree}/alpha/core.py:16" in printed
    assert "7 files could not be parsed" in printed
    for reason, paths in summary["unparsed"].items():
        assert f"{len(paths)}  {reason}\n              {paths[0]}\n" in printed
    assert "SyntaxError: unknown encoding: no-such-codec" in printed


def test_module_has_a_mesh_for_the_command(example: Callable[[str], ModuleType]) -> None:
    """`flowmesh run examples/census.py` finds a mesh that would count the whole installation."""
    module = example("census")
    roots = module.installation()
    assert module.mesh is not None
    assert any(root in Path(os.__file__).resolve().parents for root in roots)
    assert any(root in Path(pytest.__file__).resolve().parents for root in roots)
    assert not any(root in other.parents for root in roots for other in roots)
