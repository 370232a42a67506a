"""Read the README and the pages of docs/: their code blocks, and the paths that they name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

__all__ = ["PAGES", "ROOT", "Snippet", "snippets_of"]

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts),
)

_BLOCK: Final = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


class Snippet(Struct, frozen=True):
    """One block of Python on a page. `line`: where its code begins. `output`: the `text` block right after it, if any."""

    page: str
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets_of(page: str) -> Iterator[Snippet]:
    """Yield the Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(_BLOCK.finditer(text))
    for number, block in enumerate(blocks):
        if block["language"] != "python":
            continue
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        belongs = after is not None and after["language"] == "text" and not text[block.end() : after.start()].strip()
        yield Snippet(
            page=page,
            line=text.count("\n", 0, block.start("code")) + 1,
            code=block["code"],
            output=after["code"] if after is not None and belongs else None,
        )
