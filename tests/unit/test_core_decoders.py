"""Decoders: threads that need one for the first time at the same moment do not bring the process down."""

from __future__ import annotations

import subprocess
import sys

from shoal.core.decoders import get_json_decoder, get_msgpack_decoder

FIRST_USE = """
import sys, threading
import msgspec
from shoal.core.decoders import get_json_decoder

sys.setswitchinterval(1e-6)
KINDS = []
for number in range(60):
    more = [(f"k{n}", dict[str, list[int]] | None, None) for n in range(20)]
    inner = msgspec.defstruct(f"Inner{number}", [("a", int), ("b", list[int]), *more])
    outer = [("x", int), ("y", list[inner]), ("z", inner | None, None)]
    KINDS.append(msgspec.defstruct(f"Outer{number}", outer))
barrier = threading.Barrier(8)

def use():
    for kind in KINDS:
        barrier.wait()
        assert get_json_decoder(kind).decode(b'{"x": 1, "y": [{"a": 1, "b": [1]}]}').x == 1

threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_first_use_by_several_threads_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()


def test_a_decoder_is_made_once() -> None:
    assert get_json_decoder(dict[str, int]) is get_json_decoder(dict[str, int])
    assert get_msgpack_decoder(list[int]).decode(b"\x91\x01") == [1]
