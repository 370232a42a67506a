"""What is said when everything waits and nothing can ever happen: an error, where real time would hang."""

import anyio
import pytest

from flowmesh.testing import BACKENDS, StandstillError, run
from flowmesh.testing.virtual import Backend

pytest_plugins = ("pytester",)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    return request.param


def test_deadlock_is_an_error(backend: Backend):
    """Where everything waits for good, the error says so, and names who waits and where."""

    async def waits_for_nobody() -> None:
        await anyio.Event().wait()

    with pytest.raises(StandstillError) as caught:
        run(waits_for_nobody, backend=backend)
    text = str(caught.value)
    assert text.startswith("virtual time: everything waits and no timer is set: deadlock\n")
    assert "waits_for_nobody (test_standstill.py:" in text


def test_deadlock_after_the_last_timer(backend: Backend):
    """Timers put it off, no more; tasks are unwound as by any cancellation."""
    left: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep(10)
            await anyio.Event().wait()
        finally:
            left.append("child")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.Event().wait()

    with pytest.raises(StandstillError, match=r"child \(test_standstill"):
        run(main, backend=backend)
    assert left == ["child"]


def test_sleeping_for_ever_is_no_timer(backend: Backend):
    """A task that sleeps for ever will never be woken by time: time does not jump there, it despairs."""

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.sleep(1)
            await anyio.Event().wait()

    with pytest.raises(StandstillError, match="no timer is set"):
        run(main, backend=backend)


def test_without_autojump(backend: Backend):
    """Time that only `advance` moves stands still for good when nobody calls it."""

    async def main() -> None:
        await anyio.sleep(1)

    with pytest.raises(StandstillError, match="time moves only by `advance\\(\\)`, which nobody calls"):
        run(main, backend=backend, autojump=False)


def test_swallowed(backend: Backend):
    """A main function that returns all the same does not hide the standstill."""

    async def main() -> str:
        try:
            await anyio.Event().wait()
        except BaseException:
            return "swallowed"
        return "woken"

    with pytest.raises(StandstillError):
        run(main, backend=backend)


def test_shielded(backend: Backend):
    """A standstill inside a shield, which no cancellation reaches, is raised as well."""

    async def main() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.Event().wait()

    with pytest.raises(StandstillError, match=r"main \(test_standstill"):
        run(main, backend=backend)


def test_other_errors_pass(backend: Backend):
    """What the function raises leaves `run` as it is."""

    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(main, backend=backend)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_under_the_plugin(pytester: pytest.Pytester, backend_name: str):
    """Under anyio's plugin a standstill fails its test with the same text, and the next test runs."""
    pytester.makepyfile(
        f"""
        import anyio, pytest
        from flowmesh.testing import virtual_backend

        @pytest.fixture
        def anyio_backend():
            return virtual_backend({backend_name!r})

        @pytest.mark.anyio
        async def test_stands_still():
            await anyio.Event().wait()

        @pytest.mark.anyio
        async def test_next():
            await anyio.sleep(60)
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*virtual time: everything waits and no timer is set: deadlock*"])
