"""Rules of the table, the JSON and the command."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import benchmarks.__main__ as command
from benchmarks.harness import Bound, Figure, Row, Scenario, summarise
from benchmarks.report import Report, show, surroundings, table, write_json


async def _costly(scale: float) -> Sequence[float]:
    del scale
    return (1e12,)


async def _cheap(scale: float) -> Sequence[float]:
    del scale
    return (1e-3,)


FIGURE = Figure.alike("cost", "x", Bound(4.0, 2.0))
COSTLY = Scenario("slow", "always above its gate", (FIGURE,), _costly)
CHEAP = Scenario("fast", "always reaches its goal", (FIGURE,), _cheap)
TRIO_ONLY = Scenario("channel", "on one backend", (FIGURE,), _cheap, ("trio",))


@pytest.fixture
def scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put scenarios whose outcome is certain in the place of the real ones."""
    monkeypatch.setattr(command, "SCENARIOS", {each.name: each for each in (COSTLY, CHEAP, TRIO_ONLY)})


def _report() -> Report:
    rows: list[Row] = [
        summarise(COSTLY, FIGURE, "asyncio", [1000.0, 1200.0, 1400.0], [200.0, 200.0, 200.0]),
        summarise(CHEAP, FIGURE, "trio", [100.0, 100.0, 100.0], [200.0, 200.0, 200.0]),
    ]
    return Report(surroundings(pinned=1, repeats=3, scale=1.0), rows)


def test_columns_line_up() -> None:
    """A table is Markdown, and readable without being rendered."""
    assert table(("a", "long"), [("wide", "1"), ("b", "2")]).splitlines() == [
        "| a    | long |",
        "| ---- | ---- |",
        "| wide | 1    |",
        "| b    | 2    |",
    ]


def test_a_row_shows_ratio_bounds_and_verdict() -> None:
    """The table says what was reached, what is asked for, and what the unit cost here."""
    shown = show(_report()).splitlines()
    assert "medians of 3" in shown[0]
    assert "x = 0.20–0.20 µs" in shown[0]
    cells = [cell.strip() for cell in shown[4].strip("|").split("|")]
    assert cells == ["slow", "cost", "asyncio", "6.00 x", "5.00 … 7.00", "4", "2", "FAIL", "1.200"]


def test_failed_are_those_above_their_gate() -> None:
    """Only a gate that is broken fails."""
    assert [row.scenario for row in _report().failed] == ["slow"]


def test_json_carries_every_ratio_and_where_it_was_measured(tmp_path: Path) -> None:
    """The file is enough to judge the run again."""
    path = tmp_path / "results.json"
    write_json(_report(), path)
    written = json.loads(path.read_text())
    assert written["surroundings"].keys() >= {"python", "platform", "repeats", "pinned"}
    assert written["rows"][0]["ratios"] == [5.0, 6.0, 7.0]
    assert written["rows"][0]["median"] == 6.0
    assert written["rows"][0]["spread"] == pytest.approx(2 / 6)


@pytest.mark.usefixtures("scenarios")
@pytest.mark.parametrize(
    "arguments, code",
    [(["slow", "--gate"], 1), (["slow"], 0), (["fast", "--gate"], 0), (["fast", "slow", "--gate"], 1)],
)
def test_exit_code_is_one_when_a_gate_was_asked_for_and_fails(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without `--gate` a figure is only reported."""
    assert command.main([*arguments, "--quick", "--repeats", "1"]) == code
    printed = capsys.readouterr().out
    assert ("above their gate: slow cost (asyncio), slow cost (trio)" in printed) == (code == 1)


@pytest.mark.usefixtures("scenarios")
def test_backend_selects_the_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With one backend named, only what runs there is run; the file has the same rows as the table."""
    path = tmp_path / "results.json"
    assert command.main(["--backend", "trio", "--quick", "--repeats", "2", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["scenario"], row["backend"], len(row["ratios"])) for row in rows] == [
        ("slow", "trio", 2),
        ("fast", "trio", 2),
        ("channel", "trio", 2),
    ]
    assert capsys.readouterr().out.count("| trio ") == 3


@pytest.mark.usefixtures("scenarios")
@pytest.mark.parametrize(
    "arguments, error",
    [
        (["S99"], "unknown scenario 'S99'; there are slow, fast, channel"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["channel", "--backend", "asyncio"], "none of channel runs on asyncio"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is run when the arguments make no sense."""
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2
    assert error in capsys.readouterr().err


@pytest.mark.usefixtures("scenarios")
def test_profile_shows_where_the_time_goes(capsys: pytest.CaptureFixture[str]) -> None:
    """A profile names functions and measures nothing else."""
    assert command.main(["fast", "--backend", "asyncio", "--profile", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "fast: always reaches its goal (asyncio)" in printed
    assert "tottime" in printed
    assert "verdict" not in printed
