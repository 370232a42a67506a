"""The pytest plugin, in pytest runs of its own: what it runs, what it leaves alone, and what it needs."""

import sys
from pathlib import Path

import pytest

from tests.docs.pages import snippets_of

ROOT = Path(__file__).parents[2]

MESH = """
import anyio
import pytest
from flowmesh import Mesh, Reject
from flowmesh.testing import Dead

mesh = Mesh("m")
seen = []

@mesh.actor
async def take(name: str) -> None:
    if name == "bad":
        raise Reject("no")
    seen.append(name)
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with a test suite of its own, run in a process of its own, where this checkout is what is imported."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def run_suite(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the suite with the plugin, which an installed Flowmesh brings along."""
    return pytester.runpytest_inprocess("-p", "flowmesh.testing.plugin", *arguments)


def test_a_test_of_five_lines(pytester: pytest.Pytester):
    """An async test that asks for `running_mesh` needs no mark, runs on both backends, and waits for nothing."""
    pytester.makepyfile(
        MESH
        + """
async def test_reminder(running_mesh):
    seen.clear()
    async with running_mesh(mesh) as time:
        await take.tell("ada", delay=30 * 86_400)
        await time.advance(30 * 86_400)
        assert seen == ["ada"]
"""
    )
    result = run_suite(pytester, "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*test_reminder?asyncio?*", "*test_reminder?trio?*"])


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/test-without-waiting.md"])
def test_the_pages_show_what_works(pytester: pytest.Pytester, page: str):
    """The test files that the pages show pass as they stand."""
    (code,) = (snippet.code for snippet in snippets_of(page) if "(running_mesh" in snippet.code)
    pytester.makepyfile(code)
    run_suite(pytester).assert_outcomes(passed=4)


def test_what_fails(pytester: pytest.Pytester):
    """Dead letters and a false history fail the test, also where nothing else does."""
    pytester.makepyfile(
        MESH
        + """
async def test_dead(running_mesh):
    async with running_mesh(mesh):
        await take.tell("bad")

async def test_expected(running_mesh):
    async with running_mesh(mesh, dead_letters=[Dead("take", "rejected")]):
        await take.tell("bad")

async def test_history(running_mesh, mesh_history):
    async with running_mesh(mesh):
        await take.tell("good")
        await mesh.idle()
        mesh_history.records.append(mesh_history.records[-1])

async def test_standstill(running_mesh):
    async with running_mesh(mesh):
        await anyio.Event().wait()
"""
    )
    result = run_suite(pytester)
    result.assert_outcomes(passed=2, failed=6)
    result.stdout.fnmatch_lines(["E*DeadLettersError: dead letters that nobody expected were left (1):*"])
    result.stdout.fnmatch_lines(["E*HistoryError: the history of the mesh has 1 faults:*"])
    result.stdout.fnmatch_lines(["E*StandstillError: virtual time: everything waits and no timer is set: deadlock*"])
    assert sum(line.startswith("E") and "StandstillError: virtual time" in line for line in result.outlines) == 2


def test_orders_of_a_test_that_asks_for_a_history_only(pytester: pytest.Pytester):
    """It is run by the plugin as any other: on each backend, in each order."""
    pytester.makepyfile(
        """
import pytest

runs = []

@pytest.mark.mesh_orders(5)
async def test_orders(mesh_history):
    runs.append(1)

def test_runs():
    assert len(runs) == 10
"""
    )
    run_suite(pytester).assert_outcomes(passed=3)


def test_orders_that_would_not_be_tried_are_an_error(pytester: pytest.Pytester):
    """A marked test that is not async, or that another plugin runs; a mark of a module leaves its other tests alone."""
    pytester.makepyfile(
        test_marked="""
import pytest
from flowmesh.testing import BACKENDS, virtual_backend

@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    return virtual_backend(request.param)

@pytest.mark.anyio
@pytest.mark.mesh_orders(20)
async def test_of_anyio(running_mesh):
    raise AssertionError("not to be reached")

@pytest.mark.mesh_orders(20)
def test_not_async():
    raise AssertionError("not to be reached")

@pytest.mark.anyio
async def test_not_marked(running_mesh):
    pass
""",
        test_module="""
import pytest

pytestmark = pytest.mark.mesh_orders(2)

async def test_async(running_mesh):
    pass

def test_not_async():
    pass
""",
    )
    result = run_suite(pytester)
    result.assert_outcomes(errors=3, passed=5)
    result.stdout.fnmatch_lines(["mesh_orders is for async tests: make it async*"])
    result.stdout.fnmatch_lines(["mesh_orders is for tests that Flowmesh's plugin runs: ask for running_mesh*"])


def test_orders_and_their_replay(pytester: pytest.Pytester):
    """`mesh_orders` tries many, each with a fresh history; the failing one is replayed by the line that the error shows."""
    pytester.makepyfile(
        """
import pytest
from flowmesh import Mesh

@pytest.mark.mesh_orders(100)
async def test_race(running_mesh, mesh_history):
    mesh, order = Mesh("m"), []
    both = mesh.exchange("both", "fanout")
    assert mesh_history.records == []
    for name in ("one", "two"):
        mesh.actor(make(order, name), name=name, bind=both.on())
    async with running_mesh(mesh):
        await both.publish("x")
    assert order == ["one", "two"]

def make(order, name):
    async def note(body: str) -> None:
        order.append(name)
    return note

@pytest.mark.mesh_orders(seeds=[7])
async def test_seeds(running_mesh):
    pass
"""
    )
    result = run_suite(pytester)
    result.assert_outcomes(failed=2, passed=2)
    line = next(line for line in result.outlines if "--mesh-seed=" in line and "asyncio" in line)
    node, _, seed = line.partition("pytest '")[2].partition("' --mesh-seed=")
    replayed = run_suite(pytester, node, f"--mesh-seed={seed.strip()}")
    replayed.assert_outcomes(failed=1)
    replayed.stdout.fnmatch_lines([f"*failed with seed {seed.strip()} on asyncio, after 0 orders that passed*"])


def test_a_backend_can_be_chosen(pytester: pytest.Pytester):
    """A suite that overrides `mesh_backend` runs on that one; a synchronous test is only told of it."""
    pytester.makepyfile(
        MESH
        + """
@pytest.fixture
def mesh_backend():
    return "trio"

async def test_chosen(running_mesh):
    assert anyio.get_cancelled_exc_class().__module__.startswith("trio")
    async with running_mesh(mesh):
        pass

def test_synchronous(mesh_backend):
    assert mesh_backend == "trio"
"""
    )
    run_suite(pytester).assert_outcomes(passed=2)


def test_synchronous_tests_get_each_backend(pytester: pytest.Pytester):
    """They may call `run` or `explore` themselves."""
    pytester.makepyfile(
        """
from flowmesh.testing import run

def test_each(mesh_backend):
    async def test():
        pass
    run(test, backend=mesh_backend)
"""
    )
    run_suite(pytester).assert_outcomes(passed=2)


def test_anyio_keeps_its_tests(pytester: pytest.Pytester):
    """A test marked anyio is run by anyio's plugin, on its backends; `running_mesh` works where they are virtual."""
    pytester.makepyfile(
        MESH
        + """
from flowmesh.testing import BACKENDS, virtual_backend

pytestmark = pytest.mark.anyio

@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    return virtual_backend(request.param)

@pytest.fixture
async def greeting():
    await anyio.sleep(3600)
    return "hello"

async def test_both(running_mesh, mesh_backend, greeting, anyio_backend_name):
    seen.clear()
    assert mesh_backend == anyio_backend_name
    async with running_mesh(mesh) as time:
        await take.tell(greeting, delay=3600)
        await time.advance(3600)
    assert seen == ["hello"]

async def test_untouched(anyio_backend_name):
    pass
"""
    )
    run_suite(pytester, "-p", "no:pytest_trio").assert_outcomes(passed=4)


def test_anyio_in_real_time_is_told_what_to_do(pytester: pytest.Pytester):
    """Where anyio's backends are real, `running_mesh` says how to make them virtual."""
    pytester.makepyfile(
        MESH
        + """
@pytest.mark.anyio
async def test_real(running_mesh):
    async with running_mesh(mesh):
        pass
"""
    )
    result = run_suite(pytester)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*let the anyio_backend fixture return flowmesh.testing.virtual_backend*"])


def test_pytest_trio_keeps_its_tests(pytester: pytest.Pytester):
    """A test marked trio is pytest-trio's; its `autojump_clock` is virtual time as well."""
    pytester.makepyfile(
        MESH
        + """
@pytest.mark.trio
async def test_trio(running_mesh, autojump_clock):
    seen.clear()
    async with running_mesh(mesh) as time:
        await take.tell("ada", delay=3600)
        await time.advance(3600)
    assert seen == ["ada"]

@pytest.mark.trio
async def test_untouched():
    pass
"""
    )
    run_suite(pytester).assert_outcomes(passed=2)


def test_other_tests_are_not_touched(pytester: pytest.Pytester):
    """An async test that asks for nothing of this plugin is run, or refused, as if the plugin were not there."""
    pytester.makeini("[pytest]\n")
    pytester.makepyfile("async def test_bare():\n    pass\n\ndef test_plain():\n    pass\n")
    outcomes = [
        pytester.runpytest_inprocess(*arguments).parseoutcomes()
        for arguments in (["-p", "flowmesh.testing.plugin"], ["-p", "no:flowmesh.testing.plugin"])
    ]
    for outcome in outcomes:
        outcome.pop("warnings", None)
    assert outcomes[0] == outcomes[1]


def test_it_needs_nothing_but_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Without the rest of what Flowmesh's own tests need, and without anyio's and trio's plugins, it works all the same."""
    absent = ("hypothesis", "pytest_trio", "pytest_timeout", "pytest_cov", "coverage", "fastapi", "rich", "cyclopts")
    pytester.makepyfile(
        test_it=MESH
        + """
async def test_it(running_mesh):
    async with running_mesh(mesh):
        await take.tell("ada")
""",
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    code = f"""
import sys
import pytest

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.exit(pytest.main(["-p", "flowmesh.testing.plugin", "test_it.py"]))
"""
    result = pytester.run(sys.executable, "-c", code)
    result.assert_outcomes(passed=2)


def test_its_names_are_shown(pytester: pytest.Pytester):
    """`pytest --fixtures`, `--markers` and `--help` show them, with what they are for."""
    result = run_suite(pytester, "--fixtures")
    result.stdout.fnmatch_lines(["mesh_backend -- *", "mesh_history -- *", "running_mesh -- *"])
    result = run_suite(pytester, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.mesh_orders(seeds=200): *", "@pytest.mark.mesh_time(*): *"])
    run_suite(pytester, "--help").stdout.fnmatch_lines(["*--mesh-seed=SEED*"])


def test_to_be_told_of_it_twice_does_no_harm(pytester: pytest.Pytester):
    """A conftest that names it, beside the command line and an installation, registers one plugin."""
    pytester.makeconftest("pytest_plugins = ['flowmesh.testing.plugin']\n")
    pytester.makepyfile("async def test_it(running_mesh):\n    pass\n")
    run_suite(pytester).assert_outcomes(passed=2)
