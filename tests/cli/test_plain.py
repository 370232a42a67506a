"""Foreign text made harmless, and tracebacks without the machinery between the command and the user's code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmesh.cli.plain import error_text, visible, visible_lines


@given(st.text(st.characters()))
def test_visible_is_one_printable_line(text: str) -> None:
    """Nothing is left that a terminal would act on, surrogates included."""
    shown = visible(text)
    assert shown.isprintable()
    shown.encode()


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_printable_text_stays(text: str) -> None:
    """What can be printed is shown as it is."""
    assert visible(text) == text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb", r"a\nb"),
        ("right\u202eleft", r"right\u202eleft"),
        ("\udc80", r"\udc80"),
        ("[bold]", "[bold]"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    """Controls, direction marks and surrogates become escapes; markup is only text."""
    assert visible(text) == shown


def test_further_lines_are_indented() -> None:
    """A text of several lines cannot pass for several lines of a log."""
    assert visible_lines("one\n12:00:00 ERROR\tforged\r\n") == "one\n    12:00:00 ERROR\tforged\\r\n    "


def test_traceback_keeps_its_own_frames_in_the_middle() -> None:
    """Only leading frames of the machinery are left out; a frame of it that the user's code called stays."""

    def user() -> None:
        visible(3)  # pyright: ignore[reportArgumentType] - raises inside the package

    with pytest.raises(AttributeError) as caught:
        user()
    text = error_text(caught.value)
    assert text.index("test_plain.py") < text.index("plain.py", text.index("in user"))


def test_cause_and_group_are_shown() -> None:
    """An error's cause, and each error of a group, are shown."""
    group = ExceptionGroup("both", [KeyError("left"), OSError("right\x07")])
    group.__cause__ = ValueError("the cause")
    text = error_text(group)
    for part in ("ValueError: the cause", "both (2 sub-exceptions)", "KeyError: 'left'", r"OSError: right\x07"):
        assert part in text
