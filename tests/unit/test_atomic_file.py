"""Files that are replaced in one step."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nightshift.atomic_file import replacing, write_through


def test_a_reader_sees_the_old_content_until_the_block_has_succeeded(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    with replacing(path, mode=0o644) as draft:
        draft.write_text("new")
        write_through(draft)
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_content_stays_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        _write_a_part(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_share_no_draft_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _write_a_part(path: Path) -> None:
    with replacing(path) as draft:
        draft.write_text("a par")
        raise KeyboardInterrupt
