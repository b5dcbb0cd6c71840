"""Vectors of spec/store.md: `python -m tests.support.store_vectors` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from blake3 import blake3

from shoal.storage.segment_format import make_file_header, make_place, make_record_header, segment_name

PATH = Path(__file__).resolve().parents[2] / "spec" / "vectors" / "store.json"
OBJECTS = (b"", b"a sealed object", bytes(range(256)) * 3)


def make_vectors() -> dict[str, object]:
    """Return one segment with three records, byte by byte."""
    number = 7
    data = make_file_header(number)
    records = []
    for sealed in OBJECTS:
        object_id = blake3(sealed).digest()
        records.append({"id": object_id.hex(), "place": make_place(number, len(data)), "length": len(sealed)})
        data += make_record_header(object_id, len(sealed)) + sealed
    return {"name": segment_name(number), "number": number, "file": data.hex(), "records": records}


if __name__ == "__main__":
    PATH.write_text(json.dumps(make_vectors(), indent=1) + "\n")
