"""The census: facts about every Python file of the installation that this runs under.

    python examples/census.py [--backend trio|asyncio] [--root DIR] [--json FILE] [--store FILE]
    flowmesh run examples/census.py [--store FILE]

A folder is a message: `walk` publishes the files in it on a topic exchange, and tells itself of the folders in it. `parse` runs
in worker threads and turns a file into facts and imports; bindings take the facts to `tally` and the imports to `connect`. A
file that cannot be parsed is a dead letter, with its reason. Every hundredth file comes with a delay, and is counted too.

    walk --file.json-->  [files] --> parse --facts.json---> [findings] --> tally
         --late.json-->  [files] --> parse --imports.json-> [findings] --> connect

What comes of a message leaves with its ack, and what `tally` and `connect` have counted is saved with it. So with a store the
process may be killed at any moment: the next one goes on, and each file counts once. The totals depend neither on the order of
the files nor on the backend. Symbolic links are not followed.
"""

import argparse
import ast
import itertools
import logging
import os
import sys
import sysconfig
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread
from msgspec import Struct

from flowmesh import ActorContext, Context, MailboxOptions, Mesh, Reject, on

EVERY: Final = 100  # One file in so many is published late.
# What reading and parsing other people's files raises; MemoryError is the parser's way to say "nested too deeply".
UNREADABLE: Final = (OSError, SyntaxError, ValueError, RecursionError, MemoryError)

FEATURES: Final[dict[type[ast.AST], str]] = {
    ast.AnnAssign: "annotated variables",
    ast.AsyncFunctionDef: "async functions",
    ast.Await: "awaits",
    ast.DictComp: "comprehensions",
    ast.GeneratorExp: "comprehensions",
    ast.JoinedStr: "f-strings",
    ast.Lambda: "lambdas",
    ast.ListComp: "comprehensions",
    ast.Match: "match statements",
    ast.NamedExpr: "walruses",
    ast.SetComp: "comprehensions",
    ast.TryStar: "except* statements",
    ast.Yield: "yields",
    ast.YieldFrom: "yields",
}


class Begin(Struct, frozen=True):
    """Begin a census of these folders, unless one is under way."""

    roots: tuple[str, ...]


class End(Struct, frozen=True):
    """The census is over."""


class Folder(Struct, frozen=True):
    """A folder to be looked through."""

    path: str
    root: str


class SourceFile(Struct, frozen=True):
    """A file to be read."""

    path: str
    package: str


class Reset(Struct, frozen=True):
    """Count anew."""


class Function(Struct, frozen=True):
    """A function and its place."""

    lines: int
    path: str
    line: int
    name: str


class Counts(Struct, frozen=True):
    """What was counted in one file, or in many: counts can be added in any order."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0
    longest: Function | None = None
    features: dict[str, int] = {}

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            files=self.files + other.files,
            lines=self.lines + other.lines,
            functions=self.functions + other.functions,
            classes=self.classes + other.classes,
            imports=self.imports + other.imports,
            longest=longest_of(function for function in (self.longest, other.longest) if function is not None),
            features=dict(Counter(self.features) + Counter(other.features)),
        )


class Facts(Struct, frozen=True):
    """The counts of one file."""

    package: str
    counts: Counts


class Imports(Struct, frozen=True):
    """The packages that one file imports, its own left out."""

    package: str
    imported: tuple[str, ...]


class Summary(Struct, frozen=True):
    """The result: `imported` is imported package -> importing package -> files, `unparsed` is reason -> paths."""

    total: Counts
    packages: dict[str, Counts]
    imported: dict[str, dict[str, int]]
    unparsed: dict[str, list[str]]


class Progress(Struct):
    """What `walk` saves."""

    is_under_way: bool = False


class Packages(Struct):
    """What `tally` saves."""

    counts: dict[str, Counts] = {}


class Importers(Struct):
    """What `connect` saves: imported package -> importing package -> files."""

    files: dict[str, dict[str, int]] = {}


class Census:
    """What has been counted so far, for those outside the mesh."""

    def __init__(self) -> None:
        self.packages = Packages()
        self.importers = Importers()
        self.unparsed: defaultdict[str, list[str]] = defaultdict(list)

    def summary(self) -> Summary:
        """Return everything counted so far, sorted."""
        return Summary(
            total=sum(self.packages.counts.values(), Counts()),
            packages=dict(sorted(self.packages.counts.items())),
            imported={name: dict(sorted(importers.items())) for name, importers in sorted(self.importers.files.items())},
            unparsed={reason: sorted(paths) for reason, paths in sorted(self.unparsed.items())},
        )


def build(roots: Sequence[Path], *, lateness: float = 1.0, grace: float = 30.0) -> tuple[Mesh, Census]:
    """Return a mesh that counts all Python files under `roots`, and where it counts them.

    Args:
        roots: folders, none inside another.
        lateness: delay of every hundredth file, in seconds.
        grace: how long the mesh may go on with what it has when it is told to stop, in seconds.
    """
    mesh = Mesh("census", grace=grace)
    census = Census()
    files = mesh.exchange("files", "topic")
    findings = mesh.exchange("findings", "topic")
    arrivals = mesh.mailbox("arrivals")  # No actor has it: the source itself pulls the late files' second copies from it.
    found = itertools.count()

    class Walk:
        async def on_start(self, ctx: ActorContext) -> None:
            self.progress = ctx.saved(Progress) or Progress()

        @on
        async def begin(self, message: Begin, ctx: Context) -> None:
            if not self.progress.is_under_way:
                mesh.dead_letters.purge()
                ctx.tell(tally, Reset())
                ctx.tell(connect, Reset())
                for root in message.roots:
                    ctx.tell(walk, Folder(root, root))
                self.save(ctx, is_under_way=True)

        @on
        async def look_through(self, folder: Folder, ctx: Context) -> None:
            folders, paths = await to_thread.run_sync(contents_of, folder.path)
            for path in folders:
                ctx.tell(walk, Folder(path, folder.root))
            for path in paths:
                file = SourceFile(path, package_of(Path(path), Path(folder.root)))
                if next(found) % EVERY == 0:
                    ctx.publish(files, file, key=key_of("late", file.package), delay=lateness)
                else:
                    ctx.publish(files, file, key=key_of("file", file.package))

        @on
        async def end(self, message: End, ctx: Context) -> None:
            self.save(ctx, is_under_way=False)

        def save(self, ctx: Context, *, is_under_way: bool) -> None:
            self.progress = Progress(is_under_way)
            ctx.save(self.progress)

    # One at a time: CPython counts ast.parse's depth per interpreter, not per thread (python/cpython#106905).
    parsing = threading.Lock()

    @mesh.actor(bind=[files.on("file.#"), files.on("late.#")], concurrency=2, mailbox=MailboxOptions(capacity=1_000))
    def parse(file: SourceFile, ctx: Context) -> None:
        try:
            source = Path(file.path).read_bytes()
            with parsing:
                tree = ast.parse(source)
        except UNREADABLE as error:
            raise Reject(reason_of(error)) from error
        counts, imported = examine(source, tree, path=printable(file.path))
        imported.discard(file.package)
        ctx.publish(findings, Facts(file.package, counts), key=key_of("facts", file.package))
        ctx.publish(findings, Imports(file.package, tuple(sorted(imported))), key=key_of("imports", file.package))

    class Tally:
        async def on_start(self, ctx: ActorContext) -> None:
            census.packages = ctx.saved(Packages) or Packages()

        @on
        async def reset(self, message: Reset, ctx: Context) -> None:
            census.packages = Packages()
            ctx.save(census.packages)

        @on
        async def add(self, facts: Facts, ctx: Context) -> None:
            counts = census.packages.counts
            counts[facts.package] = counts.get(facts.package, Counts()) + facts.counts
            ctx.save(census.packages)

    class Connect:
        async def on_start(self, ctx: ActorContext) -> None:
            census.importers = ctx.saved(Importers) or Importers()

        @on
        async def reset(self, message: Reset, ctx: Context) -> None:
            census.importers = Importers()
            ctx.save(census.importers)

        @on
        async def add(self, imports: Imports, ctx: Context) -> None:
            for package in imports.imported:
                files_of = census.importers.files.setdefault(package, {})
                files_of[imports.package] = files_of.get(imports.package, 0) + 1
            ctx.save(census.importers)

    walk = mesh.actor(Walk, name="walk")
    tally = mesh.actor(Tally, name="tally", bind=findings.on("facts.#"))
    connect = mesh.actor(Connect, name="connect", bind=findings.on("imports.#"))

    @mesh.actor
    async def progress(_: None, ctx: Context) -> None:
        mailboxes = ctx.statistics.mailboxes
        counted, waiting = mailboxes[tally.name].acked, mailboxes[parse.name].ready
        ctx.log.info("%d files counted, %d waiting, %d not parsed", counted, waiting, mailboxes[parse.name].dead)

    files.bind(arrivals, "late.#")
    mesh.every(2.0, progress)

    @mesh.source
    async def conduct(ctx: ActorContext) -> None:
        began = time.monotonic()
        with warnings.catch_warnings():
            for category in (SyntaxWarning, DeprecationWarning):  # What parsing other people's files would print.
                warnings.simplefilter("ignore", category)
            await walk.ask(Begin(tuple(map(str, roots))), timeout=None)
            await mesh.idle()
            while mesh.timers.list(limit=1):  # A deferred message keeps no mesh from being idle, so wait for each.
                await (await arrivals.get()).ack()
                await mesh.idle()
        arrivals.purge()
        census.unparsed.clear()
        for letter in mesh.dead_letters.list(mailbox=parse.name, limit=10_000):
            census.unparsed[letter.deaths[0].detail].append(printable(letter.body.path))
        print(report(census.summary(), seconds=time.monotonic() - began))
        await walk.ask(End())
        mesh.stop()

    return mesh, census


def installation() -> list[Path]:
    """Return the folders of this Python's standard library and installed packages, none inside another."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    return sorted(folder for folder in folders if folders.isdisjoint(folder.parents))


def contents_of(folder: str) -> tuple[list[str], list[str]]:
    """Return the folders in a folder and the Python files in it; one that cannot be read has none. Links are left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return [], []
    folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return folders, [entry.path for entry in entries if entry.name.endswith(".py") and entry.is_file(follow_symlinks=False)]


def package_of(path: Path, root: Path) -> str:
    """Return the top-level name under which the file is imported."""
    parts = path.relative_to(root).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            parts = parts[parts.index(folder) + 1 :]
    first, *rest = parts
    return printable(first if rest else first.removesuffix(".py"))


def examine(source: bytes, tree: ast.Module, *, path: str) -> tuple[Counts, set[str]]:
    """Count what is in a file, and name the top-level packages that it imports."""
    classes = imports = 0
    features: Counter[str] = Counter()
    functions: list[Function] = []
    imported: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:  # A stack, not recursion: an expression may be nested deeper than Python can call.
        node = todo.pop()
        todo.extend(ast.iter_child_nodes(node))
        if feature := FEATURES.get(type(node)):
            features[feature] += 1
        match node:
            case ast.Import(names):
                imports += 1
                imported.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module, _, level):
                imports += 1
                if module and not level:
                    imported.add(module.partition(".")[0])
            case ast.ClassDef():
                classes += 1
                features["decorators"] += len(node.decorator_list)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions.append(Function((node.end_lineno or node.lineno) - node.lineno + 1, path, node.lineno, node.name))
                features["annotated functions"] += is_annotated(node)
                features["decorators"] += len(node.decorator_list)
            case _:
                pass
    counts = Counts(
        files=1,
        lines=len(source.splitlines()),
        functions=len(functions),
        classes=classes,
        imports=imports,
        longest=longest_of(functions),
        features=dict(+features),
    )
    return counts, imported


def is_annotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether the function annotates a parameter or its result."""
    listed = function.args
    parameters = [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, listed.vararg, listed.kwarg]
    return function.returns is not None or any(parameter and parameter.annotation for parameter in parameters)


def longest_of(functions: Iterable[Function]) -> Function | None:
    """Return the function with most lines; among equals, the first by path and line."""
    return min(functions, key=lambda function: (-function.lines, function.path, function.line), default=None)


def reason_of(error: BaseException) -> str:
    """Say in one line, without the place, why a file cannot be parsed: equal faults get equal reasons."""
    text = error.msg if isinstance(error, SyntaxError) else error.strerror if isinstance(error, OSError) else str(error)
    return f"{type(error).__name__}: {text or 'the parser gave up'}"


def key_of(kind: str, package: str) -> str:
    """Return the routing key: 255 bytes at most, however long the package's name."""
    return f"{kind}.{package}".encode()[:255].decode(errors="ignore")


def printable(name: str) -> str:
    """Return a file's name as text that can be printed: some are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def report(summary: Summary, *, seconds: float) -> str:
    """Write the summary out for people."""
    total, packages = summary.total, summary.packages
    largest = sorted(packages, key=lambda name: (-packages[name].lines, name))[:10]
    uses = {name: sum(importers.values()) for name, importers in summary.imported.items()}
    favourites = sorted(uses, key=lambda name: (-uses[name], name))[:10]
    reasons = sorted(summary.unparsed, key=lambda reason: (-len(summary.unparsed[reason]), reason))
    lost = sum(map(len, summary.unparsed.values()))
    lines = [
        f"{total.files:,} files in {len(packages):,} packages: {total.lines:,} lines",
        f"{total.functions:,} functions, {total.classes:,} classes, {total.imports:,} imports",
        f"in {seconds:.1f} seconds, {(total.files + lost) / max(seconds, 1e-9):,.0f} files per second",
    ]
    if total.longest is not None:
        longest = total.longest
        lines.append(f"longest function: {longest.name}, {longest.lines:,} lines, {longest.path}:{longest.line}")
    lines.append("\nfeatures")
    lines += [f"{number:12,}  {name}" for name, number in sorted(total.features.items())]
    lines.append("\nlargest packages (lines)")
    lines += [f"{packages[name].lines:12,}  {name}, {packages[name].files:,} files" for name in largest]
    lines.append("\nmost imported (files that import it)")
    lines += [f"{uses[name]:12,}  {name}, from {len(summary.imported[name]):,} packages" for name in favourites]
    lines.append(f"\n{lost:,} files could not be parsed")
    for reason in reasons:
        paths = summary.unparsed[reason]
        lines.append(f"{len(paths):12,}  {reason}")
        lines += [f"{'':14}{path}" for path in paths[:3]]
    return "\n".join(lines)


mesh, _ = build(installation())  # What `flowmesh run` takes.


def main() -> int:
    """Run the census from the command line; return the mesh's exit code."""
    parser = argparse.ArgumentParser(description="Take the census of a Python installation.")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--root", type=Path, help="a folder to count instead of the installation")
    parser.add_argument("--json", type=Path, help="a file to write the totals to")
    parser.add_argument("--store", type=Path, help="a file where the census outlives the process")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    mesh, census = build([arguments.root.resolve()] if arguments.root else installation())
    mesh.configure(store=arguments.store)
    code = mesh.run(backend=arguments.backend)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(census.summary(), order="deterministic")))
    return code


if __name__ == "__main__":
    sys.exit(main())
