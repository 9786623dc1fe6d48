"""JSON Lines of a machine that went down while it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from poa_plugin.files import keep_lines_before, read_lines

DAMAGED = [b'{"step": 2, "lo', b"\0\0\0\0", b"\xff\xfe{}", b"7", b"[1]", b"null", b"{}"]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_line_that_is_no_record_is_dropped(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "metrics.jsonl"
    whole = b'{"step": 0}\n{"step": 1}\n'
    file.write_bytes(whole + line + b"\n")
    assert [record["step"] for record in read_lines(file) if record] == [0, 1]
    keep_lines_before(file, 5)
    assert file.read_bytes() == whole
