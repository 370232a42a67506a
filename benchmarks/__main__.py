"""The command: `python -m benchmarks --help`."""

import argparse
import cProfile
import pstats
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.baseline import show_baseline
from benchmarks.harness import WARM_UP, Backend, Row, Scenario, measure, pinned, run_once
from benchmarks.report import Report, show, surroundings, write_json
from benchmarks.scenarios import SCENARIOS

__all__ = ["main"]

_QUICK = 0.1
_PROFILED_LINES = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for and print it.

    Returns: the exit code: 1 when `--gate` is given and a figure is above its gate, otherwise 0.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {options.repeats}")
    chosen = [SCENARIOS[name] for name in options.scenarios] or list(SCENARIOS.values())
    runs: list[tuple[Scenario, Backend]] = [
        (scenario, backend) for scenario in chosen for backend in _backends(scenario, options.backend)
    ]
    if not runs:
        parser.error(f"none of {', '.join(options.scenarios)} runs on {options.backend}")
    scale = _QUICK if options.quick else 1.0
    with pinned() as core:
        if options.baseline:
            print(show_baseline())
            return 0
        if options.profile:
            for scenario, backend in runs:
                _profile(scenario, backend, scale)
            return 0
        rows: list[Row] = []
        for scenario, backend in runs:
            print(f"{scenario.name}: {scenario.title} ({backend})", file=sys.stderr, flush=True)
            rows += measure(scenario, backend, repeats=options.repeats, scale=scale)
    report = Report(surroundings(pinned=core, repeats=options.repeats, scale=scale), rows)
    print(show(report))
    if options.json is not None:
        write_json(report, options.json)
    if options.gate and report.failed:
        print(f"above their gate: {', '.join(f'{row.scenario} {row.figure} ({row.backend})' for row in report.failed)}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure Flowmesh as ratios to asyncio.Queue.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"any of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--backend", choices=("asyncio", "trio", "both"), default="both")
    parser.add_argument("--repeats", type=int, default=5, help="medians are of so many (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--gate", action="store_true", help="exit with 1 when a figure is above its gate")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes: to see that it runs, not how fast")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--profile", action="store_true", help="run each chosen scenario once under cProfile instead")
    mode.add_argument("--baseline", action="store_true", help="print what primitives cost on this machine instead")
    return parser


def _backends(scenario: Scenario, wanted: str) -> list[Backend]:
    """Return the backends of the scenario among those wanted; what runs on none of them is always wanted."""
    return [backend for backend in scenario.backends if wanted == "both" or backend in (wanted, "core")]


def _profile(scenario: Scenario, backend: Backend, scale: float) -> None:
    run_once(scenario, backend, scale=min(scale, WARM_UP))  # imports and caches are not what is looked for
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        run_once(scenario, backend, scale=scale)
    finally:
        profiler.disable()
    print(f"{scenario.name}: {scenario.title} ({backend})")
    pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(_PROFILED_LINES)


if __name__ == "__main__":
    sys.exit(main())
