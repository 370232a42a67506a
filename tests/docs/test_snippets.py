"""The programs in the README and in docs/ run as they stand, and print what the page says."""

import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any, Final

import anyio
import pytest

import flowmesh.testing
from flowmesh.testing import BACKENDS
from flowmesh.testing.virtual import Backend
from tests.docs.pages import PAGES, Snippet, snippets_of

SNIPPETS: Final = [snippet for page in PAGES for snippet in snippets_of(page)]
SECONDS: Final = re.compile(r"\bin [\d.e-]+ s\b")


@pytest.fixture(params=BACKENDS)
def virtual(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `anyio.run(main)` run in virtual time, on each backend in turn."""
    backend: Backend = request.param
    run_for_real = anyio.run

    def run(function: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        if options:  # flowmesh.testing.run itself comes here, too.
            return run_for_real(function, *args, **options)
        return flowmesh.testing.run(function, *args, backend=backend)

    monkeypatch.setattr(anyio, "run", run)


@pytest.fixture
def program() -> Iterator[ModuleType]:
    """An empty module that can be found while its code runs, as annotations want it."""
    module = ModuleType("snippet")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.usefixtures("virtual")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_snippets_run(snippet: Snippet, program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Each Python block is a whole program that ends without an error; a `text` block after it is its output."""
    padded = "\n" * (snippet.line - 1) + snippet.code  # A traceback then shows the line of the page.
    exec(compile(padded, snippet.page, "exec"), program.__dict__)
    printed = capsys.readouterr().out
    if snippet.output is not None:
        assert SECONDS.sub("in … s", printed) == SECONDS.sub("in … s", snippet.output)


def test_the_readme_has_programs_with_output() -> None:
    """The first two programs of the README show what they print: so the tests above do compare something."""
    assert [snippet.output is not None for snippet in snippets_of("README.md")][:2] == [True, True]
