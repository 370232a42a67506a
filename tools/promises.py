"""Run the tests behind the promises of docs/explanation/promises.toml, and record what they found.

    python -m tools.promises [--only TEXT]

Each promise names its tests. They run as in the suite, with the sizes that the environment asks for (FLOWMESH_KILLS,
FLOWMESH_CENSUS_KILLS, FLOWMESH_STORE_SIZE). When all have passed, docs/explanation/promises.json holds for each how many
cases there were, the constants of its module, and the lines that it printed: the page of guarantees is made of both files, and
tests/docs fails when they do not fit together. `--only` runs those whose names have the text in them, and leaves the others'
records as they are.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["Recorder", "figure_of", "read_promises", "read_records"]

ROOT: Final = Path(__file__).parents[1]
PROMISES: Final = ROOT / "docs" / "explanation" / "promises.toml"
RECORDS: Final = PROMISES.with_suffix(".json")
SIZE: Final = re.compile(r"\{([A-Z]+)\}")


def read_promises() -> list[dict[str, Any]]:
    """Return the promises in their order: of each the text (`promise`), the `figure` and the `tests`."""
    return tomllib.loads(PROMISES.read_text(encoding="utf-8"))["promise"]


def read_records() -> dict[str, dict[str, Any]]:
    """Return what was recorded of each test, `path::name`: its `cases`, its module's `sizes`, and what it `printed`."""
    return json.loads(RECORDS.read_text(encoding="utf-8"))


def figure_of(promise: dict[str, Any], records: dict[str, dict[str, Any]]) -> str:
    """Return a promise's figure, with the sizes at which its tests have run.

    Raises:
        KeyError: one of its tests has no record, or none of their modules has a constant of that name.
    """
    sizes: dict[str, int] = {}
    for test in reversed(promise["tests"]):
        sizes |= records[test]["sizes"]
    return SIZE.sub(lambda found: f"{sizes[found[1]]:,}", promise["figure"])


class Recorder:
    """A plugin of pytest that keeps what the tests found."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, items: Iterable[pytest.Item]) -> None:
        """Note the whole numbers among the constants of each test's module."""
        for item in items:
            assert isinstance(item, pytest.Function), item
            constants: dict[str, object] = vars(item.module)
            sizes = {name: value for name, value in constants.items() if name.isupper() and type(value) is int}
            self.records[item.nodeid.partition("[")[0]] = {"cases": 0, "sizes": sizes, "printed": []}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a case that has passed, and what it printed."""
        if report.when == "call" and report.passed:
            test, _, case = report.nodeid.partition("[")
            record = self.records[test]
            record["cases"] += 1
            lines = report.capstdout.splitlines()
            record["printed"] += [f"{case.rstrip(']')}: {line}" if case and "," not in line else line for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests that the command line asks for, record what they found, and return pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.promises", description="Run the tests behind the promises.")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this in their names")
    options = parser.parse_args(arguments)
    tests = sorted({test for promise in read_promises() for test in promise["tests"]})
    chosen = [test for test in tests if options.only in test]
    recorder = Recorder()
    code = int(pytest.main(["-q", *chosen], plugins=[recorder]))
    unseen = [test for test in chosen if not recorder.records.get(test, {}).get("cases")]
    if code or unseen:
        print(f"nothing is recorded; without a passed case: {unseen}", file=sys.stderr)
        return code or 1
    old = read_records() if RECORDS.exists() else {}
    records = {test: recorder.records.get(test) or old.get(test) for test in tests}
    RECORDS.write_text(json.dumps({test: each for test, each in records.items() if each}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
