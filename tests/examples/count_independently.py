"""A second opinion on the census: the same totals from a plain loop, without Flowmesh and by other means where there are any.

Functions, classes, imports and decorators are counted in the tokens, not in the syntax tree; lines by reading text; folders by
globbing. `python tests/examples/count_independently.py DIR ... > counts.json` prints what it finds.
"""

import ast
import json
import os
import re
import sys
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from functools import reduce
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NOTHING: dict[str, Any] = {"files": 0, "lines": 0, "functions": 0, "classes": 0, "imports": 0, "longest": None, "features": {}}
BLANK = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENCODING}


def count(roots: Sequence[Path]) -> dict[str, Any]:
    """Count all Python files under `roots`, in the shape of the census's summary; `unparsed` is exception -> paths."""
    packages: dict[str, dict[str, Any]] = {}
    imported: dict[str, dict[str, int]] = {}
    unparsed: dict[str, list[str]] = {}
    for path, package in files(roots):
        shown = os.fsencode(path).decode(errors="backslashreplace")
        try:
            source = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = compile(source, "<census>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        except Exception as error:
            unparsed.setdefault(type(error).__name__, []).append(shown)
            continue
        counts = counts_of(source, tree, shown)
        packages[package] = merged(packages[package], counts) if package in packages else counts
        for name in names_imported(tree) - {package}:
            importers = imported.setdefault(name, {})
            importers[package] = importers.get(package, 0) + 1
    return {
        "total": reduce(merged, packages.values(), NOTHING),
        "packages": packages,
        "imported": imported,
        "unparsed": {reason: sorted(paths) for reason, paths in unparsed.items()},
    }


def files(roots: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each Python file that is no link, nor reached through one, and its package."""
    for root in roots:
        for path in root.rglob("*.py"):
            links = [folder for folder in (path, *path.parents) if root in folder.parents and folder.is_symlink()]
            if path.is_file() and not links:
                tail = str(path)[len(str(root)) + 1 :]
                first = re.sub(r"^(?:.*?/)??(?:site|dist)-packages/", "", tail, count=1).split("/")
                name = first[0] if len(first) > 1 else first[0].removesuffix(".py")
                yield path, os.fsencode(name).decode(errors="backslashreplace")


def counts_of(source: bytes, tree: ast.AST, path: str) -> dict[str, Any]:
    """Count what is in one file."""
    words = list(significant_words(source))
    nodes = list(ast.walk(tree))

    def number(*kinds: type[ast.AST]) -> int:
        return sum(isinstance(node, kinds) for node in nodes)

    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    features = {
        "annotated functions": sum(any(annotations(function)) for function in functions),
        "annotated variables": number(ast.AnnAssign),
        "async functions": sum(pair == ("async", "def") for pair in pairwise(words)),
        "awaits": number(ast.Await),
        "comprehensions": number(*COMPREHENSIONS),
        "decorators": sum(pair == ("", "@") for pair in pairwise(words)),
        "except* statements": number(ast.TryStar),
        "f-strings": number(ast.JoinedStr),
        "lambdas": number(ast.Lambda),
        "match statements": number(ast.Match),
        "walruses": number(ast.NamedExpr),
        "yields": number(ast.Yield, ast.YieldFrom),
    }
    longest = [
        {"lines": (node.end_lineno or 0) - node.lineno + 1, "path": path, "line": node.lineno, "name": node.name}
        for node in functions
    ]
    with open_as_bytes(source) as text:
        lines = sum(1 for _ in text)
    return {
        "files": 1,
        "lines": lines,
        "functions": words.count("def"),
        "classes": words.count("class"),
        "imports": words.count("import"),
        "longest": longer(longest),
        "features": {name: times for name, times in features.items() if times},
    }


def significant_words(source: bytes) -> Iterator[str]:
    """Yield the tokens' texts; the beginning of each statement is an empty one."""
    begins = True
    for token in tokenize.tokenize(BytesIO(source).readline):
        if token.type == tokenize.NEWLINE:
            begins = True
        elif token.type not in BLANK:
            if begins:
                yield ""
            begins = False
            yield token.string


def open_as_bytes(source: bytes) -> TextIOWrapper:
    """Open as text of one byte per character, with universal newlines."""
    return TextIOWrapper(BytesIO(source), encoding="latin-1", newline=None)


def annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    """Yield the annotations of the function's own parameters and result."""
    if function.returns is not None:
        yield function.returns
    for child in ast.iter_child_nodes(function.args):
        if isinstance(child, ast.arg) and child.annotation is not None:
            yield child.annotation


def names_imported(tree: ast.AST) -> set[str]:
    """Return the top-level packages that the file imports, relative imports left out."""
    whole = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module}
    return {name.split(".")[0] for name in whole | parts}


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Add two counts."""
    features: dict[str, int] = dict(first["features"])
    for name, times in second["features"].items():
        features[name] = features.get(name, 0) + times
    return {
        **{name: first[name] + second[name] for name in ("files", "lines", "functions", "classes", "imports")},
        "longest": longer([function for function in (first["longest"], second["longest"]) if function]),
        "features": features,
    }


def longer(functions: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the longest; among equals, the first by path and line."""
    ordered = sorted(functions, key=lambda function: (function["path"], function["line"]))
    return max(ordered, key=lambda function: function["lines"], default=None)


if __name__ == "__main__":
    print(json.dumps(count([Path(name).resolve() for name in sys.argv[1:]]), indent=2, sort_keys=True))
