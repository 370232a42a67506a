"""A census that is going to be interrupted: a program that says when it runs, and in the end what became of every message.

    python census_child.py BACKEND GRACE FOLDER...

It writes "running" once its mesh serves, and as the last line one JSON object: statistics, report, exit code, files counted.
"""

import importlib.util
import json
import logging
import signal
import sys
from pathlib import Path

import msgspec

from flowmesh import ActorContext

spec = importlib.util.spec_from_file_location("census", Path(__file__).parents[2] / "examples" / "census.py")
assert spec is not None
assert spec.loader is not None
census = importlib.util.module_from_spec(spec)
sys.modules["census"] = census
spec.loader.exec_module(census)

backend, grace, *folders = sys.argv[1:]
logging.basicConfig(level=logging.INFO, format="%(message)s")
# What the mesh puts back when it has stopped: a signal that comes too late ends nothing.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
mesh, taken = census.build([Path(folder) for folder in folders], lateness=0.2, grace=float(grace))


@mesh.source
async def announce(ctx: ActorContext) -> None:
    """Say that the mesh runs."""
    print("running", flush=True)


code = mesh.run(backend=backend)
outcome = {
    "statistics": msgspec.to_builtins(mesh.statistics()),
    "report": msgspec.to_builtins(mesh.report),
    "code": code,
    "files": taken.summary().total.files,
}
print(json.dumps(outcome), flush=True)
sys.exit(code)
