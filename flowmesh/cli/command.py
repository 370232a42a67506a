"""What can be typed, and what the process ends with.

Logs and errors go to stderr, the summary and the version to stdout.  Signals are the mesh's business (`mesh.serve`).
"""

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from flowmesh.cli.logs import Level, logging_to
from flowmesh.cli.plain import error_text, visible
from flowmesh.cli.summary import summary_of
from flowmesh.cli.target import ImportFailed, TargetError, find_mesh
from flowmesh.mesh import Mesh

__all__ = ["execute"]

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
PIPE_WIDTH: Final = 200
"""Columns of a table that nobody watches."""

_log: Final = logging.getLogger("flowmesh.cli")

_app = App(
    name="flowmesh",
    help="Run Flowmesh applications.",
    help_format="markdown",
    # The root has been loaded before this module; nothing inside imports it.
    version=lambda: f"flowmesh {sys.modules['flowmesh'].__version__}",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


def execute(arguments: Sequence[str]) -> int:
    """Carry out what was typed and return the exit code."""
    _write_anything()
    try:
        code: int | None = _app(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _refuse(str(error).strip())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code or 0


@_app.command
def run(
    target: str,
    /,
    *,
    backend: Literal["asyncio", "trio"] = "asyncio",
    log_level: Annotated[Level, Parameter(name="--log-level")] = "info",
) -> int:
    """Run a mesh until it ends, or until SIGINT or SIGTERM; then drain, and say what is left.

    A second signal stops at once. The exit code is 0 when all is done, 75 when work was handed back or left unhandled,
    1 when the mesh stopped by itself with an error, 2 when there is no such mesh.

    Args:
        target: module_or_file[:mesh], such as "app", "shop.app:orders" or "jobs/app.py"; the mesh's name is "mesh" unless
            given.
        backend: the event loop that it runs on.
        log_level: what is logged to stderr: this level and above.
    """
    errors = Console(stderr=True, highlight=False, markup=False)
    with logging_to(errors, log_level):
        try:
            mesh, place = find_mesh(target)
        except TargetError as error:
            return _refuse(str(error))
        except ImportFailed as failure:
            _complain(error_text(failure.error))
            return _refuse(f"{failure.target!r} could not be imported: {failure.reason}")
        _log.info("running %s on %s: end it with Ctrl-C or SIGTERM", place, backend)
        try:
            code, failure = mesh.run(backend=backend), None
        except KeyboardInterrupt:
            code, failure = EXIT_INTERRUPTED, None
        except BaseException as error:  # noqa: BLE001 - what stopped the mesh is shown, whatever it is
            code, failure = EXIT_FAILED, error
    if mesh.report is not None:
        _show(mesh)
    if failure is not None:
        _complain(f"\n{error_text(failure)}")
    return code


def _show(mesh: Mesh) -> None:
    """Write the summary to stdout; a reader that has gone away changes nothing about the exit code."""
    # Only a terminal has an edge: what goes to a file or a pipe is not cut.
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    with console.capture() as capture:
        console.print(summary_of(mesh, width=console.width), crop=False)
    try:
        sys.stdout.write(capture.get())
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it exits, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _refuse(text: str) -> int:
    _complain(f"flowmesh: {visible(text)}")
    return EXIT_USAGE


def _write_anything() -> None:
    """Let stdout escape what its encoding lacks, as stderr does."""
    stdout: object = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")
