"""Run the gates, in order, and stop at the first that fails.

    python -m tools.check [GATE ...] [--skip GATE] [--coverage]

Each gate is a command of its own, run with this interpreter from the root of the repository; the exit code is that of the
first one that failed. A tool that is not installed is a failed gate. The cheapest gates come first.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

GATES: Final[dict[str, tuple[str, ...]]] = {
    "format": ("-m", "ruff", "format", "--check", "."),
    "ruff": ("-m", "ruff", "check", "."),
    # import-linter has no `-m` form; this is what its console script does.
    "imports": ("-c", "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())", "--no-logo"),
    "pyright": ("-m", "pyright", "--pythonpath", sys.executable),
    "mypy": ("-m", "mypy"),
    "tests": ("-m", "pytest"),
    # Every page anew: a page that has not changed may document code that has.
    "docs": ("-m", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env", "--quiet", "docs", "docs/_build/html"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gates that the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.check", description="Run the gates; stop at the first that fails.")
    parser.add_argument("gates", nargs="*", metavar="GATE", help=f"only these (default: all): {', '.join(GATES)}")
    parser.add_argument("--skip", action="append", default=[], choices=GATES, help="leave this one out; may be repeated")
    parser.add_argument("--coverage", action="store_true", help="measure the coverage of the tests, with branches")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.gates if name not in GATES]:
        parser.error(f"no such gate: {', '.join(unknown)} (there are {', '.join(GATES)})")

    for name, command in GATES.items():
        if name in options.skip or (options.gates and name not in options.gates):
            continue
        if name == "tests" and options.coverage:
            command = (*command, "--cov")  # noqa: PLW2901 - the table itself stays as it is
        print(f"== {name}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        print(f"== {name} {'failed' if code else 'passed'} after {time.monotonic() - began:.1f} s", flush=True)
        if code:
            return code if code > 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
