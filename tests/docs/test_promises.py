"""What the pages refer to exists: tests, modules, options, members; and each public await says what cancelling it leaves."""

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest

import flowmesh
import flowmesh.testing
from flowmesh import Context, MailboxOptions, Mesh, Receipt, Retry
from flowmesh._runtime.composing import PublishOptions
from flowmesh.declaring import AllOptions
from tests.docs.pages import PAGES, ROOT
from tools.promises import figure_of, read_promises, read_records

PATH: Final = re.compile(r"`((?:benchmarks|docs|examples|flowmesh|tests)/[\w./-]*)(?:::(\w+))?`")
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
NEVER_SUSPEND: Final = {
    "Deliveries.__aenter__",
    "Deliveries.__aexit__",
    "Delivery.nack",
    "Delivery.reject",
}


def named_on(page: str) -> Iterator[tuple[str, str]]:
    """Yield the paths in backticks on a page, each with the test that is named in it or ''."""
    for found in PATH.finditer((ROOT / page).read_text(encoding="utf-8")):
        yield found[1], found[2] or ""


@functools.cache
def functions_in(path: str) -> frozenset[str]:
    """Return the names of the functions of a module."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path, test", sorted({named for page in PAGES for named in named_on(page)}))
def test_what_a_page_names_exists(path: str, test: str) -> None:
    """A file, a folder or a test that a page names in backticks is there."""
    assert (ROOT / path).exists()
    assert not test or test in functions_in(path)


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/guarantees.md"])
def test_every_guarantee_has_a_test(page: str) -> None:
    """Each row of a table of guarantees names at least one test module."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| promise |"))
    rows = lines[start + 2 : lines.index("", start)]
    assert len(rows) >= 8
    for row in rows:
        assert re.search(r"`tests/\w+/test_\w+\.py`", row.rsplit("|", 2)[1]), row


@pytest.mark.parametrize("promise", read_promises(), ids=lambda promise: promise["promise"])
def test_a_promise_of_a_store_has_tests_that_have_passed(promise: dict[str, Any]) -> None:
    """Each test that promises.toml names exists, has a record of having passed, and the figure's sizes are recorded."""
    assert promise["tests"]
    for test in promise["tests"]:
        path, _, name = test.partition("::")
        assert name in functions_in(path), test
        assert read_records()[test]["cases"] > 0, test
    assert "{" not in figure_of(promise, read_records())


def test_records_are_of_promises() -> None:
    """Nothing is recorded of a test that no promise names: `python -m tools.promises` has been run since."""
    assert read_records().keys() == {test for promise in read_promises() for test in promise["tests"]}


def test_defaults_in_the_readme() -> None:
    """`MailboxOptions(...)` and `Retry(...)` stand in the README with all their options and true defaults."""
    shown = dict(re.findall(r"`(MailboxOptions|Retry)\(([^`]*=[^`]*)\)`", README))
    assert set(shown) == {"MailboxOptions", "Retry"}
    for kind in (MailboxOptions, Retry):
        call: Any = ast.parse(f"call({shown[kind.__name__]})", mode="eval").body
        given = {keyword.arg: eval(ast.unparse(keyword.value), {"Exception": Exception}) for keyword in call.keywords}
        assert given == {name: getattr(kind(), name) for name in kind.__struct_fields__}


def test_options_in_the_readme() -> None:
    """Each option of an actor has its row; each option of a send and each field of a receipt is named."""
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) >= set(AllOptions.__annotations__)
    for name in PublishOptions.__annotations__:
        assert f"`{name}`" in README or f"`{name}=" in README, name
    for name in ("message_id", "routed", "dropped", "durability", "timer"):
        assert hasattr(Receipt, name)
        assert f"`{name}`" in README, name


def test_calls_in_the_readme() -> None:
    """Each call of a mesh, and each attribute of a Context, that the README names is there."""
    called = set(re.findall(r"`[^`\n]*?\bmesh\.(\w+)", README))
    assert {"actor", "exchange", "mailbox", "every", "source", "idle", "stop", "serve", "run"} <= called
    assert [name for name in called if not hasattr(Mesh("any"), name)] == []
    paragraph = README[README.index("`Context` has") :].split("\n\n", 1)[0]
    names = re.findall(r"`(?:ctx\.)?(\w+)(?:\([^`]*\))?`", paragraph)
    assert "progress" in names
    assert [name for name in names if name not in ("Context", "publish", "message") and not hasattr(Context, name)] == []


def test_the_two_commands_of_the_readme() -> None:
    """Exactly two lines set up an environment and run something: `.ci/run` reads them from the README."""
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert [line.rsplit(" && ", 1)[1] for line in commands] == [
        ".venv/bin/flowmesh run examples/census.py",
        ".venv/bin/python -m pytest",
    ]


def public_awaits() -> Iterator[tuple[str, Any]]:
    """Yield the public coroutine functions and methods, by their names."""
    for module in (flowmesh, flowmesh.testing):
        for name in module.__all__:
            thing: Any = getattr(module, name)
            members = vars(thing).items() if inspect.isclass(thing) else [("", thing)]
            for attribute, member in members:
                is_public = not attribute.startswith("_") or attribute.startswith("__")
                if is_public and inspect.iscoroutinefunction(member):
                    yield f"{name}.{attribute}".rstrip("."), member


def test_each_public_await_says_what_cancellation_leaves() -> None:
    """The docstring of each public coroutine function has a `Cancellation:`, unless it never suspends.

    `Delivery.ack` suspends for a durable mailbox only.
    """
    silent = {name for name, member in public_awaits() if "Cancellation:" not in (inspect.getdoc(member) or "")}
    assert silent == NEVER_SUSPEND


@pytest.mark.anyio
async def test_what_never_suspends() -> None:
    """Entering and leaving a consumer, and settling a delivery, run to their end without an event loop."""

    def finish(coroutine: Any) -> None:
        with pytest.raises(StopIteration):
            coroutine.send(None)

    async with Mesh("pulling") as mesh:
        mailbox = mesh.mailbox("m")
        for body in ("acked", "handed back", "rejected"):
            await mesh.exchange("").publish(body, "m")
        consumer = mailbox.consume()
        finish(consumer.__aenter__())
        taken = [await anext(consumer) for _ in range(3)]
        finish(taken[0].ack())
        finish(taken[1].nack())
        finish(taken[2].reject("why"))
        finish(consumer.__aexit__())
        numbers = mailbox.statistics()
        assert (numbers.acked, numbers.ready, numbers.dead) == (1, 1, 1)


@pytest.mark.parametrize("name", ["flowmesh", "flowmesh.testing"])
def test_the_reference_is_of_public_modules(name: str) -> None:
    """The reference documents these modules, and everything in their `__all__` has a docstring."""
    assert f"automodule:: {name}\n" in (ROOT / "docs" / "reference" / f"{name.rsplit('.', 1)[-1]}.md").read_text()
    module = importlib.import_module(name)
    public = [getattr(module, each) for each in module.__all__]
    assert all(inspect.getdoc(thing) for thing in public if inspect.isroutine(thing) or inspect.isclass(thing))
