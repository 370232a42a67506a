"""What can be typed, and what the process ends with."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import flowmesh as package
from flowmesh._runtime.drain import EXIT_CLEAN, EXIT_HANDED_BACK, EXIT_HARD
from flowmesh.cli import main
from flowmesh.cli.command import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from flowmesh.cli import main; sys.exit(main())"
SHOP = """
    import asyncio
    import os
    from flowmesh import ActorContext, Mesh, Reject

    mesh = Mesh("shop")

    def loop() -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return "trio"
        return "asyncio"

    @mesh.actor
    async def sell(number: int) -> None:
        if number == 0:
            raise Reject("nothing to sell")

    @mesh.source
    async def customers(ctx: ActorContext) -> None:
        ctx.log.debug("the shop opens")
        print("in an event loop of", loop(), flush=True)
        for number in range(3):
            await sell.tell(number)
        await mesh.idle()
        mesh.stop()
"""
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

Write = Callable[[str, str], Path]
Flowmesh = Callable[..., Any]


@BACKENDS
def test_run_to_the_end(write: Write, flowmesh: Flowmesh, backend: str) -> None:
    """Runs until the mesh stops; logs on stderr, the summary on stdout, and 0 when all is done."""
    write("shop.py", SHOP)
    outcome = flowmesh("run", "shop.py", "--backend", backend)
    assert outcome.code == 0
    assert f"running shop.py:mesh on {backend}" in outcome.err
    assert "the shop opens" not in outcome.err
    assert outcome.out.startswith(f"in an event loop of {backend}\n\nmailbox ")
    assert "nothing to sell" in outcome.out
    assert outcome.out.rstrip().endswith("left in memory: 1 dead letter")


def test_default_backend_is_asyncio(write: Write, flowmesh: Flowmesh) -> None:
    """Without --backend it runs on asyncio, as `mesh.run` does."""
    write("shop.py", SHOP)
    assert flowmesh("run", "shop").out.startswith("in an event loop of asyncio\n")


def test_log_level(write: Write, flowmesh: Flowmesh) -> None:
    """--log-level says what is logged: everything from there up."""
    write("shop.py", SHOP)
    assert "DEBUG    flowmesh.shop  [customers] the shop opens" in flowmesh("run", "shop.py", "--log-level", "debug").err


def test_log_level_critical_is_quiet(write: Write, flowmesh: Flowmesh) -> None:
    """A quiet run writes its summary only."""
    write("shop.py", SHOP)
    assert flowmesh("run", "shop.py", "--log-level", "critical").err == ""


@BACKENDS
def test_work_left_is_75(write: Write, flowmesh: Flowmesh, backend: str) -> None:
    """A mesh that stops with messages that an actor would have handled ends with 75, and the summary says where they are."""
    write(
        "left.py",
        """
        from flowmesh import ActorContext, Mesh
        mesh = Mesh("left", grace=0.0)

        @mesh.actor
        async def handle(number: int) -> None: ...

        @mesh.source
        async def feed(ctx: ActorContext) -> None:
            handle.pause()
            await handle.tell(1)
            mesh.stop()
        """,
    )
    outcome = flowmesh("run", "left.py", "--backend", backend)
    assert outcome.code == 75
    assert "1 ready in 'handle'" in outcome.out


@BACKENDS
@pytest.mark.parametrize("error", ["ValueError('no \\x07 till')", "SystemExit(0)"])
def test_mesh_that_stops_with_an_error_is_1(write: Write, flowmesh: Flowmesh, backend: str, error: str) -> None:
    """A source's error ends it with 1, after the summary, and its traceback begins in the user's code."""
    write(
        "broken.py",
        f"""
        from flowmesh import ActorContext, Mesh
        mesh = Mesh("broken")

        @mesh.source
        async def feed(ctx: ActorContext) -> None:
            raise {error}
        """,
    )
    outcome = flowmesh("run", "broken.py", "--backend", backend, "--log-level", "critical")
    assert outcome.code == 1
    assert "mesh 'broken' drained" in outcome.out
    first, frame, *_, last = outcome.err.strip().splitlines()
    assert first == "Traceback (most recent call last):"
    assert "broken.py" in frame
    assert last.startswith(error.partition("(")[0])
    assert "\x07" not in outcome.err


def test_error_of_an_import_is_2(write: Write, flowmesh: Flowmesh) -> None:
    """An error in the module is shown with the traceback of the module alone."""
    write("broken.py", "def fall():\n    1 / 0\nfall()\n")
    outcome = flowmesh("run", "broken.py")
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "broken.py" in lines[1]
    assert lines[-2:] == [
        "ZeroDivisionError: division by zero",
        f"flowmesh: {str(Path.cwd() / 'broken.py')!r} could not be imported: see the error above",
    ]
    assert outcome.out == ""


def test_module_that_exits_is_2(write: Write, flowmesh: Flowmesh) -> None:
    """A module that exits while it is imported does not pass for a run that went well."""
    write("script.py", "raise SystemExit(0)")
    outcome = flowmesh("run", "script")
    assert outcome.code == 2
    assert "put that under if __name__ == '__main__'" in outcome.err


@pytest.mark.parametrize(
    "typed, text",
    [
        (["run"], "TARGET"),
        (["run", "absent"], "flowmesh: there is no module 'absent'"),
        (["run", "absent\x1b[2J.py"], r"flowmesh: there is no file 'absent\x1b[2J.py'"),
        (["run", "a", "b"], "Unused Tokens"),
        (["run", "a", "--backend", "curio"], '"asyncio", "trio"'),
        (["run", "a", "--log-level", "loud"], '"debug", "info"'),
        (["run", "a", "--fast"], "--fast"),
        (["topology", "absent"], "flowmesh: there is no module 'absent'"),
        (["topology", "a", "--format", "svg"], '"mermaid", "dot", "json"'),
        (["walk"], '"walk"'),
    ],
)
def test_wrong_usage_is_2(flowmesh: Flowmesh, typed: list[str], text: str) -> None:
    """What cannot be carried out is refused in one line that says why."""
    outcome = flowmesh(*typed)
    assert outcome.code == 2
    assert outcome.err.startswith("flowmesh: ")
    assert outcome.err.count("\n") == 1
    assert text in outcome.err
    assert outcome.out == ""


def test_version(flowmesh: Flowmesh) -> None:
    """--version prints the package's version."""
    assert flowmesh("--version") == (0, f"flowmesh {package.__version__}\n", "")


@pytest.mark.parametrize(
    "typed, text",
    [
        ([], "Usage: flowmesh COMMAND"),
        (["--help"], "Usage: flowmesh COMMAND"),
        (["run", "--help"], "• 75: work was handed back or left unhandled"),
        (["run", "--help"], "--plain log lines only"),
        (["topology", "--help"], "[choices: mermaid, dot, json] [default: mermaid]"),
    ],
)
def test_help(flowmesh: Flowmesh, typed: list[str], text: str) -> None:
    """Help says what can be typed and what comes of it."""
    outcome = flowmesh(*typed)
    assert outcome.code == 0
    assert text in " ".join(outcome.out.split())


def test_help_names_every_exit_code(flowmesh: Flowmesh) -> None:
    """The codes that a run can end with are all in its help."""
    text = flowmesh("run", "--help").out
    codes = (EXIT_CLEAN, EXIT_HANDED_BACK, EXIT_HARD, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED)
    assert sorted(re.findall(r"• (\d+):", text), key=int) == [str(code) for code in sorted(codes)]


HOSTILE = """
    from flowmesh import Mesh
    print("imported")
    mesh = Mesh("hostile")
    mesh.exchange('[bold]"\\x1b[2J\\n', "topic").bind(mesh.mailbox("] --> x"), "#.*")
"""


def test_topology_is_mermaid(write: Write, flowmesh: Flowmesh) -> None:
    """Without --format it is a Mermaid flowchart, alone on stdout; foreign text is escaped, and the mesh not started."""
    write("hostile.py", HOSTILE)
    code, out, err = flowmesh("topology", "hostile.py")
    assert (code, err) == (0, "imported\n")
    assert out.splitlines() == [
        "flowchart LR",
        '    n0{{"#91;bold#93;#quot;#92;x1b#91;2J#92;n (topic)"}}',
        '    n1["#93; --#gt; x"]',
        '    n0 -->|"#35;.#42;"| n1',
    ]


@pytest.mark.parametrize("form, method", [("mermaid", "mermaid"), ("dot", "dot"), ("json", "json")])
def test_topology_is_the_meshs(write: Write, flowmesh: Flowmesh, form: str, method: str) -> None:
    """Each format prints what `mesh.topology()` gives, in a line or more that no terminal acts on."""
    write("hostile.py", HOSTILE)
    code, out, _ = flowmesh("topology", "hostile:mesh", "--format", form)
    assert code == 0
    assert out.rstrip("\n") == getattr(sys.modules["hostile"].mesh.topology(), method)().rstrip("\n")
    assert out.endswith("\n")
    assert all(line.isprintable() for line in out.removesuffix("\n").split("\n"))


def test_topology_into_a_file(write: Write, flowmesh: Flowmesh) -> None:
    """--output writes it into a file, in UTF-8, and nothing to stdout; a file that cannot be written is refused."""
    write("shop.py", 'from flowmesh import Mesh\nmesh = Mesh("shop")\nmesh.mailbox("crème")\n')
    assert flowmesh("topology", "shop.py", "--output", "shop.mmd") == (0, "", "")
    assert Path("shop.mmd").read_text(encoding="utf-8") == 'flowchart LR\n    n0["crème"]\n'
    outcome = flowmesh("topology", "shop", "--output", "absent/shop.mmd")
    assert outcome == (2, "", "flowmesh: 'absent/shop.mmd' cannot be written: No such file or directory\n")


def test_topology_rings(write: Write, flowmesh: Flowmesh) -> None:
    """--rings lists the rings instead, a line each, or says that there are none."""
    write(
        "round.py",
        """
        from flowmesh import Mesh, MailboxOptions
        mesh = Mesh("shop")
        again = mesh.exchange("again\\x1b", "fanout")
        again.bind(mesh.mailbox("orders", MailboxOptions(dead_letter=again)))
        """,
    )
    write("straight.py", 'from flowmesh import Mesh\nmesh = Mesh("none")\n')
    code, out, _ = flowmesh("topology", "round.py", "--rings")
    assert (code, out) == (0, "exchange 'again\\x1b' -> mailbox 'orders' -> exchange 'again\\x1b'\n")
    assert flowmesh("topology", "straight.py", "--rings") == (0, "no rings\n", "")


def test_topology_of_a_module_that_fails_is_2(write: Write, flowmesh: Flowmesh) -> None:
    """An error in the module is shown as for run."""
    write("broken.py", "1 / 0\n")
    outcome = flowmesh("topology", "broken")
    assert outcome.code == 2
    assert "ZeroDivisionError" in outcome.err
    assert "'broken' could not be imported: see the error above" in outcome.err


def test_interrupt_before_the_mesh_runs_is_130(write: Write, flowmesh: Flowmesh) -> None:
    """Ctrl-C while the module is imported ends the command without a traceback."""
    write("slow.py", "raise KeyboardInterrupt")
    assert flowmesh("run", "slow.py") == (130, "", "")


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    """Without the extra the command says what to install."""
    for name in [name for name in sys.modules if name.startswith(("flowmesh.cli.", f"{missing}.")) or name == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # As the import system has it for what is not there.
    assert main(["run", "shop"]) == 2
    assert (
        capsys.readouterr().err
        == f"flowmesh: the command line needs {missing}, which is missing: pip install 'flowmesh[cli]'\n"
    )


@BACKENDS
def test_keyboard_interrupt_out_of_a_mesh_is_130(write: Write, flowmesh: Flowmesh, backend: str) -> None:
    """A KeyboardInterrupt that leaves the mesh still has its summary, and no traceback."""
    text = "from flowmesh import Mesh\nmesh = Mesh('cut')\n@mesh.source\nasync def end(ctx): raise KeyboardInterrupt\n"
    write("cut.py", text)
    code, out, err = flowmesh("run", "cut.py", "--backend", backend, "--log-level", "critical")
    assert (code, err) == (130, "")
    assert "mesh 'cut' drained" in out


# In a process of its own


@pytest.fixture
def started(folder: Path) -> Generator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a process of its own, as its console script would; kill what a failed test leaves."""
    processes: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with process:
            process.kill()


LONG = """
    import signal
    import anyio
    from flowmesh import ActorContext, Context, Mesh

    mesh = Mesh("long", grace={grace})
    asked = anyio.Event()

    @mesh.actor
    async def work(number: int) -> None:
        print("working", flush=True)
        await {until}
        print("worked", flush=True)

    @mesh.source
    async def feed(ctx: ActorContext) -> None:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            await anyio.sleep(0)
        await work.tell(1)
        try:
            await anyio.sleep_forever()
        finally:
            asked.set()  # the drain has begun: sources are cancelled first
"""


@BACKENDS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains(write: Write, started: Callable[..., subprocess.Popen[str]], backend: str, number: int) -> None:
    """A running mesh that is told to end finishes what it has in hand, says so, and ends with 0."""
    write("long.py", LONG.format(grace=30, until="asked.wait()"))
    process = started("run", "long", "--backend", backend)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.startswith("worked\n\nmailbox ")
    assert f"{signal.Signals(number).name}: draining for up to 30 s" in err
    assert "nothing is left" in out
    assert "Traceback" not in err


@BACKENDS
def test_handler_that_outlasts_grace_is_75(write: Write, started: Callable[..., subprocess.Popen[str]], backend: str) -> None:
    """A handler that does not end within grace is cancelled and its message handed back: 75, and the summary says so."""
    write("long.py", LONG.format(grace=0.05, until="anyio.sleep_forever()"))
    process = started("run", "long.py", "--backend", backend)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.terminate()
    out, err = process.communicate()
    assert process.returncode == 75, err
    assert "1 ready in 'work'" in out
    assert "handed back" in out
    assert "worked" not in out


@BACKENDS
def test_second_signal_stops_at_once(write: Write, started: Callable[..., subprocess.Popen[str]], backend: str) -> None:
    """The second signal does not wait for grace."""
    write("long.py", LONG.format(grace=3600, until="anyio.sleep_forever()"))
    process = started("run", "long.py", "--backend", backend)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    while "draining for up to 3600 s" not in (line := process.stderr.readline()):
        assert line, "ended without saying that it drains"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 75, err
    assert "SIGINT again: stopping at once" in err
    assert "1 ready in 'work'" in out
    assert "handed back" in out


def test_reader_that_goes_away_changes_nothing(write: Write, started: Callable[..., subprocess.Popen[str]]) -> None:
    """With nobody to read the summary the exit code is the mesh's, and nothing is complained about."""
    write("quiet.py", "from flowmesh import Mesh\nmesh = Mesh('quiet')\n@mesh.source\nasync def end(ctx): mesh.stop()\n")
    process = started("run", "quiet.py", "--log-level", "critical")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
