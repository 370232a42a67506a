"""The census: facts about every Python file of the installation that this runs under.

    python examples/census.py [--backend trio|asyncio] [--root DIR] [--json FILE]
    flowmesh run examples/census.py

One source walks the folders and publishes each file on a topic exchange. `parse` runs in worker threads and turns a file
into facts and imports, which leave with its ack; bindings take the facts to `tally` and the imports to `connect`. A file that
cannot be parsed is a dead letter, with its reason. Every hundredth file is published with a delay, and is counted all the same.

    walk --file.json-->  [files] --> parse --facts.json---> [findings] --> tally
         --late.json-->  [files] --> parse --imports.json-> [findings] --> connect

The totals depend neither on the order of the files nor on the backend. Symbolic links are not followed: a file counts once.
"""

import argparse
import ast
import logging
import os
import sys
import sysconfig
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread
from msgspec import Struct

from flowmesh import ActorContext, Context, MailboxOptions, Mesh, Reject

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


class SourceFile(Struct, frozen=True):
    """A file to be read."""

    path: str
    package: str


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


class Census:
    """The running totals. Only handlers on the event loop change them, so they need no lock."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.packages: defaultdict[str, Counts] = defaultdict(Counts)
        self.imported: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unparsed: defaultdict[str, list[str]] = defaultdict(list)

    def summary(self) -> Summary:
        """Return everything counted so far, sorted."""
        return Summary(
            total=sum(self.packages.values(), Counts()),
            packages=dict(sorted(self.packages.items())),
            imported={name: dict(sorted(importers.items())) for name, importers in sorted(self.imported.items())},
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

    @mesh.actor(bind=findings.on("facts.#"), concurrency=4, by=lambda facts: facts.package)
    async def tally(facts: Facts) -> None:
        census.packages[facts.package] += facts.counts

    @mesh.actor(bind=findings.on("imports.#"))
    async def connect(imports: Imports) -> None:
        for package in imports.imported:
            census.imported[package][imports.package] += 1

    @mesh.actor
    async def progress(_: None, ctx: Context) -> None:
        mailboxes = ctx.statistics.mailboxes
        counted, waiting = mailboxes[tally.name].acked, mailboxes[parse.name].ready
        ctx.log.info("%d files counted, %d waiting, %d not parsed", counted, waiting, mailboxes[parse.name].dead)

    files.bind(arrivals, "late.#")
    mesh.every(2.0, progress)

    @mesh.source
    async def walk(ctx: ActorContext) -> None:
        began = time.monotonic()
        census.clear()
        mesh.dead_letters.purge()
        with warnings.catch_warnings():
            for category in (SyntaxWarning, DeprecationWarning):  # What parsing other people's files would print.
                warnings.simplefilter("ignore", category)
            found = late = 0
            folders = python_folders(roots)
            while folder := await to_thread.run_sync(next, folders, None):
                punctual: list[tuple[SourceFile, str]] = []
                for file in folder:
                    if found % EVERY == 0:
                        await files.publish(file, key_of("late", file.package), delay=lateness)
                        late += 1
                    else:
                        punctual.append((file, key_of("file", file.package)))
                    found += 1
                await files.publish_many(punctual)
            ctx.log.info("%d files found, %d of them come late", found, late)
            for _ in range(late):  # A deferred message keeps no mesh from being idle, so wait for each.
                await (await arrivals.get()).ack()
            await mesh.idle()
        for letter in mesh.dead_letters.list(mailbox=parse.name, limit=10_000):
            census.unparsed[letter.deaths[0].detail].append(printable(letter.body.path))
        print(report(census.summary(), seconds=time.monotonic() - began))
        mesh.stop()

    return mesh, census


def installation() -> list[Path]:
    """Return the folders of this Python's standard library and installed packages, none inside another."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)).resolve() for name in names}
    return sorted(folder for folder in folders if folders.isdisjoint(folder.parents))


def python_folders(roots: Iterable[Path]) -> Iterator[list[SourceFile]]:
    """Yield the Python files of one folder after the other; folders without one are left out."""
    for root in roots:
        for folder, _, names in os.walk(root):
            paths = (Path(folder, name) for name in names if name.endswith(".py"))
            regular = [path for path in paths if path.is_file() and not path.is_symlink()]
            if regular:
                yield [SourceFile(str(path), package_of(path, root)) for path in regular]


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
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    mesh, census = build([arguments.root.resolve()] if arguments.root else installation())
    code = mesh.run(backend=arguments.backend)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(census.summary(), order="deterministic")))
    return code


if __name__ == "__main__":
    sys.exit(main())
