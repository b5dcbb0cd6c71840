"""Scenarios: those of scenarios/ hold their bounds; a seed replays; what fails is made smaller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.sim.test_determinism import run

from shoal.core.errors import ConfigFault
from shoal.sim.cli import main
from shoal.sim.overlay_commands import run_broadcast
from shoal.sim.run_command import run_scenario, shrink
from shoal.sim.scenario import Bound, Fault, Scenario, read_scenario, write_scenario

FOLDER = Path(__file__).parents[2] / "scenarios"
SMALL = sorted(FOLDER.glob("*.toml"))
SEED = 1


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_scenario_holds_its_bounds(path: Path) -> None:
    found = run_scenario(read_scenario(str(path)), SEED)
    assert [row for row in found["bounds"] if not row["ok"]] == [], f"{path.name}, seed {SEED}"


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.toml")), ids=lambda path: path.stem)
def test_a_scenario_can_be_read_written_and_read_again(path: Path, tmp_path: Path) -> None:
    scenario = read_scenario(str(path))
    assert scenario.bounds, "a scenario without bounds shows nothing"
    again = tmp_path / "again.toml"
    again.write_text(write_scenario(scenario))
    assert read_scenario(str(again)) == scenario


def test_two_runs_of_a_seed_print_the_same_bytes() -> None:
    arguments = ["run", str(FOLDER / "mass-crash.toml")]
    assert run(arguments, "1") == run(arguments, "2")


FAILING = Scenario(
    nodes=64,
    minutes=8.0,
    settle_minutes=2.0,
    broadcasts_per_minute=6.0,
    faults=(Fault("stall", 30.0, 0.1, 10.0), Fault("crash", 60.0, 0.5)),
    bounds=(Bound("late_s", None, 0.001), Bound("parts", None, 1.0)),
)


def test_what_fails_is_made_smaller_and_still_fails() -> None:
    smallest = shrink(FAILING, SEED)
    assert smallest.nodes < FAILING.nodes
    assert smallest.minutes < FAILING.minutes
    assert smallest.faults == ()
    rows = {row["name"]: row["ok"] for row in run_scenario(smallest, SEED)["bounds"]}
    assert rows == {"late_s": False, "parts": True}


def test_what_does_not_fail_stays_as_it_is() -> None:
    fine = replace(FAILING, nodes=20, minutes=2.0, faults=(), bounds=(Bound("parts", None, 1.0),))
    assert shrink(fine, SEED) == fine


def test_what_can_no_longer_be_measured_is_another_fault() -> None:
    """Without broadcasts nothing is late, which fails too; a smaller scenario has to be late."""
    few = replace(FAILING, nodes=16, minutes=6.0, settle_minutes=1.0, broadcasts_per_minute=2.0, faults=())
    late = replace(few, bounds=(Bound("late_s", None, 0.001),))
    smallest = shrink(late, SEED)
    (row,) = run_scenario(smallest, SEED)["bounds"]
    assert row["value"] is not None
    assert not row["ok"]


def test_a_failing_run_says_how_to_see_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(write_scenario(replace(FAILING, nodes=16, minutes=3.0)))
    assert main(["run", str(path), "--seed", "5"]) == 1
    shown = capsys.readouterr()
    assert f"python -m shoal.sim run {path} --seed 5 --shrink" in shown.err
    assert "FAIL late_s" in shown.out


@pytest.mark.parametrize(
    ("text", "line", "key", "allowed"),
    [
        ("nodes = 1\nminutes = 2\n", 1, "nodes", "2 to 100000"),
        ("nodes = 10\nminutes = 2\nseed = 4\n", 3, "seed", "nodes, minutes"),
        ('nodes = 10\nminutes = 2\n\n[network]\nlatency = "fast"\n', 5, "network.latency", "sites | steady"),
        ("nodes = 10\nminutes = 2\n[load]\nrate = 2\n", 4, "load.rate", "broadcasts_per_minute"),
        (
            'nodes = 10\nminutes = 2\n[[fault]]\nkind = "cut"\nat_s = 1\n[[fault]]\nat_s = 2\nkind = "x"\n',
            8,
            "fault.kind",
            "crash | cut | flap",
        ),
        ('nodes = 10\nminutes = 2\n[[fault]]\nkind = "cut"\n', 3, "fault.at_s", "a number"),
        ("nodes = 10\nminutes = 2\n[bounds]\nspeed = { min = 1 }\n", 4, "bounds.speed", "delivered"),
        ("nodes = 10\nminutes = 2\n[bounds]\nparts = 1\n", 4, "bounds.parts", "min = number"),
        (
            "nodes = 10\nminutes = 2\n[bounds]\nparts = { min = 2, max = 1 }\n",
            4,
            "bounds.parts",
            "min up to max",
        ),
        ("nodes = 10\nminutes = 2\nload = { rate = 1 }\n", 3, "load.rate", "broadcasts_per_minute"),
        ("nodes = 10\nminutes = 2\n[network.loss]\nx = 1\n", 3, "network.loss", "a number, 0 to 1"),
        ("nodes = 10\nminutes = 2\nfault = [1]\n", 3, "fault", "[[fault]]"),
        ("nodes = true\nminutes = 2\n", 1, "nodes", "whole number"),
        ("nodes = 10\nminutes = nan\n", 2, "minutes", "0.1 to"),
    ],
)
def test_a_wrong_key_is_named_with_its_line_and_what_is_allowed(
    text: str, line: int, key: str, allowed: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigFault) as caught:
        read_scenario(str(path))
    assert f"{path}, line {line}: {key}: " in caught.value.message
    assert allowed in caught.value.next_step


@pytest.mark.parametrize(
    "data",
    [
        b"nodes = = 3",
        b"\xff\xfe",
        b"minutes = 3\n",
        b"#" * 70_000,
        b"nodes = 10\nminutes = 1\n",  # without bounds
        b"a = " + b"[" * 30_000 + b"]" * 30_000,
    ],
)
def test_what_cannot_be_read_at_all_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigFault, match=r"wrong\.toml"):
        read_scenario(str(path))
    assert main(["run", str(path)]) == 3


def test_a_wrong_value_or_key_does_not_flood_or_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    for text in ('minutes = "' + "x" * 60_000 + '"\n', '"a\\u001b[31m" = 1\n', "y" * 60_000 + " = 1\n"):
        path.write_text(text)
        with pytest.raises(ConfigFault) as caught:
            read_scenario(str(path))
        assert len(caught.value.message) < 300 + len(str(path))
        assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ["views", "--nodes", "1"],
        ["views", "--cycles", "nan"],
        ["views", "--cycles", "many"],
        ["broadcast", "--messages", "0"],
        ["broadcast", "--messages", "99999999999"],
        ["broadcast", "--messages", "9" * 5000],
        ["broadcast", "--crash", "1"],
        ["detect", "--nodes", "2"],
        ["detect", "--anomalous", "-1"],
        ["broadcast", "--loss", "inf"],
        ["broadcast", "--mode", "flood"],
        ["views", "--seed", "one"],
        ["merge", "--split-s", "nan"],
        ["idle", "--minutes", "0"],
        ["calibrate", "--nodes", "2"],
        ["merge", "--split-s", "-1"],
        ["run"],
        [],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_absurd_numbers_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert len(capsys.readouterr().err) < 1000


def test_more_members_than_there_are_cannot_stall(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--nodes", "8", "--anomalous", "9"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "--anomalous: 9 of 8 members cannot stall\nallowed: a whole number, 0 to 8, as --nodes has it\n"
    )


def test_a_crash_leaves_one_and_nobody_left_to_reach_is_nobody_missed() -> None:
    found = run_broadcast(3, 2, 0.999, 0.0, "plumtree", SEED)
    assert found["delivered"]["by_message"] == [1.0, 1.0]


def test_ctrl_c_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(scenario: Scenario, seed: int) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("shoal.sim.cli.run_scenario", interrupt)
    assert main(["run", str(SMALL[0]), "--json"]) == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "interrupted: nothing was found; the same command begins anew\n"


def test_a_file_that_is_not_there_is_named() -> None:
    assert main(["run", "nowhere.toml"]) == 3
