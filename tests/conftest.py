"""What all tests share: the two backends, the cheap tests first, how hard hypothesis tries, and that CI skips nothing."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Flowmesh's own plugin: named here too, so that the tests of a checkout find it when the checkout is not installed.
pytest_plugins = ["flowmesh.testing.plugin", "pytester"]

HERE = Path(__file__).parent
FIRST = ("core", "conformance")  # Synchronous and quick: what they find explains what the others would find.
IN_CI = bool(os.environ.get("CI"))

# No deadline: a shared machine may pause any example. Not derandomized: each run looks somewhere else, and a failure prints
# the blob that brings it back.
settings.register_profile("local", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), max_examples=200, derandomize=False, print_blob=True)
settings.load_profile("ci" if IN_CI else "local")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop that a test marked `anyio` runs on: each in turn."""
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the core's tests first; the order is otherwise as collected."""
    items.sort(key=lambda item: not any(item.path.is_relative_to(HERE / room) for room in FIRST))


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"Skipped, but CI is set, where nothing may be missing: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI set, a skipped test has failed: its server or tool ought to be there."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is collected."""
    report = yield
    _refuse_skip(report)
    return report
