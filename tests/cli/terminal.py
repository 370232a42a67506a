"""A terminal as tests need it: it does what the sequences that Flowmesh writes ask for, and refuses all others."""

import re
import unicodedata
from typing import Final

__all__ = ["Terminal"]

_TOKEN: Final = re.compile(
    r"\x1b\[(?P<private>\?)?(?P<number>[\d;]*)(?P<final>[A-Za-z])|(?P<control>[\x00-\x1f\x7f])|(?P<sign>.)"
)


class Terminal:
    """A screen of so many columns and lines; what scrolls off its top is kept in `gone`."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns = columns
        self.height = lines
        self.cells = [[" "] * columns for _ in range(lines)]
        self.gone: list[str] = []
        self.row = self.column = 0
        self.cursor_visible = True
        self.erased = 0
        """Cells that were not blank and were erased, to be written again or not: what flickers."""

    def feed(self, text: str) -> None:
        """Take what a program wrote, with the line ends of a terminal: return and feed."""
        end = 0
        for token in _TOKEN.finditer(text):
            assert token.start() == end, f"unknown: {text[end : token.start()]!r}"
            end = token.end()
            if token["sign"]:
                self._put(token["sign"])
            elif token["control"]:
                self._control(token["control"])
            elif token["private"]:
                assert token["number"] == "25", f"unknown: {token[0]!r}"
                self.cursor_visible = token["final"] == "h"
            else:
                self._sequence(token["number"], token["final"])
        assert end == len(text), f"unknown: {text[end:]!r}"

    @property
    def display(self) -> list[str]:
        """The lines of the screen, without the blanks at their ends."""
        return ["".join(row).rstrip() for row in self.cells]

    @property
    def text(self) -> str:
        """Everything that was written and not erased, with a line's end after each line down to the cursor."""
        return "".join(f"{line}\n" for line in [*self.gone, *self.display[: self.row + bool(self.column)]])

    def _put(self, sign: str) -> None:
        width = 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        if self.column + width > self.columns:
            self._control("\r")
            self._control("\n")
        self.cells[self.row][self.column : self.column + width] = [sign, *[""] * (width - 1)]
        self.column += width

    def _control(self, control: str) -> None:
        assert control in "\r\n", f"unknown: {control!r}"
        if control == "\r":
            self.column = 0
        elif self.row + 1 < self.height:
            self.row += 1
        else:
            self.gone.append(self.display[0])
            self.cells = [*self.cells[1:], [" "] * self.columns]

    def _sequence(self, number: str, final: str) -> None:
        match final, number:
            case "m", _:
                pass
            case "A", _:
                self.row = max(0, self.row - int(number or "1"))
            case "K", "":
                self._erase(self.row, self.column)
            case "J", "":
                for row in range(self.row, self.height):
                    self._erase(row, self.column if row == self.row else 0)
            case _:
                raise AssertionError(f"unknown: {number}{final}")

    def _erase(self, row: int, column: int) -> None:
        self.erased += sum(1 for cell in self.cells[row][column:] if cell != " ")
        self.cells[row][column:] = [" "] * (self.columns - column)
