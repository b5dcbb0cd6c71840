"""Views: what people see of shares, transfers and progress, and what the shell is offered."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs
from rich.console import Console
from tests.support.fake_node import LINK, SHARE, FakeNode, serve

from shoal.api import schema as s
from shoal.cli import complete, people, progress
from shoal.cli.face import make_face, skipped_lines
from shoal.cli.main import main
from shoal.cli.progress import Step
from shoal.cli.transfers import RECENT, count_states, describe, select, select_recent
from shoal.core.units import GIB, MIB

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    with serve(str(tmp_path / "home")) as fake:
        yield fake


def transfer(number: int, state: s.TransferStateName) -> s.Transfer:
    return s.Transfer(f"{number:032x}", SHARE, state, 100, 50, 0.0, {})


# --- removals -----------------------------------------------------------------------------------------------


def test_who_has_not_confirmed_a_removal_is_named_within_80_columns() -> None:
    peers = [f"{number:052x}" for number in range(100)]
    assert people.describe_removal(s.Removal("sho1x", peers, [])) == [
        "removed; confirmed by 100 of 100 peers"
    ]
    lines = people.describe_removal(s.Removal("sho1x", peers[:5], peers[5:]))
    assert lines[0] == "removed; confirmed by 5 of 100 peers"
    assert lines[-1].endswith(" and 91 more")
    assert all(len(line) <= 80 for line in lines)
    assert "more" not in people.describe_removal(s.Removal("sho1x", [], peers[:2]))[-1]


# --- progress ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (
            Step("fetching", 10 * MIB, 50 * MIB, 10.0 * MIB, "anna 10.0 MiB"),
            "fetching 10.0 MiB of 50.0 MiB, 10.0 MiB/s, 4.0 s left  anna 10.0 MiB",
        ),
        (Step("finding", 0, None, 0.0, "looking for somebody"), "finding  looking for somebody"),
        (Step("fetching", 0, 50 * MIB), "fetching 0 B of 50.0 MiB"),
        (Step("reading", 3 * MIB, None, 2.0 * MIB), "reading 3.0 MiB, 2.0 MiB/s"),
        (Step("fetching", 1, 50 * GIB, 1.0), "fetching 1 B of 50.0 GiB, 1 B/s"),  # a year is no forecast
        (Step("finishing", 5 * MIB, 5 * MIB, 1.0 * MIB), "finishing 5.0 MiB of 5.0 MiB, 1.0 MiB/s"),
    ],
)
def test_a_line_of_progress_says_what_is_known(step: Step, line: str) -> None:
    assert step.line() == line


def test_the_longest_bar_fits_into_80_columns() -> None:
    bar = progress._make_bar()
    step = Step("verifying", 1023 * MIB + MIB // 2, 1023 * GIB, 12.3 * MIB)
    task = bar.add_task("", total=None, rate="", size="", left="")
    bar.update(task, description=step.word, completed=step.done_bytes, total=step.total_bytes)
    bar.update(task, size=step.size, rate=step.rate, left=step.left)
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(bar.get_renderable())
    (line,) = [line for line in out.getvalue().splitlines() if line.strip()]
    assert len(line) <= 80
    assert "…" not in line
    assert step.size in line
    assert line.rstrip().endswith(step.left)


def test_a_rate_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    rate = progress._Rate()
    assert rate.measure(0) == 0.0
    for second in range(1, 20):
        now = float(second)
        assert rate.measure(second * 100) == pytest.approx(100.0)
    now = 40.0
    assert rate.measure(1900) < 1.0 + 100.0
    now = 50.0
    assert rate.measure(1900) == 0.0
    assert rate.measure(10) == 0.0  # it began anew


# --- tables -----------------------------------------------------------------------------------------------


def test_one_share_is_shown_in_full_with_its_link(node: FakeNode, capsys: Captured) -> None:
    node.skipped = ["photos/fifo"]
    for text in ("photos", SHARE, SHARE[:12], LINK, "/home/anna/photos"):
        assert main(["shares", text]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"  link     {LINK}" in lines
        assert "  skipped: photos/fifo" in lines
    assert main(["shares", "nothing"]) == 2
    assert "shoal shares" in capsys.readouterr().err


def test_links_are_never_cut(node: FakeNode, capsys: Captured) -> None:
    assert main(["shares", "--links"]) == 0
    assert capsys.readouterr().out == f"{LINK}  photos\n"


def test_reasons_stand_behind_what_was_skipped() -> None:
    assert skipped_lines(["a", "b\x1b"], ["it is a pipe", ""]) == [
        "skipped: a (it is a pipe)",
        "skipped: b\\x1b",
    ]
    assert skipped_lines(["a"], None) == ["skipped: a"]


def test_transfers_that_ended_long_ago_are_left_out() -> None:
    ended = [transfer(n, "done") for n in range(RECENT + 3)]
    running = [transfer(100, "fetching"), transfer(101, "paused")]
    found = [running[0], *ended[:3], running[1], *ended[3:]]
    assert select_recent(found) == [*running, *ended[3:]]
    assert select_recent(ended[:RECENT]) == ended[:RECENT]


def test_transfers_are_counted_and_chosen_by_state() -> None:
    states = ["done", "fetching", "queued", "failed", "finding", "paused", "done", "verifying"]
    found = [transfer(number, state) for number, state in enumerate(states)]
    assert count_states(found) == "3 running, 1 queued, 1 paused, 1 failed, 2 done"
    assert select(found, running=False, failed=False) == found
    assert [x.state for x in select(found, running=True, failed=False)] == [
        state for state in states if state not in ("done", "failed")
    ]
    assert [x.state for x in select(found, running=False, failed=True)] == ["failed"]
    assert len(select(found, running=True, failed=True)) == 6


def test_what_is_in_the_background_is_marked_until_it_ends(tmp_path: Path) -> None:
    face = make_face(str(tmp_path), False)
    detail = s.TransferDetail(
        id="f" * 32,
        share_id=SHARE,
        state="fetching",
        bytes=100,
        done_bytes=50,
        rate_bytes_s=0.3,
        providers={},
        name="photos",
        dest="/in",
        revision=1,
        note="",
        error=None,
        fault=None,
        result=None,
        background=True,
    )
    _, row = describe(face, [detail])
    assert row.split() == ["f" * 12, "fetching,", "background", "50%", "100", "B", "-", "photos", "in", "/in"]
    _, row = describe(face, [structs.replace(detail, state="done")])
    assert "background" not in row


# --- the shell --------------------------------------------------------------------------------------------


def test_the_shell_is_offered_what_the_node_knows(node: FakeNode) -> None:
    assert complete.peers("b") == ["bert"]
    assert complete.peers("x") == []
    assert complete.shares("ph") == ["photos"]
    assert complete.transfers("") == ["t1"]
    assert complete.pins("") == ["photos"]


def test_the_shell_is_offered_nothing_where_no_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "nothing"))
    assert complete.peers("") == []
