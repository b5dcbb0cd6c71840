from __future__ import annotations

import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tools.bench import measuring
from tools.bench.__main__ import is_trial, parse_options, write_page
from tools.bench.bars import BARS, cpu_ratios, efficiencies, rate_ratios, verdicts
from tools.bench.contenders import CONTENDERS, RIVALS
from tools.bench.contenders.contender import clean_environment, end_tree, free_port
from tools.bench.measuring import (
    CLOCK_TICKS,
    End,
    MemoryReserve,
    Process,
    filesystem_of,
    find_difference,
    find_tree,
    parse_stat,
    read_processes,
    tree_cpu_s,
)
from tools.bench.plot import draw, make_panels
from tools.bench.primitives import PRIMITIVES, chunk_lengths, measure_primitives
from tools.bench.race import order
from tools.bench.results import ORDER, describe_machine, read_results, rounded, write_result
from tools.bench.tables import BEGIN, END, make_grid, put_measured, spread, to_markdown
from tools.bench.workloads import WORKLOADS
from tools.bench.workloads.latency import percentile
from tools.bench.workloads.small import write_small_files

from shoal.core.units import MIB


def series(seconds: list[float], cpu: list[float]) -> dict[str, Any]:
    return {
        "how": "",
        "seconds": seconds,
        "sender_cpu_s": cpu,
        "receiver_cpu_s": cpu,
        "sender_stages_s": [{"read": 0.25}] * len(seconds),
        "receiver_stages_s": [],
        "peak_bytes": [50 * MIB, 60 * MIB],
    }


def race(workload: str = "large", files: int = 1) -> dict[str, Any]:
    """Shoal twice as fast as libtorrent with half its CPU; slower than rsync; no Syncthing."""
    return {
        "workload": workload,
        "filesystem": "tmpfs",
        "rounds": 2,
        "when": "2026-01-01 00:00 UTC",
        "machine": {"cores": 2, "kernel": "6.1"},
        "load_before": 0.1,
        "note": "",
        "bytes": 1024 * MIB,
        "files": files,
        "contenders": {
            "shoal": series([2.0, 4.0], [0.5, 0.5]),
            "libtorrent": series([4.0, 8.0], [1.0, 1.0]),
            "rsync": series([1.0, 2.0], [0.5, 0.5]),
        },
        "absent": {"syncthing": "not installed"},
    }


def test_stat_with_an_evil_name_is_read_from_its_last_bracket() -> None:
    fields = ["S", "7"] + ["0"] * 9 + ["100", "20", "3", "4"] + ["0"] * 30
    assert parse_stat(f"12 (a) (b c) {' '.join(fields)}") == Process(7, 127 / CLOCK_TICKS)


def test_a_tree_is_a_process_with_all_that_descend_from_it() -> None:
    processes = {1: Process(0, 50), 2: Process(1, 1), 3: Process(2, 2), 4: Process(3, 4), 5: Process(1, 8)}
    assert find_tree(2, processes) == [2, 3, 4]
    assert tree_cpu_s(2, processes) == 7
    assert find_tree(9, processes) == []


def test_cpu_of_children_that_ended_counts() -> None:
    before = End([os.getpid()]).cpu_s()
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert End([os.getpid()]).cpu_s() - before >= 0.25
    assert End([], spent_s=1.5).cpu_s() == 1.5
    assert End([os.getpid()]).pss_bytes() > MIB


def test_the_filesystem_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    real = tmp_path.resolve()
    mounts = f"a / ext4 rw 0 0\nb {real.parent} xfs rw 0 0\nc {real} tmpfs rw 0 0\nd {real}x vfat rw 0 0\n"
    assert filesystem_of(tmp_path, mounts) == "tmpfs"
    assert filesystem_of(tmp_path.parent, mounts) == "xfs"


def test_trees_are_compared_by_names_and_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_small_files(one, 120, 10)
    assert sorted(p.name for p in one.iterdir()) == ["folder 0000", "folder 0001"]
    subprocess.run(["cp", "-r", one, two], check=True)
    (two / ".marker").mkdir()
    assert find_difference(one, two) is None
    (two / "folder 0001" / "file 000100").write_bytes(b"other")
    assert "other bytes" in (find_difference(one, two) or "")
    (two / "more").touch()
    assert "other names" in (find_difference(one, two) or "")
    assert "missing" in (find_difference(one, tmp_path / "none") or "")


def test_everybody_begins_once() -> None:
    assert [order(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(order(["a", "b", "c"], 2)) == ["a", "b", "c"]


def test_ratios_are_of_one_round() -> None:
    assert rate_ratios(race(), "libtorrent") == [2.0, 2.0]
    assert cpu_ratios(race(), "libtorrent") == [0.5, 0.5]
    assert rate_ratios(race(), "syncthing") == []


def test_bars_say_what_is_met_and_what_not() -> None:
    lines = verdicts(race())
    assert lines == [
        "met: rate by libtorrent's >= 2 x, measured 2.00 x",
        "met: CPU by libtorrent's <= 0.65 x, measured 0.50 x",
    ]
    slow = race()
    slow["contenders"]["shoal"] = series([8.0, 8.0], [3.0, 3.0])
    assert [line.split(":")[0] for line in verdicts(slow)] == ["MISSED", "MISSED"]
    assert {bar.workload for bar in BARS} == set(WORKLOADS)


def test_efficiency_is_what_the_steps_cost_alone_by_what_was_used() -> None:
    with_steps = race() | {"primitives_s_gib": {"read": [0.25, 0.5], "write": [0.25, 0.5]}}
    assert efficiencies(with_steps) == [0.5, 1.0]
    assert efficiencies(race()) == []
    assert "MISSED: efficiency, primitives by CPU >= 0.8, measured 0.75" in verdicts(with_steps)
    steps = make_grid(with_steps).remarks[-1]
    assert "read 0.38, write 0.38; together 0.75; efficiency 0.75 (0.50-1.00)" in steps


def test_every_step_is_measured_at_the_sizes_of_real_chunks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(8 * MIB + 5))
    lengths = chunk_lengths(source)
    assert sum(lengths) == 8 * MIB + 5
    assert all(128 * 1024 <= length <= MIB for length in lengths[:-1])
    found = measure_primitives(source, tmp_path)
    assert tuple(found) == PRIMITIVES
    assert all(0 < seconds < 100 for seconds in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_reserve_of_memory_is_handed_over_as_files_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, handed = [0], threading.Event()
    monkeypatch.setattr(measuring, "filesystem_of", lambda _: "tmpfs")
    monkeypatch.setattr(measuring, "RESERVE_LEAD_BYTES", MIB)
    monkeypatch.setattr(measuring, "_used_bytes", lambda _: used[0])
    lengths: list[int] = []

    def truncate(fd: int, length: int) -> None:
        lengths.append(length)
        os.truncate(fd, length)
        if len(lengths) == 2:
            handed.set()

    monkeypatch.setattr(measuring.os, "ftruncate", truncate)
    with MemoryReserve(tmp_path, 4 * MIB):
        assert lengths == [3 * MIB]
        used[0] += 2 * MIB
        assert handed.wait(10)
        assert lengths == [3 * MIB, MIB]
        assert list(tmp_path.iterdir()) == []


def test_the_table_says_where_shoal_loses_and_who_is_absent() -> None:
    grid = make_grid(race())
    assert grid.rows[0][:2] == ["shoal", "384 (256-512)"]
    assert grid.rows[1][-2:] == ["2.00 (2.00-2.00)", "0.50 (0.50-0.50)"]
    assert "Shoal LOSES: rsync is 2.00 times as fast" in grid.remarks
    assert "syncthing: skipped, not installed" in grid.remarks
    assert "Shoal's sender, CPU s by stage: read 0.25, other 0.25" in grid.remarks
    assert make_grid(race(files=5000)).columns[1] == "files/s"


def test_facts_have_a_column_for_each_word() -> None:
    result = race("latency") | {"rows": {"quiet": {"p99_ms": 1.0}, "full transfer": {"p99_ms": 80.0}}}
    del result["contenders"]
    grid = make_grid(result)
    assert grid.columns == ["", "p99_ms"]
    assert grid.rows == [["quiet", "1"], ["full transfer", "80"]]
    assert grid.remarks[0].startswith("MISSED: p99")


def test_markdown_goes_between_the_marks() -> None:
    text = to_markdown(make_grid(race()), "large.tmpfs.svg")
    assert "| --- |" in text
    assert "(large.tmpfs.svg)" in text
    page = put_measured(f"before\n{BEGIN}\nold\n{END}\nafter\n", text)
    assert page.startswith("before\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    assert put_measured(page, text) == page
    with pytest.raises(ValueError, match="marks"):
        put_measured("no marks", text)


def test_the_picture_is_well_formed() -> None:
    picture = ElementTree.fromstring(draw("a <title> & more", make_panels(race())))
    assert picture.tag.endswith("svg")
    assert len([e for e in picture if e.tag.endswith("rect")]) == 7  # the ground, and three bars twice


def test_the_picture_of_the_stages_has_a_bar_for_each(tmp_path: Path) -> None:
    result = race() | {"primitives_s_gib": {"read": [0.125, 0.125]}}
    write_result(tmp_path, result)
    write_page(tmp_path)
    text = (tmp_path / "pipeline.tmpfs.svg").read_text()
    picture = ElementTree.fromstring(text)
    assert "0.25 (alone 0.12)" in text
    # the ground; three stages and the rest of the sender, one step alone; the rest of the receiver
    assert len([e for e in picture if e.tag.endswith("rect")]) == 7


def test_results_come_back_in_order(tmp_path: Path) -> None:
    for workload, place in (("small", "ext4"), ("small", "tmpfs"), ("large", "tmpfs"), ("large", "ext4")):
        write_result(tmp_path, race(workload) | {"filesystem": place})
    found = [(r["workload"], r["filesystem"]) for r in read_results(tmp_path)]
    assert found == [("large", "tmpfs"), ("small", "tmpfs"), ("large", "ext4"), ("small", "ext4")]
    assert tuple(WORKLOADS) == ORDER
    assert rounded({"a": [1.234567]}) == {"a": [1.2346]}
    assert describe_machine()["cores"] == os.cpu_count()


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentile(share: float, value: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == value


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0-3.0)"
    assert spread([]) == "-"


def test_options_choose_workloads_and_rivals() -> None:
    options = parse_options(["--only", "large, small", "--rivals", "rsync"])
    assert options.only == ("large", "small")
    assert options.rivals == ("rsync",)
    assert not is_trial(options)
    assert parse_options(["--rivals", ""]).rivals == ()
    assert parse_options([]).rivals == RIVALS
    assert is_trial(parse_options(["--size-mib", "64"]))
    with pytest.raises(SystemExit):
        parse_options(["--only", "larger"])


def test_contenders_have_names_of_their_own() -> None:
    assert len({kind.name for kind in CONTENDERS}) == len(CONTENDERS) == len(RIVALS) + 1
    assert all(kind.how for kind in CONTENDERS)


def test_rivals_find_nothing_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    assert clean_environment(tmp_path, MORE="2")["HOME"] == str(tmp_path)
    assert "SECRET_OF_MINE" not in clean_environment(tmp_path)
    assert 0 < free_port() < 65536


def test_a_tree_is_ended_whole() -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['cat']); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    end_tree(process.pid)
    assert process.pid not in read_processes()
    assert not os.path.exists(f"/proc/{child}") or "Z" in Path(f"/proc/{child}/stat").read_text()
    process.communicate()
