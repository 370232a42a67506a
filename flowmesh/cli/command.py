"""What can be typed, and what the process ends with.

Logs and errors go to stderr, the summary and the version to stdout.  Signals are the mesh's business (`mesh.serve`).
"""

import io
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from flowmesh.cli.dead import dead
from flowmesh.cli.live import LiveView
from flowmesh.cli.logs import Level, logging_to
from flowmesh.cli.output import EXIT_FAILED, EXIT_USAGE, complain, console, refuse, show, write
from flowmesh.cli.plain import error_text, visible
from flowmesh.cli.screen import Screen, screen_of_process
from flowmesh.cli.store import store
from flowmesh.cli.summary import summary_of
from flowmesh.cli.target import ImportFailed, TargetError, find_mesh
from flowmesh.errors import StoreError
from flowmesh.mesh import Mesh

__all__ = ["execute"]

EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

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
_app.command(store)
_app.command(dead)


def execute(arguments: Sequence[str]) -> int:
    """Carry out what was typed and return the exit code."""
    _write_anything()
    try:
        code: int | None = _app(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return refuse(str(error).strip())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code or 0


@_app.command
def run(
    target: str,
    /,
    *,
    store: str | None = None,  # Not a Path, in which a URL would not be one any more.
    backend: Literal["asyncio", "trio"] = "asyncio",
    log_level: Annotated[Level, Parameter(name="--log-level")] = "info",
    plain: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run a mesh until it ends, or until SIGINT (Ctrl-C) or SIGTERM; then drain, and say what is left.

    A second signal stops at once, a third ends the process. On a terminal the mailboxes are shown as a table at its bottom
    while the mesh runs, and log lines scroll above it.

    Exit codes:

    * 0: all is done.
    * 75: work was handed back or left unhandled; also after a second signal that interrupted work.
    * 1: the mesh stopped by itself with an error, or its store cannot be opened.
    * 2: there is no such mesh, it cannot be imported, or what --store says is no path.
    * 70: handlers did not end 5 seconds after they were cancelled, or a third signal came: the process was ended under them.
    * 130: Ctrl-C before the mesh ran or after it had stopped, or a KeyboardInterrupt out of it.

    Args:
        target: module_or_file[:mesh], such as "app", "shop.app:orders" or "jobs/app.py"; the mesh's name is "mesh" unless
            given.
        store: a file where what the mesh has to do outlives the process, made when it is not there; the mesh's own store if
            left out.
        backend: the event loop that it runs on.
        log_level: what is logged to stderr: this level and above.
        plain: log lines only, without the table, as where stdout or stderr is no terminal.
    """
    errors = Console(stderr=True, highlight=False, markup=False)
    with nullcontext() if plain else screen_of_process() as screen, logging_to(errors, log_level):
        mesh, place = _find(target)
        if mesh is None:
            return EXIT_USAGE
        try:
            if store is not None:
                mesh.configure(store=store)
        except (TypeError, ValueError) as error:
            return refuse(str(error))
        _log.info("running %s on %s: end it with Ctrl-C or SIGTERM", place, backend)
        try:
            code, failure = _serve(mesh, backend, screen), None
        except KeyboardInterrupt:
            code, failure = EXIT_INTERRUPTED, None
        except BaseException as error:  # noqa: BLE001 - what stopped the mesh is shown, whatever it is
            code, failure = EXIT_FAILED, error
    if mesh.report is not None:
        _show(mesh)
    if isinstance(failure, StoreError) and mesh.report is None:
        refuse(str(failure))
    elif failure is not None:
        complain(f"\n{error_text(failure)}")
    return code


@_app.command
def topology(
    target: str,
    /,
    *,
    format: Literal["mermaid", "dot", "json"] = "mermaid",
    output: Path | None = None,
    rings: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Print which exchanges, mailboxes and actors a mesh has, and what is bound to what. The mesh is not started.

    What the module prints while it is imported goes to stderr. Exit codes: 0, or 2 when there is no such mesh, it cannot be
    imported, or the file cannot be written.

    Args:
        target: module_or_file[:mesh], as for run.
        format: a Mermaid flowchart, a digraph in Graphviz's DOT language, or JSON.
        output: a file to write instead of stdout, in UTF-8.
        rings: instead of it, list the rings of bindings, alternates and dead-letter exchanges in which every mailbox makes its
            senders wait, one on a line.
    """
    with redirect_stdout(sys.stderr):
        mesh, _ = _find(target)
    if mesh is None:
        return EXIT_USAGE
    found = mesh.topology()
    if rings:
        text = "\n".join(visible(str(ring)) for ring in found.rings()) or "no rings"
    else:
        text = {"mermaid": found.mermaid, "dot": found.dot, "json": found.json}[format]()
    text = f"{text.rstrip()}\n"
    if output is None:
        write(text)
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        return refuse(f"{str(output)!r} cannot be written: {error.strerror}")
    return 0


def _find(target: str) -> tuple[Mesh | None, str]:
    """Return the mesh and where it was found; None when there is none, which has been said then."""
    try:
        return find_mesh(target)
    except TargetError as error:
        refuse(str(error))
    except ImportFailed as failure:
        complain(error_text(failure.error))
        refuse(f"{failure.target!r} could not be imported: {failure.reason}")
    return None, ""


def _serve(mesh: Mesh, backend: Literal["asyncio", "trio"], screen: Screen | None) -> int:
    if screen is None:
        return mesh.run(backend=backend)
    with LiveView(mesh, screen) as view:
        return anyio.run(view.serve, backend=backend)


def _show(mesh: Mesh) -> None:
    """Write the summary to stdout."""
    stdout = console()
    show(summary_of(mesh, width=stdout.width), stdout)


def _write_anything() -> None:
    """Let stdout escape what its encoding lacks, as stderr does."""
    stdout: object = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")
