"""Limits between real daemons: they hold, change while a transfer runs, are kept, and spare control."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork, code_of, wait_until
from tools.measure_limits import find_deviation

from shoal.api.client import Client, connect
from shoal.testing.processes import CommandFailed
from shoal.testing.trees import write_random_file

MB = 1_000_000


def watch(client: Client, seconds: float) -> list[tuple[float, int]]:
    """Return (time, bytes received) of all lanes, ten times a second: what is done moves by whole chunks."""
    began, samples = time.monotonic(), []
    while (now := time.monotonic()) - began < seconds:
        samples.append((now - began, client.limits().received_bytes))
        time.sleep(0.1)
    return samples


def test_a_limit_holds_changes_and_is_kept(network: MakeNetwork, tmp_path: Path) -> None:
    anna, bert = network("anna", "bert")
    source = tmp_path / "source.bin"
    write_random_file(source, 48 << 20)
    link = anna.run("share", str(source), "--wait")["link"]
    shown = anna.run("limits", "--upload", "4 MB/s")
    assert shown["upload"]["rate_bytes_s"] == 4 * MB
    assert (shown["upload"]["source"], shown["download"]["source"]) == ("command", "default")
    with connect(str(bert.home)) as client, connect(str(anna.home)) as sender:
        started = client.start_get(link, tmp_path / "got")
        wait_until(lambda: client.transfers()[0].done_bytes > 2 * MB)
        low, high = find_deviation(watch(client, 3.5), 4 * MB, 0.3, 3.0)
        assert 0.9 < low <= high < 1.1  # of 3 s; what a busy machine missed is caught up
        assert sorted(client.ping("anna").rtt_ms or 99.0 for _ in range(9))[4] < 50
        before = sender.limits(upload="1 MB/s").sent_bytes
        time.sleep(1.5)
        assert sender.limits().sent_bytes - before < 2.4 * MB
        client.limits(download="2 MB/s")
        sender.limits(upload="unlimited")
        # a record of 1 MiB that was under way at the change was counted when it began: half a second's worth
        low, high = find_deviation(watch(client, 4.0), 2 * MB, 1.5, 2.0)
        assert 0.9 < low <= high < 1.1
        client.limits(download="default")
        assert client.wait_transfer(started).bytes == source.stat().st_size
    assert (tmp_path / "got" / "source.bin").read_bytes() == source.read_bytes()
    anna.stop()
    anna.up()
    assert anna.run("limits")["upload"] == {
        "rate_bytes_s": None,
        "source": "command",
        "why": shown["upload"]["why"],
    }
    assert bert.run("limits")["download"]["source"] == "default"


def test_limits_of_the_settings_of_a_peer_and_what_is_refused(network: MakeNetwork) -> None:
    anna, _ = network("anna", "bert")
    anna.stop()
    (anna.home / "config.toml").write_text(
        '[limits]\ndownload = "3 MB/s"\nmemory = "32 MiB"\n[limits.peers]\n'
        'bert = { upload = "500 kB/s" }\nzoe = { upload = "1 MB/s" }\n'
        '[[schedule]]\nfrom = "00:00"\nto = "24:00"\nupload = "7 MB/s"\n'
    )
    anna.up()
    shown = anna.run("limits")
    assert (shown["upload"]["rate_bytes_s"], shown["upload"]["source"]) == (7 * MB, "schedule")
    assert (shown["download"]["rate_bytes_s"], shown["download"]["source"]) == (3 * MB, "config")
    assert [(p["name"], p["upload"]["rate_bytes_s"]) for p in shown["peers"]] == [
        ("bert", 500_000),
        ("zoe", None),
    ]
    anna.run("limits", "--peer", "bert", "--upload", "2 MB/s", "--download", "1 MiB/s")
    (bert,) = anna.run("limits", "--peer", "bert")["peers"]
    assert (bert["upload"]["rate_bytes_s"], bert["download"]["rate_bytes_s"]) == (2 * MB, 1 << 20)
    text = anna.call("limits").stdout.splitlines()
    assert all(len(line) <= 80 for line in text)
    assert anna.run("doctor")["lane_buffer_limit_bytes"] == 32 << 20
    for arguments, code in (
        (("--upload", "10 parsecs"), "misuse"),
        (("--download", "1 kB/s"), "bad_rate"),
        (("--peer", "nobody"), "unknown_peer"),
        (("--peer", "anna", "--upload", "1 MB/s"), "own_peer"),
    ):
        with pytest.raises(CommandFailed) as caught:
            anna.run("limits", *arguments)
        assert code_of(caught) == (2, code)
