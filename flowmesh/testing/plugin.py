"""The pytest plugin: fixtures that run an async test in virtual time, on asyncio and on trio in turn.

    async def test_reminder(running_mesh):
        async with running_mesh(mesh) as time:
            await remind.tell("ada", delay=30 * 86_400)
            await time.advance(30 * 86_400)
            assert reminded == ["ada"]

An async test that asks for one of the fixtures is run by this plugin and needs no mark.  A test that another plugin runs (it
is marked anyio, trio or asyncio, or anyio's `auto` mode takes it) is left to that one; its event loop must then have virtual
time: let `anyio_backend` return a `flowmesh.testing.virtual_backend(...)`.  Whatever asks for no fixture of this plugin is
never touched.

Fixtures: `mesh_backend`, `running_mesh`, `mesh_history`.  Marks: `mesh_orders(seeds)`, `mesh_time(...)`.  Option:
`--mesh-seed`.  Needs pytest and nothing else that Flowmesh itself does not need.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, cast

import pytest

from flowmesh.mesh import Mesh
from flowmesh.testing.exploring import RunOptions, chosen_seeds, run_seeded
from flowmesh.testing.history import History
from flowmesh.testing.running import Running, running
from flowmesh.testing.virtual import BACKENDS, Backend, run

__all__ = ["RunningMesh"]

RunningMesh = Callable[..., AbstractAsyncContextManager[Running]]
"""What the fixture `running_mesh` gives: `flowmesh.testing.running`."""

_SEEDS: Final = 200
_OTHERS: Final = ("anyio", "trio", "asyncio")  # Marks by which a test is given to another plugin.


# Fixtures


@pytest.fixture
def mesh_backend(request: pytest.FixtureRequest) -> Backend:
    """The event loop that the test runs on: each in turn. Override it to choose one: `return "trio"`."""
    if "anyio_backend" in request.fixturenames:
        return request.getfixturevalue("anyio_backend_name")
    return getattr(request, "param", BACKENDS[0])


@pytest.fixture
def mesh_history(mesh_backend: Backend) -> History:
    """A History of each mesh that the test runs by `running_mesh`, checked when the mesh has stopped."""
    del mesh_backend  # Asked for so that the test is run by this plugin, on each.
    return History()


@pytest.fixture
def running_mesh(request: pytest.FixtureRequest, mesh_backend: Backend) -> RunningMesh:
    """Run a mesh in virtual time, as flowmesh.testing.running does.

    `async with running_mesh(mesh) as time`; the test fails if the mesh leaves dead letters that it did not expect.
    """
    del mesh_backend  # Asked for so that the test is run on each.
    history = request.getfixturevalue("mesh_history") if "mesh_history" in request.fixturenames else None

    def run_mesh(mesh: Mesh, **options: Any) -> AbstractAsyncContextManager[Running]:
        options.setdefault("history", history)
        return running(mesh, **options)

    return run_mesh


# What pytest calls


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the replay of an order."""
    group = parser.getgroup("flowmesh")
    group.addoption(
        "--mesh-seed", type=int, default=None, metavar="SEED", help="tests marked mesh_orders: try this order only (a replay)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known."""
    config.addinivalue_line(
        "markers", f"mesh_orders(seeds={_SEEDS}): run the test under so many orders of what the mesh may do in any order"
    )
    config.addinivalue_line(
        "markers", "mesh_time(start=, autojump=, wall=, patience=): how time runs in the test, as for flowmesh.testing.run"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for `mesh_backend` on each backend, unless that has been overridden, or anyio's plugin runs it."""
    if "mesh_backend" not in metafunc.fixturenames or "anyio_backend" in metafunc.fixturenames:
        return
    definitions: Any = getattr(metafunc, "_arg2fixturedefs", {}).get("mesh_backend") or [None]
    if getattr(definitions[-1], "func", mesh_backend).__module__ != __name__:
        return
    if not any(marker.name in _OTHERS for marker in metafunc.definition.iter_markers()):
        metafunc.parametrize("mesh_backend", BACKENDS, indirect=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that is marked mesh_orders, and would be run in one order only.

    A mark of a whole module or class is about its async tests.
    """
    if not isinstance(item, pytest.Function) or _is_run_here(item) or item.get_closest_marker("mesh_orders") is None:
        return
    if not inspect.iscoroutinefunction(item.obj):
        if any(marker.name == "mesh_orders" for marker in item.own_markers):
            pytest.fail(
                "mesh_orders is for async tests: make it async, or call flowmesh.testing.explore(test) in it", pytrace=False
            )
    else:
        pytest.fail(
            "mesh_orders is for tests that Flowmesh's plugin runs: ask for running_mesh, mesh_history or mesh_backend, and "
            "leave out what gives the test to another plugin (the marks anyio, trio, asyncio, and anyio_backend); or call "
            "flowmesh.testing.explore(test) in a test that is not async",
            pytrace=False,
        )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test that asks for a fixture of this plugin, and that no other plugin runs."""
    if not _is_run_here(pyfuncitem):
        return None
    given = cast("dict[str, Any]", pyfuncitem.funcargs)
    backend: Backend = given["mesh_backend"]
    test = functools.partial(pyfuncitem.obj, **{name: given[name] for name in _arguments(pyfuncitem)})
    time = pyfuncitem.get_closest_marker("mesh_time")
    options = cast("RunOptions", {} if time is None else time.kwargs)
    orders = pyfuncitem.get_closest_marker("mesh_orders")
    if orders is None:
        run(test, backend=backend, **options)
    else:
        _run_orders(pyfuncitem, test, orders, backend, options, given.get("mesh_history"))
    return True


def _is_run_here(item: pytest.Function) -> bool:
    """Whether this plugin runs a test: an async one that asks for one of its fixtures, and that no other plugin runs."""
    names = item.fixturenames
    if "mesh_backend" not in names or "anyio_backend" in names or not inspect.iscoroutinefunction(item.obj):
        return False
    return not any(item.get_closest_marker(name) for name in _OTHERS)


def _run_orders(
    item: pytest.Function,
    test: Callable[[], Any],
    mark: pytest.Mark,
    backend: Backend,
    options: RunOptions,
    history: History | None,
) -> None:
    """Run a test in as many orders as its mark says, or in the one that the command line names."""
    seeds: int | Iterable[int] = mark.args[0] if mark.args else mark.kwargs.get("seeds", _SEEDS)
    tried = chosen_seeds(seeds, item.config.getoption("mesh_seed"))

    def replay(seed: int) -> str:
        return f"pytest '{item.nodeid}' --mesh-seed={seed}"

    for number, seed in enumerate(tried):
        if history is not None:
            history.clear()
        run_seeded(test, seed, backend, passed=number, replay=functools.partial(replay, seed), **options)


def _arguments(item: pytest.Function) -> tuple[str, ...]:
    return item._fixtureinfo.argnames  # pyright: ignore[reportPrivateUsage] - as every plugin that calls the function
