"""Files that carry their digest: whole or not there."""

from __future__ import annotations

from random import Random

import pytest

from nightshift import sealed_file


@pytest.mark.parametrize("content", [b"", b"x", b"one\ntwo\n", bytes(10_000)])
def test_what_was_written_is_read(tmp_path, content):
    sealed_file.write(tmp_path / "deep" / "file", content)
    assert sealed_file.read(tmp_path / "deep" / "file") == content
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_nothing_is_read_when_there_is_no_file(tmp_path):
    assert sealed_file.read(tmp_path / "file") is None
    assert sealed_file.read(tmp_path) is None


def test_no_turned_bit_and_no_missing_end_is_read_as_content(tmp_path):
    path, content = tmp_path / "file", bytes(range(256)) * 8
    sealed_file.write(path, content)
    whole, dice = path.read_bytes(), Random(1)  # noqa: S311 - reproducible damage, no secret
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        assert sealed_file.read(path) in (
            None,
            content,
        )  # the line end between digest and content says nothing
        path.write_bytes(whole[: dice.randrange(len(whole))])
        assert sealed_file.read(path) is None


def test_the_old_file_stands_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "file"
    sealed_file.write(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nightshift.atomic_file.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        sealed_file.write(path, b"new")
    assert sealed_file.read(path) == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
