"""Rerun a test under many orders of what may happen in any order, and replay the one in which it fails.

One order is one seed, and one seed is always the same order (see `ordering` for what is drawn from it); so a failure that comes
once in a hundred runs on a busy machine comes each time with its seed.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypedDict, Unpack

from flowmesh.testing.ordering import seeded
from flowmesh.testing.virtual import BACKENDS, Backend, run

__all__ = ["RunOptions", "chosen_seeds", "explore", "run_seeded"]

Test = Callable[[], Awaitable[Any]]


class RunOptions(TypedDict, total=False):
    """How time runs, as for `run`."""

    start: float
    autojump: bool | float
    wall: float
    patience: float


def explore(
    test: Test,
    *,
    seeds: int | Iterable[int] = 200,
    seed: int | None = None,
    backend: Backend | None = None,
    **options: Unpack[RunOptions],
) -> int:
    """Run an async test in virtual time once per seed, each time in another order; stop at the first failure.

        def test_transfers():
            explore(transfers, seeds=200)

    The test makes what it needs, or finds it empty (see `running`): it is run many times. A mesh with a store is given one
    of its own in each, `mesh.configure(store=MemoryStore())`: a file would have what earlier runs have left. The error of
    the first run that fails is raised as it is, with a note that says which seed it was and how to replay it: the same call
    with `seed=` and `backend=`. Called from synchronous code.

    Args:
        test: an async function without arguments.
        seeds: how many orders to try, from seed 0 on; or the seeds themselves.
        seed: only this one: the replay.
        backend: the event loop; None: both, one after the other.
        **options: start, autojump, wall, patience, as for `run`.

    Returns:
        how many runs there were.

    Raises:
        BaseException: what the test raised.
    """
    tried = chosen_seeds(seeds, seed)
    backends = BACKENDS if backend is None else (backend,)
    for loop in backends:
        for number, chosen in enumerate(tried):

            def replay(chosen: int = chosen, loop: Backend = loop) -> str:
                return f"explore({_name(test)}, seed={chosen}, backend={loop!r})"

            run_seeded(test, chosen, loop, passed=number, replay=replay, **options)
    return len(tried) * len(backends)


def chosen_seeds(seeds: int | Iterable[int], seed: int | None) -> list[int]:
    """Return the seeds to try: so many, or these, or only the one to replay.

    Raises:
        ValueError: there are none.
    """
    tried = [seed] if seed is not None else list(range(seeds) if isinstance(seeds, int) else seeds)
    if not tried:
        raise ValueError(f"seeds must be one or more, not {seeds!r}: nothing would be tried")
    return tried


def run_seeded(
    test: Test, seed: int, backend: Backend, *, passed: int, replay: Callable[[], str], **options: Unpack[RunOptions]
) -> None:
    """Run a test in one order.

    Args:
        test: an async function without arguments.
        seed: the order.
        backend: the event loop.
        passed: how many other orders have passed, for the note.
        replay: gives the line that replays it, for the note.
        **options: as for `run`.

    Raises:
        BaseException: what the test raised, with a note.
    """
    try:
        with seeded(seed):
            run(test, backend=backend, **options)
    except BaseException as error:
        error.add_note(
            f"explore: failed with seed {seed} on {backend}, after {passed} orders that passed; replay it with\n    {replay()}"
        )
        raise


def _name(test: Test) -> str:
    return getattr(test, "__name__", None) or repr(test)
