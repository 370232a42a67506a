"""The `flowmesh` command; needs the extra `cli` (cyclopts, rich).

command   what can be typed, and the exit codes
target    from `module_or_file[:mesh]` to a Mesh
logs      log lines on stderr
live      a mesh that runs on a terminal, and the view of it
board     what the view shows: the mesh in one line, its mailboxes in a table
screen    a terminal with a region at its bottom, above which everything else scrolls
summary   what a run leaves: tables on stdout
numbers   counts, ages and names in little room
plain     foreign text made harmless; errors without the engine's own frames
"""

import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["main"]

_NEEDED: Final = ("cyclopts", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: what was typed after `flowmesh`; None takes it from the process.

    Returns:
        0 when all is done, 75 when work was handed back or left unhandled, 1 when the mesh stopped by itself with an error,
        2 when the command could not be carried out as it was typed, 130 when a KeyboardInterrupt ended it. A mesh whose
        handlers do not end takes the process with it, with 70.
    """
    try:
        from flowmesh.cli.command import execute  # noqa: PLC0415 - says what to install where an extra is missing
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        sys.stderr.write(f"flowmesh: the command line needs {missing}, which is missing: pip install 'flowmesh[cli]'\n")
        return 2
    return execute(sys.argv[1:] if arguments is None else arguments)
